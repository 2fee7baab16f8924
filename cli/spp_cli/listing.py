"""``spp list`` and ``spp info``: the names that other commands take, and what is installed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from spp_cli.console import as_json as to_json
from spp_cli.console import show_names
from spp_cli.options import Command, table_at, take

TABLES = {
    "models": ("spp.models:MODELS", "bundled networks, for --model"),
    "norms": ("spp.nn:NORMS", "normalizations, for --norm"),
    "activations": ("spp.nn:ACTIVATIONS", "activations, for --activation"),
    "inits": ("spp.nn:INITS", "initializations, for --init"),
    "data": ("spp.data:SOURCES", "bundled data, for --data"),
    "rules": ("spp.diagnosis:RULES", "what the diagnosis looks for"),
    "remedies": ("spp.diagnosis:REMEDIES", "what it tells to try"),
    "residuals": ("spp.nn:RESIDUALS", "rules of residual sums, for --residual"),
    "gates": ("spp.nn:SE_SCALINGS", "scalings of squeeze-and-excitation, for --se"),
    "sources": ("spp.models:SOURCES", "prefixes of --model beyond the bundled networks"),
    "gains": ("spp.nn:GAINS", "gains of activations, for spp.models.build(gain=)"),
    "weight_norms": ("spp.nn:WEIGHT_NORMS", "rules for weights, for spp.models.build(weight_norm=)"),
    "optimizers": ("spp.training:OPTIMIZERS", "for spp train --optimizer"),
    "schedules": ("spp.training:SCHEDULES", "of the learning rate, for spp train --schedule"),
    "augmentations": ("spp.data:AUGMENTATIONS", "of training images, for spp train --augment"),
    "layers": ("spp.layers:LAYERS", "classes whose kind of layer is known"),
    "kinds": ("spp.plot:FIGURES", "kinds of figures, for spp plot --kind"),
    "signals": ("spp_cli.listing:SIGNALS", "what is measured, for spp plot --signal"),
    "statistics": ("spp_cli.listing:statistics", "numbers of a tensor, for spp plot --statistic"),
}
"""Where the names of each kind are, a table of the library or a function that gives described names, and what they are for."""

KINDS = tuple(TABLES)

SIGNALS = {
    "activation": "what a module returns",
    "gradient": "gradient of the loss with respect to what a module returns",
    "weight": "a parameter",
    "weight_gradient": "gradient of the loss with respect to a parameter",
}

LIBRARIES = ("torch", "numpy", "pandas", "pyarrow", "matplotlib", "scikit-learn", "torchvision", "timm", "transformers")


def names(kind: str) -> dict[str, str]:
    """Every name of ``kind`` with its description, in the order of its table."""
    table = table_at(TABLES[kind][0])
    if callable(table):
        table = table()
    return {name: _describe(table, name) for name in table}


def _describe(table: Any, name: str) -> str:
    row = table[name]
    text: str = row if isinstance(row, str) else table.describe(name) if hasattr(table, "describe") else row.description
    return text


def statistics() -> Mapping[str, str]:
    """What is computed from a tensor."""
    from spp.frame.schema import statistic_columns

    return {name: spec.meaning for name, spec in statistic_columns().items()}


@click.command("list", cls=Command, short_help="List the names that other commands take.")
@click.argument("kind", metavar="KIND", required=False, type=click.Choice(KINDS))
@take("as_json")
def list_names(kind: str | None, as_json: bool) -> None:
    """List the names that other commands take, with a description; without KIND, the kinds of names.

    A module of --plugin adds its own.
    """
    found = {name: purpose for name, (_, purpose) in TABLES.items()} if kind is None else names(kind)
    if as_json:
        click.echo(to_json(found, ascii_only=False))
    else:
        show_names(found)


def facts() -> dict[str, str]:
    """Versions, devices, and which reduction kernels are in use and why, in the order of the output."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from spp._version import __version__
    from spp.stats import backends
    from spp.stats.backends import cuda

    found = {"spp": __version__, "python": platform.python_version(), "platform": platform.platform(terse=True)}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["threads"] = str(torch.get_num_threads())
    count = torch.cuda.device_count()
    found["cuda"] = ", ".join(torch.cuda.get_device_name(i) for i in range(count)) if count else "no device"
    status = backends.choose()
    found["kernels"] = f"{'native: C sweep' if status.native else 'reference: torch operations'} ({status.reason})"
    on_cuda = cuda.status()
    found["cuda kernels"] = (
        f"{'triton: one sweep' if on_cuda.triton else 'reference: torch operations'} ({on_cuda.reason})"
    )
    return found


@click.command("info", cls=Command, short_help="Say what is installed and which kernels are in use.")
@take("as_json")
def info(as_json: bool) -> None:
    """Say which versions and devices are here, and which kernels are in use and why.

    SPP_KERNELS=auto|off|require chooses between kernels of one sweep and torch operations: on the CPU in C, compiled on first
    use into the user's cache ($SPP_CACHE), on CUDA devices in Triton.
    """
    found = facts()
    if as_json:
        click.echo(to_json(found))
    else:
        show_names(found)
