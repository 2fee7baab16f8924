"""Every column of the frames: its name, dtype and meaning. No other file spells a column as a string.

What a column of a statistic holds stands with its formula, in :mod:`spp.stats.statistics`.

>>> from spp.frame.schema import COLUMNS, Column
>>> str(Column.ACSM), COLUMNS[Column.ACSM].dtype
('acsm', 'float64')
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

import pandas as pd

from spp.errors import InputError
from spp.stats.statistics import BUILT_IN, Statistic, number
from spp.stats.statistics import STATISTICS as ROWS
from spp.stats.statistics import Spec as Spec
from spp.vocabulary import LayerKind, Role, Severity, Signal

VERSION = 2
"""Version of the stored layout; a reader refuses a later one.

Version 1 lacked ``called``, ``kind``, ``nan``, ``posinf`` and ``neginf``.
"""


class Described(StrEnum):
    """Names of columns; ``spec`` says what each holds."""

    spec: Spec

    def __new__(cls, name: str, *spec: Spec) -> Described:
        """A member that is its own name."""
        # StrEnum's own __new__ takes text alone; the value is set here so that Column("acsm") finds the member.
        # Type checkers read that look-up as a call of this function, so the Spec cannot be a required argument.
        member = str.__new__(cls, name)
        member._value_, (member.spec,) = name, spec
        return member


class Column(Described):
    """Columns of the frame, one row per observed tensor: those of every frame, then those that may follow them."""

    STEP = "step", Spec("int64", "step", "0 for a trace; the training step for a watch")
    DEPTH = (
        "depth",
        Spec(
            "Int64",
            "depth",
            "order in which the module calls finished, 0 for the first; missing for a module that never ran",
            missing=True,
        ),
    )
    NAME = "name", Spec("str", "module", "qualified module name, empty for the root")
    CALL = "call", Spec("int64", "call", "0 for the module's first call in the pass")
    OUTPUT = "output", Spec("str", "output", "which output (empty for a lone tensor), or the parameter's name")
    TYPE = "type", Spec("category", "type", "class name of the module")
    KIND = "kind", Spec("category", "kind", "what the module does to a signal, see `spp.layers`", tuple(LayerKind))
    LEAF = "leaf", Spec("bool", "leaf", "whether the module has no children")
    SIGNAL = "signal", Spec("category", "signal", "which signal the row is about", tuple(Signal))
    ROLE = "role", Spec("category", "role", "part played at a residual merge", tuple(Role), missing=True)
    BLOCK = "block", Spec("str", "block", "innermost enclosing residual block", missing=True)
    SHAPE = "shape", Spec("str", "shape", "shape of one batch's tensor, as 32x64x56x56; empty for a scalar")
    DTYPE = "dtype", Spec("str", "dtype", "dtype of the tensor, as float32")
    CALLED = (
        "called",
        Spec(
            "Int64",
            "batches",
            "in how many of the merged batches the module made this call; missing in runs of version 1",
            missing=True,
        ),
    )
    CHANNELS = "channels", ROWS["channels"].column
    NUMEL = "numel", ROWS["numel"].column
    MEAN = "mean", ROWS["mean"].column
    VAR = "var", ROWS["var"].column
    STD = "std", ROWS["std"].column
    MEAN_SQUARE = "mean_square", ROWS["mean_square"].column
    RMS = "rms", ROWS["rms"].column
    ACSM = "acsm", ROWS["acsm"].column
    ACV = "acv", ROWS["acv"].column
    MIN = "min", ROWS["min"].column
    MAX = "max", ROWS["max"].column
    ABS_MAX = "abs_max", ROWS["abs_max"].column
    ZERO_FRACTION = "zero_fraction", ROWS["zero_fraction"].column
    DEAD_FRACTION = "dead_fraction", ROWS["dead_fraction"].column
    SATURATED_FRACTION = "saturated_fraction", ROWS["saturated_fraction"].column
    NONFINITE = "nonfinite", ROWS["nonfinite"].column
    NAN = "nan", ROWS["nan"].column
    POSINF = "posinf", ROWS["posinf"].column
    NEGINF = "neginf", ROWS["neginf"].column
    KURTOSIS = "kurtosis", ROWS["kurtosis"].column
    MODE = "mode", Spec("category", "mode", "whether the root was training or evaluating", ("train", "eval"))
    UPDATE_RATIO = (
        "update_ratio",
        number(
            "update ratio",
            "size of the optimizer's update of a weight, relative to the weight before it: ||w' - w|| / ||w||",
        ),
    )
    ACSM_PREDICTED = (
        "acsm_predicted",
        number("ACSM (theory)", "the ACSM that mean-field theory expects, of an activation"),
    )
    ACV_PREDICTED = "acv_predicted", number("ACV (theory)", "the ACV that mean-field theory expects, of an activation")
    GRADIENT_PREDICTED = (
        "gradient_predicted",
        number("gradient mean square (theory)", "the mean square it expects, of a gradient"),
    )
    LOG_SPREAD_PREDICTED = (
        "log_spread_predicted",
        number(
            "spread of the log (theory)",
            "standard deviation of the natural log of the mean square that it expects over draws of the weights",
        ),
    )


_WATCHED = (Column.MODE, Column.UPDATE_RATIO)
_PREDICTED = (
    Column.ACSM_PREDICTED,
    Column.ACV_PREDICTED,
    Column.GRADIENT_PREDICTED,
    Column.LOG_SPREAD_PREDICTED,
)

COLUMNS: dict[Column, Spec] = {c: c.spec for c in Column if c not in _WATCHED + _PREDICTED}
"""Columns of ``trace.frame``."""

PREDICTED: dict[Column, Spec] = {c: c.spec for c in _PREDICTED}
"""Columns that follow those of the frame where a prediction was attached (:func:`spp.theory.attach`): all of them, or none."""

WATCH_COLUMNS: dict[Column, Spec] = {**COLUMNS, **{c: c.spec for c in _WATCHED}}
"""Columns of ``watch.frame``: those of a trace, and two that only training has."""

STATISTICS: tuple[Column, ...] = tuple(COLUMNS)[list(COLUMNS).index(Column.MEAN) :]
"""The columns that are numbers about a tensor's values, in the order of the frame."""


