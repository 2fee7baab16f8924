"""Data to measure on and to train on: unit normal noise, scikit-learn's digits, CIFAR, folders of images."""

from spp.data.handwritten import DIGIT_CLASSES as DIGIT_CLASSES
from spp.data.handwritten import DIGITS as DIGITS
from spp.data.handwritten import digits as digits
from spp.data.noise import gaussian as gaussian
from spp.data.parts import Part as Part
from spp.data.parts import batches as batches
from spp.data.parts import shuffled as shuffled
from spp.data.sources import Splits as Splits
from spp.data.sources import splits as splits
from spp.data.table import DATA as DATA
from spp.data.table import Dataset as Dataset
from spp.data.table import load as load
from spp.data.table import names as names
