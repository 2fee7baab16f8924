"""``spp list``: the names that other commands take."""

from __future__ import annotations

import json

import click

KINDS = ("models", "norms", "activations", "inits", "data", "rules")


def names(kind: str) -> dict[str, str]:
    """Every name of ``kind`` with its description, in the order of its table."""
    if kind == "models":
        from spp import models

        return {name: models.describe(name) for name in models.names()}
    if kind == "data":
        from spp.data import DATA

        return {name: row.description for name, row in DATA.items()}
    if kind == "rules":
        from spp.diagnosis import RULES

        return {name: row.description for name, row in RULES.items()}
    from spp.nn import ACTIVATIONS, INITS, NORMS

    if kind == "norms":
        return {name: row.description for name, row in NORMS.items()}
    if kind == "activations":
        return {name: row.description for name, row in ACTIVATIONS.items()}
    return {name: row.description for name, row in INITS.items()}


@click.command("list")
@click.argument("kind", metavar="models|norms|activations|inits|data|rules", type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def list_names(kind: str, as_json: bool) -> None:
    """List the names that other commands take, with a description."""
    found = names(kind)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    width = max(len(name) for name in found)
    for name, description in found.items():
        click.echo(f"{name:<{width}}  {description}")
