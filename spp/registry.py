"""Tables that anybody can add a row to: norms, activations, inits, models, data, figures, layers, statistics, rules.

>>> GREETINGS = Registry[str]("greeting", {"plain": "hello"})
>>> GREETINGS.register("loud", "HELLO")
'HELLO'
>>> GREETINGS["loud"], GREETINGS.names
('HELLO', ('plain', 'loud'))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from spp.errors import InputError, UnknownNameError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Rows by name, in the order in which they were registered; a mapping that is open at the end.

    Args:
        kind: What a row is, in one word or two, as errors say it: ``norm``, ``figure kind``.
        rows: The rows that come with the package.
        of: The class that rows are of.
        describe: Gives a row's line of description, for listings; left out, its ``description`` or the first line of its
            docstring.
        listing: What lists all the names, where there are too many for an error message.
    """

    def __init__(
        self,
        kind: str,
        rows: Mapping[str, T] | None = None,
        *,
        of: Any = object,
        describe: Callable[[T], str] | None = None,
        listing: str = "",
    ) -> None:
        self.kind, self._rows, self._of = kind, dict(rows or {}), of
        self._describe, self._listing = describe, listing

    def __getitem__(self, name: str) -> T:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the table."""
        return tuple(self._rows)

    def row(self, name: object, *, where: str = "") -> T:
        """The row called ``name``.

        Raises:
            UnknownNameError: There is none; the message has the nearest names.
        """
        if not isinstance(name, str) or name not in self._rows:
            raise UnknownNameError(self.kind, str(name), self._rows, where=where, listing=self._listing)
        return self._rows[name]

    def describe(self, name: str) -> str:
        """One line about the row called ``name``."""
        row = self.row(name)
        text = self._describe(row) if self._describe is not None else getattr(row, "description", row.__doc__)
        return (text or "").strip().partition("\n")[0]

    def register(self, name: str, row: T, *, replace: bool = False) -> T:
        """Add a row, from inside or outside the package.

        Args:
            name: How users will ask for it.
            row: The row.
            replace: Whether a row of that name may be there already.

        Returns:
            ``row``, so that a decorator can pass it on.

        Raises:
            InputError: The name is empty or not text, or taken and ``replace`` is False; or the row is something else.
        """
        if not isinstance(name, str) or not name:
            raise InputError(f"a {self.kind} has a name", received=repr(name), where="register")
        # a bare module or function, the likely mistake, would fail far away, where somebody asks for the name
        if not isinstance(row, self._of):
            raise InputError(
                f"rows of the table of {self.kind}s are of {self._of.__name__}",
                received=getattr(row, "__name__", type(row).__name__),
                where=f"register {name!r}",
            )
        if name in self._rows and not replace:
            raise InputError(
                f"names of the table of {self.kind}s are unique",
                received=f"{name!r} once more",
                where="register",
                remedy="Choose another name, or pass replace=True to take the place of the one there.",
            )
        self._rows[name] = row
        return row

    def unregister(self, name: str) -> None:
        """Take a row out again.

        Raises:
            UnknownNameError: There is none of that name.
        """
        self.row(name)
        del self._rows[name]
