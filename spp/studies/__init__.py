"""The published experiments that this toolkit descends from, to be run again with one command each.

published = spp.studies.run(spp.studies.find("thesis-ffn"), "studies/thesis-ffn")
published.verdicts
"""

from __future__ import annotations

from spp.registry import Registry
from spp.studies import affine_batchnorm, neuronwise, nf_resnet, thesis_effnet, thesis_ffn
from spp.studies.publish import Published as Published
from spp.studies.run import Progress as Progress
from spp.studies.run import StudyError as StudyError
from spp.studies.run import draw as draw
from spp.studies.run import run as run
from spp.studies.study import Cell as Cell
from spp.studies.study import Claim as Claim
from spp.studies.study import Outcome as Outcome
from spp.studies.study import Results as Results
from spp.studies.study import Setup as Setup
from spp.studies.study import Size as Size
from spp.studies.study import Study as Study
from spp.studies.study import Verdict as Verdict

STUDIES = Registry[Study](
    "study",
    {room.STUDY.name: room.STUDY for room in (thesis_ffn, thesis_effnet, affine_batchnorm, neuronwise, nf_resnet)},
    of=Study,
    describe=lambda study: study.title,
)
"""Every study by name."""


def names() -> tuple[str, ...]:
    """Names of the studies."""
    return STUDIES.names


def find(name: str) -> Study:
    """The study of that name.

    Raises:
        UnknownNameError: There is none.
    """
    return STUDIES.row(name, where="study")
