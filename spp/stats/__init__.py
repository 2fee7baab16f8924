"""Exact, mergeable statistics of tensors: what is summed, by which backend, and which numbers follow.

:func:`register_statistic` adds a number of your own to every frame that asks for it.
"""

from spp.stats.statistics import STATISTICS as STATISTICS
from spp.stats.statistics import Spec as Spec
from spp.stats.statistics import Statistic as Statistic
from spp.stats.statistics import register_statistic as register_statistic
from spp.stats.sums import SUMS as SUMS
from spp.stats.sums import Sum as Sum
from spp.stats.sums import Total as Total
