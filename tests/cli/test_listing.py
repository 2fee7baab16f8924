"""``spp list``: the names are those that the library takes."""

import json

import pytest

import spp as library
from spp.diagnosis import RULES
from spp_cli.listing import KINDS

TABLES = {
    "models": library.models.names(),
    "norms": tuple(library.nn.NORMS),
    "activations": tuple(library.nn.ACTIVATIONS),
    "inits": tuple(library.nn.INITS),
    "data": library.data.names(),
    "rules": tuple(RULES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_has_its_line(spp, kind):
    done = spp("list", kind)
    assert done.code == 0
    assert tuple(line.split()[0] for line in done.out.splitlines()) == TABLES[kind]
    assert all(len(line.split()) > 2 for line in done.out.splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_json_says_the_same(spp, kind):
    listed = json.loads(spp("list", kind, "--json").out)
    assert tuple(listed) == TABLES[kind]
    assert all(f"{name} " in spp("list", kind).out and text in spp("list", kind).out for name, text in listed.items())


def test_an_unknown_kind_is_refused(spp):
    done = spp("list", "modls")
    assert done.code == 2
    assert "'modls' is not one of 'models', 'norms', 'activations', 'inits', 'data', 'rules'" in done.err
