"""What a trace says about its network: what is wrong, where it begins, what to try; and what changed since another run."""

from spp.diagnosis import rules as _rules  # registers them
from spp.diagnosis.compare import Comparison as Comparison
from spp.diagnosis.compare import compare as compare
from spp.diagnosis.diagnose import diagnose as diagnose
from spp.diagnosis.diagnose import find as find
from spp.diagnosis.findings import EVERYTHING as EVERYTHING
from spp.diagnosis.findings import Finding as Finding
from spp.diagnosis.registry import RULES as RULES
from spp.diagnosis.registry import rule as rule
from spp.diagnosis.view import View as View
from spp.vocabulary import Severity as Severity

__all__ = ["EVERYTHING", "RULES", "Comparison", "Finding", "Severity", "View", "compare", "diagnose", "find", "rule"]
assert _rules is not None
