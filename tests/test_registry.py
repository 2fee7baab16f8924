"""Tables that are open at the end: what a registry promises to whoever adds a row."""

import pytest

from spp.errors import InputError, UnknownNameError
from spp.registry import Registry


def fruits() -> Registry[str]:
    return Registry("fruit", {"apple": "Red or green.\nGrows on trees."}, describe=str)


def test_rows_are_found_by_name_and_described_by_their_first_line():
    table = fruits()
    assert table.row("apple") == table["apple"] == "Red or green.\nGrows on trees."
    assert table.describe("apple") == "Red or green."
    assert table.names == ("apple",) and "apple" in table and len(table) == 1


def test_a_row_from_outside_is_a_row_like_others():
    table = fruits()
    assert table.register("pear", "Green.") == "Green."
    assert list(table) == ["apple", "pear"]
    table.unregister("pear")
    assert "pear" not in table


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown fruit 'aple'. Did you mean 'apple'\?"):
        fruits().row("aple")


def test_a_name_is_taken_once_unless_replaced():
    table = fruits()
    with pytest.raises(InputError, match="'apple' once more"):
        table.register("apple", "Blue.")
    table.register("apple", "Blue.", replace=True)
    assert table["apple"] == "Blue."


def test_a_row_is_of_the_class_of_the_table():
    table = Registry[str]("fruit", of=str)
    with pytest.raises(InputError, match=r"register 'fig': rows of the table of fruits are of str; got test_a_row"):
        table.register("fig", test_a_row_is_of_the_class_of_the_table)
    assert "fig" not in table


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_is_text(name):
    with pytest.raises(InputError, match="has a name"):
        fruits().register(name, "Blue.")
