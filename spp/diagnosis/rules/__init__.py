"""The rules, by theme.

Importing this package registers them in causal order: what a later one finds may follow from what an earlier one did.
"""

from spp.diagnosis.rules import loss as loss  # isort: skip
from spp.diagnosis.rules import wiring as wiring  # isort: skip
from spp.diagnosis.rules import learning as learning  # isort: skip
from spp.diagnosis.rules import over_time as over_time  # isort: skip
from spp.diagnosis.rules import broken as broken  # isort: skip
from spp.diagnosis.rules import layers as layers  # isort: skip
from spp.diagnosis.rules import residual as residual  # isort: skip
from spp.diagnosis.rules import outlier_layers as outlier_layers  # isort: skip
from spp.diagnosis.rules import travel as travel  # isort: skip
from spp.diagnosis.rules import notes as notes  # isort: skip

loss.register_course()
