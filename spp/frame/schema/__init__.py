"""Every column of the frames: its name, dtype and meaning. No file outside this package spells a column as a string.

>>> from spp.frame.schema import COLUMNS, Column
>>> str(Column.ACSM), COLUMNS[Column.ACSM].dtype
('acsm', 'float64')
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

import pandas as pd

from spp.errors import InputError
from spp.frame.schema.observed import COLUMNS as COLUMNS
from spp.frame.schema.observed import PREDICTED as PREDICTED
from spp.frame.schema.observed import STATISTICS as STATISTICS
from spp.frame.schema.observed import WATCH_COLUMNS as WATCH_COLUMNS
from spp.frame.schema.observed import Column as Column
from spp.frame.schema.spec import Spec as Spec
from spp.frame.schema.tables import BLOCK_COLUMNS as BLOCK_COLUMNS
from spp.frame.schema.tables import CHANNEL_COLUMNS as CHANNEL_COLUMNS
from spp.frame.schema.tables import CHANNEL_STATISTICS as CHANNEL_STATISTICS
from spp.frame.schema.tables import EXPONENT_COLUMNS as EXPONENT_COLUMNS
from spp.frame.schema.tables import FINDING_COLUMNS as FINDING_COLUMNS
from spp.frame.schema.tables import MODULE_COLUMNS as MODULE_COLUMNS
from spp.frame.schema.tables import UNMEASURED_COLUMNS as UNMEASURED_COLUMNS
from spp.frame.schema.tables import WATCH_BLOCK_COLUMNS as WATCH_BLOCK_COLUMNS
from spp.frame.schema.tables import BlockColumn as BlockColumn
from spp.frame.schema.tables import ChannelColumn as ChannelColumn
from spp.frame.schema.tables import ExponentColumn as ExponentColumn
from spp.frame.schema.tables import FindingColumn as FindingColumn
from spp.frame.schema.tables import ModuleColumn as ModuleColumn
from spp.frame.schema.tables import UnmeasuredColumn as UnmeasuredColumn

_C = TypeVar("_C", bound=StrEnum)

VERSION = 1
"""Version of the stored layout; a reader refuses a later one."""


def check(frame: pd.DataFrame, columns: Mapping[_C, Spec]) -> pd.DataFrame:
    """Return ``frame`` if it has exactly ``columns``, in order, with their dtypes; else raise.

    ``PREDICTED`` may follow ``COLUMNS``.

    Args:
        frame: The table to check.
        columns: One of the tables of this module, as ``COLUMNS``.

    Raises:
        InputError: A column is missing, unknown or of another dtype; the message names it.
    """
    specs: dict[str, Spec] = {str(column): spec for column, spec in columns.items()}
    found = [str(c) for c in frame.columns]
    if columns is COLUMNS and found[len(specs) :] == [str(c) for c in PREDICTED]:
        specs |= {str(column): spec for column, spec in PREDICTED.items()}
    expected = list(specs)
    if expected != found:
        missing = [c for c in expected if c not in found]
        unknown = [c for c in found if c not in expected]
        what = f"missing {missing}, unknown {unknown}" if missing or unknown else "the same columns in another order"
        raise InputError("a frame has the columns of the schema", received=what, remedy="See spp.frame.schema.")
    for column, spec in specs.items():
        dtype = str(frame[column].dtype)
        if dtype != spec.dtype:
            raise InputError(f"column {column!r} has dtype {spec.dtype}", received=dtype)
        if not spec.missing and frame[column].isna().any():
            raise InputError(f"column {column!r} is never missing", received="missing values")
    return frame