class BlockColumn(Described):
    """Columns of ``trace.blocks``, one row per residual merge (most blocks have one)."""

    STEP = "step", Spec("int64", "step", "0 for a trace; the training step for a watch")
    DEPTH = "depth", Spec("Int64", "depth", "depth of the tensor the row describes", missing=True)
    BLOCK = "block", Spec("str", "block", "qualified name of the residual block")
    MERGE = "merge", Spec("int64", "merge", "0 for the block's first merge, 1 for its second, ...")
    CALL = "call", Spec("int64", "call", "0 for the block's first call in the pass")
    BRANCH = "branch", Spec("str", "branch", "module whose output ends the residual branch")
    SKIP = "skip", Spec("str", "skip", "module whose output is the skip, empty for the network's input", missing=True)
    TRANSITION = "transition", Spec("bool", "transition", "whether the skip goes through modules of the block")
    ACSM = "acsm", number("average channel squared mean", "ACSM after the merge")
    ACV = "acv", number("average channel variance", "ACV after the merge")
    BRANCH_ACV = "branch_acv", number("residual branch ACV", "ACV at the end of the branch, before the merge")
    GRADIENT_ACSM = "gradient_acsm", number("gradient ACSM", "ACSM of the gradient after the merge")
    GRADIENT_ACV = "gradient_acv", number("gradient ACV", "ACV of the gradient after the merge")
    GRADIENT_BRANCH_ACV = (
        "gradient_branch_acv",
        number("gradient branch ACV", "ACV of the gradient at the end of the branch"),
    )
    MODE = "mode", Spec("category", "mode", "whether the root was training or evaluating", ("train", "eval"))


BLOCK_COLUMNS: dict[BlockColumn, Spec] = {c: c.spec for c in BlockColumn if c is not BlockColumn.MODE}
WATCH_BLOCK_COLUMNS: dict[BlockColumn, Spec] = {c: c.spec for c in BlockColumn}
"""Columns of ``watch.blocks``."""


class StepColumn(Described):
    """Columns of ``run.steps``, one row per measured step."""

    STEP = "step", Spec("int64", "step", "0 for a trace; the training step for a watch")
    LOSS = (
        "loss",
        number(
            "loss",
            "what backward ran from, summed over the step's backward passes (of a trace, the mean over batches);"
            " missing where unknown",
        ),
    )
    TRAINING = "training", Spec("bool", "training", "whether the root was in train mode")
    RATE = (
        "rate",
        number("learning rate", "the largest of the optimizers' groups as the step began; missing without one"),
    )
    CARRIED = (
        "carried",
        number(
            "gradients not cleared",
            "share of the gradients looked at (of 8 small parameters at most) that no backward of the step found cleared",
        ),
    )


STEP_COLUMNS: dict[StepColumn, Spec] = {c: c.spec for c in StepColumn}


