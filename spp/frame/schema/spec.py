"""What a column holds: the row that every table of the schema is made of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """What a column holds.

    Attributes:
        dtype: The pandas dtype, as its own name.
        label: Axis label, with the unit in brackets where there is one.
        meaning: One sentence; the documentation prints it.
        categories: Allowed values of a closed category, else empty.
        missing: Whether the column may be missing.
    """

    dtype: str
    label: str
    meaning: str
    categories: tuple[str, ...] = ()
    missing: bool = False
