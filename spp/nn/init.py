"""Initializations: by name (``initialize_``), by batch (``lsuv_``) and by residual branch (``zero_gamma_``).

``INITS`` has the named ones, each a rule for one layer. ``lsuv_`` is no row, since it needs a batch; ``zero_gamma_`` is none
either, since it comes after any of them.
"""

from spp.nn.branch_inits import fixup_scale as fixup_scale
from spp.nn.branch_inits import zero_gamma_ as zero_gamma_
from spp.nn.inits import INITS as INITS
from spp.nn.inits import Init as Init
from spp.nn.inits import delta_orthogonal_ as delta_orthogonal_
from spp.nn.inits import fans as fans
from spp.nn.inits import find_init as find_init
from spp.nn.inits import initialize_ as initialize_
from spp.nn.lsuv import LayerVariance as LayerVariance
from spp.nn.lsuv import lsuv_ as lsuv_
