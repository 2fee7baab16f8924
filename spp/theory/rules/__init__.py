"""Which of torch's functions theory has a rule for, with torch's own signatures; importing this package enters them.

A rule returns the field of the result, a list of them where there are several, or None where the function's arguments go
beyond what it knows.
"""

from spp.theory.rules import arithmetic as arithmetic
from spp.theory.rules import layers as layers
from spp.theory.rules import pointwise as pointwise
from spp.theory.rules import space as space