class ComponentColumn(Described):
    """Columns of ``run.components``, one row per component along the network: stem, every block, head."""

    NAME = "name", Spec("str", "component", "qualified name of the block, the layer or the container")
    KIND = "kind", Spec("category", "kind", "what it does to a signal, see `spp.layers`", tuple(LayerKind))
    DEPTH = "depth", Spec("Int64", "depth", "depth of its output", missing=True)
    ACSM = "acsm", number("ACSM", "average channel squared mean of its output")
    ACV = "acv", number("ACV", "average channel variance of its output")
    BRANCH_ACV = "branch_acv", number("branch ACV", "ACV at the end of its last residual branch")
    GRADIENT_MEAN_SQUARE = (
        "gradient_mean_square",
        number("gradient mean square", "mean square of the gradient at its output"),
    )
    WEIGHT_MEAN_SQUARE = "weight_mean_square", number("weight mean square", "mean square of all its parameters")
    NONFINITE = "nonfinite", Spec("int64", "non-finite", "NaN and infinite elements of its output")


COMPONENT_COLUMNS: dict[ComponentColumn, Spec] = {c: c.spec for c in ComponentColumn}


class ModuleColumn(Described):
    """Columns of ``trace.modules``, one row per module."""

    NAME = "name", Spec("str", "module", "qualified name")
    ALIASES = "aliases", Spec("str", "aliases", "further names of the same module, separated by spaces")
    TYPE = "type", Spec("category", "type", "class name")
    KIND = "kind", Spec("category", "kind", "what it does to a signal, see `spp.layers`", tuple(LayerKind))
    DEPTH = "depth", Spec("Int64", "depth", "depth of its first call; missing if it never ran", missing=True)
    CALLS = "calls", Spec("int64", "calls", "how often it was called in one pass")
    LEAF = "leaf", Spec("bool", "leaf", "whether it has no children")
    TRAINING = "training", Spec("bool", "training", "its training flag")
    PARAMETERS = "parameters", Spec("int64", "parameters", "number of its own parameters' elements")
    TRAINABLE = "trainable", Spec("int64", "trainable", "how many of those require a gradient")
    FAN_IN = "fan_in", Spec("Int64", "fan in", "inputs of one output unit", missing=True)
    FAN_OUT = "fan_out", Spec("Int64", "fan out", "output units one input reaches, over the kernel", missing=True)
    GROUPS = "groups", Spec("Int64", "groups", "groups of a convolution or group norm", missing=True)
    EPS = "eps", number("eps", "the constant a norm adds to the variance")
    ACTIVATION = "activation", Spec("str", "activation", "name of the nonlinearity, if it is one", missing=True)
    TIED = "tied", Spec("str", "tied", "parameters it shares, as name=owner.name", missing=True)
    INPUTS = (
        "inputs",
        Spec(
            "str",
            "inputs",
            "modules whose outputs its calls took, as name or name:call, separated by spaces, calls by commas; `.` for what"
            " came from outside",
            missing=True,
        ),
    )
    INPUT_ROWS = (
        "input_rows",
        Spec(
            "str",
            "input rows",
            "where what entered its calls is measured: name or name:call of the output that it is, `.` for a row of"
            " `run.inputs`, by call, separated by commas",
            missing=True,
        ),
    )


MODULE_COLUMNS: dict[ModuleColumn, Spec] = {c: c.spec for c in ModuleColumn}


class UnmeasuredColumn(Described):
    """Columns of ``trace.unmeasured``, one row per thing that could not be measured."""

    NAME = "name", Spec("str", "module", "qualified module name")
    TYPE = "type", Spec("category", "type", "class name of the module")
    CALL = "call", Spec("Int64", "call", "which call; missing if there was none", missing=True)
    OUTPUT = "output", Spec("str", "output", "which output, or the parameter's name")
    SIGNAL = "signal", Spec("category", "signal", "which signal is missing", tuple(Signal))
    REASON = "reason", Spec("str", "reason", "why")


UNMEASURED_COLUMNS: dict[UnmeasuredColumn, Spec] = {c: c.spec for c in UnmeasuredColumn}


class ExponentColumn(Described):
    """Columns of ``trace.exponents``, one row per observed tensor, sign and power of two that occurs in it."""

    NAME = "name", Spec("str", "module", "qualified module name")
    CALL = "call", Spec("int64", "call", "0 for the module's first call in the pass")
    OUTPUT = "output", Spec("str", "output", "which output, or the parameter's name")
    SIGNAL = "signal", Spec("category", "signal", "which signal", tuple(Signal))
    SIGN = "sign", Spec("int64", "sign", "-1 for negative values, 1 for positive ones")
    EXPONENT = (
        "exponent",
        Spec("int64", "exponent", "k of magnitudes in [2^k, 2^(k+1)); the ends, -160 and 160, gather the rest"),
    )
    COUNT = "count", Spec("int64", "count", "how many finite, non-zero values")


