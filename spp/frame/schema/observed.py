"""The frame: one row per observed tensor, of a trace or of a watch, and what may follow it."""

from enum import StrEnum

from spp.frame.schema.spec import Spec
from spp.vocabulary import Role, Signal


class Column(StrEnum):
    """Columns of ``trace.frame``, one row per observed tensor; the last two in a watch alone."""

    STEP = "step"
    DEPTH = "depth"
    NAME = "name"
    CALL = "call"
    OUTPUT = "output"
    TYPE = "type"
    LEAF = "leaf"
    SIGNAL = "signal"
    ROLE = "role"
    BLOCK = "block"
    SHAPE = "shape"
    DTYPE = "dtype"
    CHANNELS = "channels"
    NUMEL = "numel"
    MEAN = "mean"
    VAR = "var"
    STD = "std"
    MEAN_SQUARE = "mean_square"
    RMS = "rms"
    ACSM = "acsm"
    ACV = "acv"
    MIN = "min"
    MAX = "max"
    ABS_MAX = "abs_max"
    ZERO_FRACTION = "zero_fraction"
    DEAD_FRACTION = "dead_fraction"
    SATURATED_FRACTION = "saturated_fraction"
    NONFINITE = "nonfinite"
    KURTOSIS = "kurtosis"
    MODE = "mode"
    UPDATE_RATIO = "update_ratio"
    ACSM_PREDICTED = "acsm_predicted"
    ACV_PREDICTED = "acv_predicted"
    GRADIENT_PREDICTED = "gradient_predicted"
    LOG_SPREAD_PREDICTED = "log_spread_predicted"


COLUMNS: dict[Column, Spec] = {
    Column.STEP: Spec("int64", "step", "0 for a trace; the training step for a watch"),
    Column.DEPTH: Spec(
        "Int64",
        "depth",
        "order in which the module calls finished, 0 for the first; missing for a module that never ran",
        missing=True,
    ),
    Column.NAME: Spec("str", "module", "qualified module name, empty for the root"),
    Column.CALL: Spec("int64", "call", "0 for the module's first call in the pass"),
    Column.OUTPUT: Spec("str", "output", "which output (empty for a lone tensor), or the parameter's name"),
    Column.TYPE: Spec("category", "type", "class name of the module"),
    Column.LEAF: Spec("bool", "leaf", "whether the module has no children"),
    Column.SIGNAL: Spec("category", "signal", "which signal the row is about", tuple(Signal)),
    Column.ROLE: Spec("category", "role", "part played at a residual merge", tuple(Role), missing=True),
    Column.BLOCK: Spec("str", "block", "innermost enclosing residual block", missing=True),
    Column.SHAPE: Spec("str", "shape", "shape of one batch's tensor, as 32x64x56x56; empty for a scalar"),
    Column.DTYPE: Spec("str", "dtype", "dtype of the tensor, as float32"),
    Column.CHANNELS: Spec("int64", "channels", "number of channels the statistics average over"),
    Column.NUMEL: Spec("int64", "elements", "number of elements, over all merged batches and ranks"),
    Column.MEAN: Spec("float64", "mean", "mean over every element", missing=True),
    Column.VAR: Spec("float64", "variance", "biased variance over every element", missing=True),
    Column.STD: Spec("float64", "standard deviation", "square root of the variance", missing=True),
    Column.MEAN_SQUARE: Spec("float64", "mean square", "mean of the squares over every element", missing=True),
    Column.RMS: Spec("float64", "root mean square", "square root of the mean square", missing=True),
    Column.ACSM: Spec("float64", "average channel squared mean", "mean over channels of mean squared", missing=True),
    Column.ACV: Spec("float64", "average channel variance", "mean over channels of the biased variance", missing=True),
    Column.MIN: Spec("float64", "minimum", "smallest finite element", missing=True),
    Column.MAX: Spec("float64", "maximum", "largest finite element", missing=True),
    Column.ABS_MAX: Spec("float64", "largest magnitude", "largest magnitude of a finite element", missing=True),
    Column.ZERO_FRACTION: Spec("float64", "share of zeros", "share of exact zeros", missing=True),
    Column.DEAD_FRACTION: Spec(
        "float64",
        "share of dead channels",
        "share of channels whose spread is below 1e-6 of the tensor's rms, or that are all zero",
        missing=True,
    ),
    Column.SATURATED_FRACTION: Spec(
        "float64",
        "share of saturated values",
        "share of values within 1 % of a finite end of the activation's range; missing where there is none",
        missing=True,
    ),
    Column.NONFINITE: Spec("int64", "non-finite values", "how many elements are NaN or infinite"),
    Column.KURTOSIS: Spec("float64", "kurtosis", "fourth standardized moment, where asked for", missing=True),
}

PREDICTED: dict[Column, Spec] = {
    Column.ACSM_PREDICTED: Spec(
        "float64", "ACSM (theory)", "the ACSM that mean-field theory expects, of an activation", missing=True
    ),
    Column.ACV_PREDICTED: Spec(
        "float64", "ACV (theory)", "the ACV that mean-field theory expects, of an activation", missing=True
    ),
    Column.GRADIENT_PREDICTED: Spec(
        "float64", "gradient mean square (theory)", "the mean square it expects, of a gradient", missing=True
    ),
    Column.LOG_SPREAD_PREDICTED: Spec(
        "float64",
        "spread of the log (theory)",
        "standard deviation of the natural log of the mean square that it expects over draws of the weights",
        missing=True,
    ),
}
"""Columns that follow those of the frame where a prediction was attached (:func:`spp.theory.attach`): all of them, or none."""


MODE = Spec("category", "mode", "whether the root was training or evaluating", ("train", "eval"))
"""Follows the columns of a trace wherever a watch has rows."""

WATCH_COLUMNS: dict[Column, Spec] = {
    **COLUMNS,
    Column.MODE: MODE,
    Column.UPDATE_RATIO: Spec(
        "float64",
        "update ratio",
        "size of the optimizer's update of a weight, relative to the weight before it: ||w' - w|| / ||w||",
        missing=True,
    ),
}
"""Columns of ``watch.frame``: those of a trace, and two that only training has."""


STATISTICS: tuple[Column, ...] = (
    Column.MEAN,
    Column.VAR,
    Column.STD,
    Column.MEAN_SQUARE,
    Column.RMS,
    Column.ACSM,
    Column.ACV,
    Column.MIN,
    Column.MAX,
    Column.ABS_MAX,
    Column.ZERO_FRACTION,
    Column.DEAD_FRACTION,
    Column.SATURATED_FRACTION,
    Column.NONFINITE,
    Column.KURTOSIS,
)
"""The columns that are numbers about a tensor's values, in the order of the frame."""
