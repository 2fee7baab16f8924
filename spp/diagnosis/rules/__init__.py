"""The rules, by theme.

Importing this package registers them in causal order: what a later one finds may follow from what an earlier one did.
"""

from spp.diagnosis.rules import numbers as numbers  # isort: skip
from spp.diagnosis.rules import wiring as wiring  # isort: skip
from spp.diagnosis.rules import dead as dead  # isort: skip
from spp.diagnosis.rules import weights as weights  # isort: skip
from spp.diagnosis.rules import shift as shift  # isort: skip
from spp.diagnosis.rules import norms as norms  # isort: skip
from spp.diagnosis.rules import residual as residual  # isort: skip
from spp.diagnosis.rules import cliffs as cliffs  # isort: skip
from spp.diagnosis.rules import gradients as gradients  # isort: skip
from spp.diagnosis.rules import travel as travel  # isort: skip
from spp.diagnosis.rules import balance as balance  # isort: skip
from spp.diagnosis.rules import formats as formats  # isort: skip