EXPONENT_COLUMNS: dict[ExponentColumn, Spec] = {c: c.spec for c in ExponentColumn}


CHANNEL_STATISTICS = ("mean", "var")
"""What is known of each channel: the mean and the biased variance of its finite elements."""


class ChannelColumn(Described):
    """Columns of ``trace.channels``, two rows per observed tensor: how its channels' means and variances are spread."""

    STEP = "step", Spec("int64", "step", "0 for a trace; the training step for a watch")
    DEPTH = "depth", Spec("Int64", "depth", "as in the frame; missing for a module that never ran", missing=True)
    NAME = "name", Spec("str", "module", "qualified module name")
    CALL = "call", Spec("int64", "call", "0 for the module's first call in the pass")
    OUTPUT = "output", Spec("str", "output", "which output, or the parameter's name")
    SIGNAL = "signal", Spec("category", "signal", "which signal", tuple(Signal))
    STATISTIC = "statistic", Spec("category", "statistic", "which number of each channel", CHANNEL_STATISTICS)
    P10 = "p10", number("10 % quantile", "a tenth of the channels lie below")
    P50 = "p50", number("median", "half of the channels lie below")
    P90 = "p90", number("90 % quantile", "nine tenths of the channels lie below")
    MIN = "min", number("minimum", "the smallest channel's")
    MAX = "max", number("maximum", "the largest channel's")


CHANNEL_COLUMNS: dict[ChannelColumn, Spec] = {c: c.spec for c in ChannelColumn}


class FindingColumn(Described):
    """Columns of ``trace.findings``, one row per finding."""

    RULE = "rule", Spec("str", "rule", "the rule that found it; `spp list rules` describes each")
    SEVERITY = "severity", Spec("category", "severity", "how bad it is", tuple(Severity))
    NAME = "name", Spec("str", "module", "the leaf in which the trouble begins; empty where it is the whole network's")
    DEPTH = (
        "depth",
        Spec("Int64", "depth", "depth of the leaf in which it begins; missing where there is none", missing=True),
    )
    SINCE = (
        "since",
        Spec("str", "since", "where it begins: the leaf, or the first of several layers that it goes through"),
    )
    UNTIL = "until", Spec("str", "until", "where it ends, of what goes through several layers; else empty")
    STEP = (
        "step",
        Spec("Int64", "step", "where it came about in training, the sampled step at which it began", missing=True),
    )
    SIGNAL = "signal", Spec("category", "signal", "which signal shows it", tuple(Signal), missing=True)
    STATISTIC = "statistic", Spec("str", "statistic", "what `value` measures", missing=True)
    VALUE = "value", number("value", "the number that was found")
    EXPECTED = "expected", Spec("str", "expected", "what the rule would have taken", missing=True)
    MESSAGE = "message", Spec("str", "message", "the finding in a sentence of at most 30 words")
    REMEDY = "remedy", Spec("str", "remedy", "what to try, options of the command line between backticks")
    EVIDENCE = "evidence", Spec("str", "evidence", "the layers concerned and their numbers")


FINDING_COLUMNS: dict[FindingColumn, Spec] = {c: c.spec for c in FindingColumn}


class TrialColumn(Described):
    """Columns of what ``run.try_remedies`` gives, one row per remedy or pair that was tried, the best first."""

    REMEDY = "remedy", Spec("str", "remedy", "what was done to a copy of the model, in words to type")
    RULE = "rule", Spec("str", "against", "the rule whose finding it is against")
    GONE = "gone", number("gone", "share of the seeds with which that finding is gone, notes not counted")
    ERRORS = "errors", number("errors", "errors that are there afterwards, mean over the seeds")
    WARNINGS = "warnings", number("warnings", "warnings likewise")
    LEFT = "left", Spec("str", "left", "rules whose errors and warnings stay, with any seed")
    BROUGHT = "brought", Spec("str", "brought", "rules whose errors and warnings were not there before")
    FORWARD_BEFORE = (
        "forward_before",
        number("forward, before", "steepest course of the activations, decades per weighted layer of the network"),
    )
    FORWARD = "forward", number("forward", "the same afterwards, mean over the seeds; 0 is critical")
    BACKWARD_BEFORE = (
        "backward_before",
        number("backward, before", "the same of the gradient's squared norm, followed backwards"),
    )
    BACKWARD = "backward", number("backward", "the same afterwards")
    DISTANCE = "distance", number("distance", "sum of the two slopes' sizes afterwards: how far from criticality")
    RATE = (
        "rate",
        number("rate", "learning rate of a short training on the batch, the first at which the network learns"),
    )
    LOSS_FIRST = "loss_first", number("loss, first", "its first loss")
    LOSS_LAST = "loss_last", number("loss, last", "mean loss of its last fifth; missing where one was not finite")
    LOSS_UNTREATED = "loss_untreated", number("loss, untreated", "the same of the model as it is")
    LEARNS = (
        "learns",
        number(
            "learns",
            "1 where the loss fell and is larger with targets of other samples, else 0; missing without a loss",
        ),
    )
    SEEDS = "seeds", Spec("int64", "seeds", "with how many it was tried; one where it draws no random number")
    SECONDS = "seconds", number("seconds", "time that it took")
    FAILED = "failed", Spec("str", "failed", "why it could not be tried or measured; else empty")


