"""Data to measure on and to train on: noise, scikit-learn's digits, CIFAR, MNIST and its like, folders, sets of one's own."""

from spp.data.images import AUGMENTATIONS as AUGMENTATIONS
from spp.data.images import InMemory as InMemory
from spp.data.images import Scale as Scale
from spp.data.parts import Part as Part
from spp.data.parts import batches as batches
from spp.data.parts import shuffled as shuffled
from spp.data.sources import DIGIT_CLASSES as DIGIT_CLASSES
from spp.data.sources import DIGITS as DIGITS
from spp.data.sources import SOURCES as SOURCES
from spp.data.sources import Images as Images
from spp.data.sources import Source as Source
from spp.data.sources import Splits as Splits
from spp.data.sources import digits as digits
from spp.data.sources import gaussian as gaussian
from spp.data.sources import load as load
from spp.data.sources import names as names
from spp.data.sources import splits as splits

# Their names in the first version.
DATA, Dataset = SOURCES, Source
