"""``spp info``: what a bug report or a paper's appendix needs to know about this installation."""

from __future__ import annotations

import json

import click

LIBRARIES = ("torch", "numpy", "pandas", "pyarrow", "matplotlib", "scikit-learn", "torchvision", "timm", "transformers")


def facts() -> dict[str, str]:
    """Versions, devices, and which reduction kernels are in use and why, in the order of the output."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import spp
    from spp.stats import backends
    from spp.stats.backends import cuda

    found = {"spp": spp.__version__, "python": platform.python_version(), "platform": platform.platform(terse=True)}
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


@click.command("info", short_help="Say what is installed and which kernels are in use.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def info(as_json: bool) -> None:
    """Say which versions and devices are here, and which kernels are in use and why.

    SPP_KERNELS=auto|off|require chooses between kernels of one sweep and torch operations: on the CPU in C, compiled on first
    use into the user's cache ($SPP_CACHE), on CUDA devices in Triton.
    """
    found = facts()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name:<{width}}  {value}")