TRIAL_COLUMNS: dict[TrialColumn, Spec] = {c: c.spec for c in TrialColumn}


class CalibrationColumn(Described):
    """Columns of ``calibration.layers``, one row per layer that `spp.calibrate` looked at, in the order in which they ran."""

    NAME = "name", Spec("str", "module", "qualified module name")
    BEFORE = (
        "before",
        number("before", "ACV of its output when its turn came, the layers before it being scaled already"),
    )
    TARGET = "target", number("target", "what that was to be")
    AFTER = "after", number("after", "what it is")
    FACTOR = (
        "factor",
        number("factor", "root of after over before, by which the weight was multiplied; 1 where it was left"),
    )


CALIBRATION_COLUMNS: dict[CalibrationColumn, Spec] = {c: c.spec for c in CalibrationColumn}


_C = TypeVar("_C", bound=StrEnum)


def further_statistics() -> dict[str, Statistic]:
    """The registered statistics whose columns a frame has only where they were asked for."""
    return {name: row for name, row in ROWS.items() if name not in BUILT_IN}


def statistic_columns() -> dict[str, Spec]:
    """What every column of a statistic holds: those of every frame, then those of statistics registered since."""
    return {str(c): c.spec for c in STATISTICS} | {name: row.column for name, row in further_statistics().items()}


def _specs(found: list[str], columns: Mapping[_C, Spec]) -> dict[str, Spec]:
    """What a table with the columns ``found`` should have."""
    specs: dict[str, Spec] = {str(column): spec for column, spec in columns.items()}
    if columns is COLUMNS:
        specs |= {name: row.column for name in found if (row := further_statistics().get(name)) is not None}
        if found[len(specs) :] == list(PREDICTED):
            specs |= {str(column): spec for column, spec in PREDICTED.items()}
    return specs


def check(frame: pd.DataFrame, columns: Mapping[_C, Spec]) -> pd.DataFrame:
    """Return ``frame`` if it has exactly ``columns``, in order, with their dtypes; else raise.

    ``COLUMNS`` may be followed by those of registered statistics that were asked for, and these by ``PREDICTED``.

    Args:
        frame: The table to check.
        columns: One of the tables of this module, as ``COLUMNS``.

    Raises:
        InputError: A column is missing, unknown or of another dtype; the message names it.
    """
    found = [str(c) for c in frame.columns]
    specs = _specs(found, columns)
    expected = list(specs)
    if expected != found:
        missing = [c for c in expected if c not in found]
        unknown = [c for c in found if c not in expected]
        what = f"missing {missing}, unknown {unknown}" if missing or unknown else "the same columns in another order"
        raise InputError(
            "a frame needs the columns of the schema",
            received=what,
            remedy="See spp.frame.schema; register statistics of your own before a run that has them is loaded, "
            "on the command line with --plugin.",
        )
    for column, spec in specs.items():
        dtype = str(frame[column].dtype)
        if dtype != spec.dtype:
            raise InputError(f"column {column!r} has dtype {spec.dtype}", received=dtype)
        if not spec.missing and frame[column].isna().any():
            raise InputError(f"column {column!r} is never missing", received="missing values")
    return frame


def one_mode(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of training of a table that has rows of evaluations too; any other table as it is.

    An evaluation has no gradients and is counted at the step that comes next, so that the last step of a run would often
    show nothing else.
    """
    if str(Column.MODE) not in table.columns or table.empty:
        return table
    training = table[Column.MODE] == "train"
    return table if training.all() or not training.any() else table[training]


def last_step(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last step of a table; of a run that evaluates too the last step of its training."""
    table = one_mode(table)
    rows: pd.DataFrame = table[table[Column.STEP] == table[Column.STEP].max()]
    return rows
