"""Bundled networks: ``spp.models.build("effnet_b0", norm="none")``.

Variants are rows of one table, ``MODELS``, which is open; norm, activation and init are arguments of every one of them.
"""

from spp.models.build import SOURCES as SOURCES
from spp.models.build import build as build
from spp.models.build import check_input as check_input
from spp.models.build import config as config
from spp.models.build import describe as describe
from spp.models.build import names as names
from spp.models.build import plan as plan
from spp.models.build import recipe_of as recipe_of
from spp.models.config import Config as Config
from spp.models.config import ConvConfig as ConvConfig
from spp.models.parts import Parts as Parts
from spp.models.table import MODELS as MODELS
from spp.models.table import Model as Model
