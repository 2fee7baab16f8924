"""What the cells of several studies do: draw a network from its seed, train it, trace it, and keep the numbers as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spp.capture.schedule import Every
from spp.data import Splits, splits
from spp.errors import InputError
from spp.studies.study import Setup, Tables
from spp.tracing import trace
from spp.training import Recipe, fit
from spp.training.results import History, News

T = TypeVar("T")


def images(
    setup: Setup, full: str, *, seed: int, shape: Sequence[int] | None = None, validation: float = 0.2
) -> Splits:
    """The images to train on: the digits of scikit-learn where the study is quick, else ``full``, a CIFAR set.

    Args:
        setup: At which size.
        full: ``cifar10`` or ``cifar100``.
        seed: Of the choice of validation images.
        shape: ``(C, H, W)`` that the images are brought to; their own if left out.
        validation: Share held back.

    Raises:
        InputError: The full size was asked for without a folder of data, or the data are not there.
    """
    if not setup.quick and setup.data is None:
        raise InputError(
            f"the full size of a study trains on {full}, which is not downloaded",
            received="no folder",
            where="--data",
            remedy="Give --data DIR with its binary version, or --quick for the smaller experiment on digits.",
        )
    wanted = None if shape is None else tuple(shape)
    return splits("digits" if setup.quick else full, folder=setup.data, shape=wanted, validation=validation, seed=seed)


def drawn(build: Callable[[], T], seed: int) -> T:
    """What ``build`` makes when the global random state starts from ``seed``; the state is put back.

    A network draws its weights from it, and a trace of a network with dropout its masks.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build()


def trained(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    setup: Setup,
    *,
    every: Every | None = None,
    include: Iterable[str] | None = None,
    report: Callable[[News], None] | None = None,
) -> Tables:
    """Train a network and keep what came of it; ``report`` is told after each step and each epoch.

    Returns:
        ``history``, a row per epoch (without the seconds, which are not reproducible); ``test``, one row with ``accuracy``
        and ``loss`` of the last weights on the test images and whether the run ``finished`` (a loss that is not finite ends
        it); and, where ``every`` says which steps to measure, ``signals``, their frame.
    """
    options: dict[str, Any] = {} if include is None else {"include": list(include)}
    fitted = fit(model, data, recipe, every=every, watch=options, device=setup.device, report=report)
    last = fitted.test["last"]
    tables = {
        "history": fitted.history.drop(columns=str(History.SECONDS)),
        "test": pd.DataFrame(
            {"accuracy": [last["accuracy"]], "loss": [last["loss"]], "finished": [fitted.stopped is None]}
        ),
    }
    if fitted.watch is not None:
        tables["signals"] = fitted.watch.frame
    return tables


def traced(model: nn.Module, batch: Any, setup: Setup, **options: Any) -> Tables:
    """Trace a network: ``signals``, its frame, and ``blocks``."""
    found = trace(model.to(setup.device), batch, **options)
    return {"signals": found.frame, "blocks": found.blocks}


def first(data: Splits, n: int) -> tuple[Tensor, Tensor]:
    """The first ``n`` training images and their classes, as they are stored: in an order that follows from the seed."""
    return data.train.batch(torch.arange(min(n, len(data.train))))


def chance(setup: Setup) -> float:
    """The accuracy of guessing, on the digits or on CIFAR-100."""
    return 0.1 if setup.quick else 0.01


def commas(values: Iterable[object]) -> str:
    """Values between commas; numbers as short as they can be."""
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def geometric(values: pd.Series[float]) -> float:
    """Geometric mean."""
    return float(np.exp(np.log(values.astype(np.float64)).mean()))


def spread(values: pd.Series[float], scale: float = 1.0, digits: int = 1) -> str:
    """Mean and standard deviation over seeds (biased: divided by n), in words, as ``95.1 ± 0.4``."""
    mean, deviation = float(values.mean()) * scale, float(values.std(ddof=0)) * scale
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"
