"""The pages about norms and networks name every row, and the numbers on them are the code's."""

from pathlib import Path

import pytest
import torch

from spp import models
from spp.nn import INITS, NORMS, RESIDUALS, SE_SCALES, gain

DOCS = Path(__file__).resolve().parents[2] / "docs"
NORMS_PAGE, NETWORKS_PAGE = ((DOCS / f"{name}.md").read_text() for name in ("norms", "networks"))


@pytest.mark.parametrize("table", [NORMS, RESIDUALS, INITS, SE_SCALES], ids=["norms", "residuals", "inits", "gates"])
def test_every_row_is_named(table):
    assert [name for name in table if f"`{name}`" not in NORMS_PAGE] == []


def test_every_option_of_a_norm_is_named_in_its_row():
    for name, row in NORMS.items():
        (line,) = [
            line for line in NORMS_PAGE.splitlines() if line.startswith(f"| `{name}` |") and line.count("|") >= 5
        ][:1]
        assert [option for option in row.options if f"`{option}`" not in line] == []


def test_every_arm_of_effnet_b0_stands_with_its_parameters():
    arms = [name for name in models.names() if name.startswith("effnet_b0_")]
    assert arms
    for name in arms:
        (line,) = [line for line in NETWORKS_PAGE.splitlines() if f"| `{name}`" in line or f", `{name}` |" in line]
        with torch.device("meta"):
            parameters = sum(p.numel() for p in models.build(name).parameters())
        assert f"{parameters:,}" in line


def test_numbers_of_the_text():
    assert f"{gain('relu'):.12f}" in NORMS_PAGE
    assert f"{gain('silu', 'rms'):.12f}" in NORMS_PAGE
