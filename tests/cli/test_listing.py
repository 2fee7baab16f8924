"""``spp list``: the names are those that the library takes."""

import json

import pytest

import spp as library
from spp.diagnosis import REMEDIES, RULES
from spp.frame.schema import STATISTICS
from spp.plot import FIGURES
from spp_cli.analyze import analyze
from spp_cli.listing import KINDS

TABLES = {
    "models": library.models.names(),
    "norms": tuple(library.nn.NORMS),
    "activations": tuple(library.nn.ACTIVATIONS),
    "inits": tuple(library.nn.INITS),
    "data": library.data.names(),
    "rules": tuple(RULES),
    "remedies": tuple(REMEDIES),
    "residuals": tuple(library.nn.RESIDUALS),
    "gates": tuple(library.nn.SE_SCALES),
    "sources": library.models.SOURCES.names,
    "gains": tuple(library.nn.GAINS),
    "weight_norms": tuple(library.nn.WEIGHT_NORMS),
    "optimizers": tuple(library.training.OPTIMIZERS),
    "schedules": tuple(library.training.SCHEDULES),
    "augmentations": library.data.AUGMENTATIONS.names,
    "layers": library.layers.LAYERS.names,
    "kinds": FIGURES.names,
    "signals": tuple(map(str, library.Signal)),
    "statistics": tuple(map(str, STATISTICS)),
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
    shown = spp("list", kind).out
    assert all(f"{name} " in shown and text in shown for name, text in listed.items())


def test_without_a_kind_the_kinds_are_listed(spp):
    done = spp("list")
    assert done.code == 0
    assert tuple(line.split()[0] for line in done.out.splitlines()) == KINDS


def test_the_shell_completes_names():
    context = analyze.make_context("analyze", ["--model", "ffn"])
    (norm,) = (option for option in analyze.params if option.name == "norm")
    assert [item.value for item in norm.shell_complete(context, "batch_m")] == ["batch_minus"]


def test_an_unknown_kind_is_refused(spp):
    done = spp("list", "modls")
    assert done.code == 2
    assert "'modls' is not one of 'models', 'norms', 'activations', 'inits', 'data', 'rules'" in done.err
