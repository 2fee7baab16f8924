"""What a trace says about its network: what is wrong, where it begins, what to try; and what changed since another run."""

from spp.diagnosis import rules as _rules  # registers them
from spp.diagnosis.findings import EVERYTHING as EVERYTHING
from spp.diagnosis.findings import Finding as Finding
from spp.diagnosis.findings import Findings as Findings
from spp.diagnosis.registry import RULES as RULES
from spp.diagnosis.registry import diagnose as diagnose
from spp.diagnosis.registry import find as find
from spp.diagnosis.registry import notes as notes
from spp.diagnosis.registry import rule as rule
from spp.diagnosis.regression import Regression as Regression
from spp.diagnosis.regression import compare as compare
from spp.diagnosis.remedies import REMEDIES as REMEDIES
from spp.diagnosis.remedies import Remedy as Remedy
from spp.diagnosis.remedies import double_gates_ as double_gates_
from spp.diagnosis.remedies import remedy as remedy
from spp.diagnosis.remedies import scale_branches_ as scale_branches_
from spp.diagnosis.view import View as View
from spp.vocabulary import Severity as Severity

# What version 1 called it; spp.Comparison is something else.
Comparison = Regression

assert _rules is not None
