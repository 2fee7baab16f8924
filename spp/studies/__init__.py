"""The published experiments that this toolkit descends from, to be run again with one command each.

published = spp.studies.run(spp.studies.find("thesis-ffn"), "studies/thesis-ffn")
published.verdicts
"""

from __future__ import annotations

from importlib import import_module

from spp.errors import UnknownNameError
from spp.studies.publish import Published as Published
from spp.studies.run import Progress as Progress
from spp.studies.run import StudyError as StudyError
from spp.studies.run import run as run
from spp.studies.study import Cell as Cell
from spp.studies.study import Claim as Claim
from spp.studies.study import Outcome as Outcome
from spp.studies.study import Results as Results
from spp.studies.study import Setup as Setup
from spp.studies.study import Study as Study
from spp.studies.study import Verdict as Verdict

STUDIES: dict[str, str] = {
    "thesis-ffn": "spp.studies.thesis_ffn",
    "thesis-effnet": "spp.studies.thesis_effnet",
    "affine-batchnorm": "spp.studies.affine_batchnorm",
    "neuronwise": "spp.studies.neuronwise",
    "nf-resnet": "spp.studies.nf_resnet",
}
"""Name of each study and the module that holds it as ``STUDY``."""


def names() -> tuple[str, ...]:
    """Names of the studies."""
    return tuple(STUDIES)


def find(name: str) -> Study:
    """The study of that name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in STUDIES:
        raise UnknownNameError("study", str(name), STUDIES, where="study")
    study: Study = import_module(STUDIES[name]).STUDY
    return study
