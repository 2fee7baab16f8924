"""A row of a table by its name, or the error that lists the names there are."""

from collections.abc import Mapping
from typing import TypeVar

from spp.errors import UnknownNameError

Row = TypeVar("Row")


def row_of(table: Mapping[str, Row], name: object, kind: str) -> Row:
    """The row of ``table`` called ``name``.

    Args:
        table: Rows by name.
        name: What came in place of a name, of whatever type.
        kind: What the name stands for, as ``norm``.

    Raises:
        UnknownNameError: There is none; the message lists them.
    """
    if not isinstance(name, str) or name not in table:
        raise UnknownNameError(kind, str(name), table)
    return table[name]
