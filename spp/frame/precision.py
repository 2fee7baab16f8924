"""What a number format would lose of each tensor, read from the distribution over powers of two."""

from __future__ import annotations

import pandas as pd

from spp.errors import UnknownNameError
from spp.frame.schema import ExponentColumn
from spp.stats.extra import FORMATS

KEY = [ExponentColumn.NAME, ExponentColumn.CALL, ExponentColumn.OUTPUT, ExponentColumn.SIGNAL]


def lost_shares(exponents: pd.DataFrame, number_format: str) -> pd.DataFrame:
    """Shares of each tensor's non-zero finite values that a format would flush to zero or overflow.

    Args:
        exponents: ``trace.exponents`` of a trace with ``exponents=True``.
        number_format: ``float16``, ``bfloat16``, ``fp8-e4m3`` or ``fp8-e5m2``.

    Returns:
        One row per tensor: ``name``, ``call``, ``output``, ``signal``, ``flushed``, ``overflowed`` (both in [0, 1]). The
        histogram goes by powers of two, so the part of the last binade above a format's largest number is not seen.

    Raises:
        UnknownNameError: No such format.
    """
    if number_format not in FORMATS:
        raise UnknownNameError("number format", number_format, FORMATS, where="number_format")
    limits = FORMATS[number_format]
    count, power = exponents[ExponentColumn.COUNT], exponents[ExponentColumn.EXPONENT]
    counted = exponents.assign(
        flushed=count.where(power < limits.flush, 0), overflowed=count.where(power >= limits.overflow, 0)
    )
    sums = counted.groupby(list(map(str, KEY)), sort=False, observed=True)[
        [str(ExponentColumn.COUNT), "flushed", "overflowed"]
    ].sum()
    shares = sums[["flushed", "overflowed"]].div(sums[str(ExponentColumn.COUNT)], axis=0)
    return shares.reset_index()
