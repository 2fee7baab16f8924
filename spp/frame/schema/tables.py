"""The tables beside the frame: blocks, modules, what could not be measured, exponents, channels and findings."""

from enum import StrEnum

from spp.frame.schema.observed import MODE
from spp.frame.schema.spec import Spec
from spp.vocabulary import Severity, Signal


class BlockColumn(StrEnum):
    """Columns of ``trace.blocks``, one row per residual merge (most blocks have one)."""

    STEP = "step"
    DEPTH = "depth"
    BLOCK = "block"
    MERGE = "merge"
    CALL = "call"
    BRANCH = "branch"
    SKIP = "skip"
    TRANSITION = "transition"
    ACSM = "acsm"
    ACV = "acv"
    BRANCH_ACV = "branch_acv"
    GRADIENT_ACSM = "gradient_acsm"
    GRADIENT_ACV = "gradient_acv"
    GRADIENT_BRANCH_ACV = "gradient_branch_acv"
    MODE = "mode"


BLOCK_COLUMNS: dict[BlockColumn, Spec] = {
    BlockColumn.STEP: Spec("int64", "step", "0 for a trace; the training step for a watch"),
    BlockColumn.DEPTH: Spec("Int64", "depth", "depth of the tensor the row describes", missing=True),
    BlockColumn.BLOCK: Spec("str", "block", "qualified name of the residual block"),
    BlockColumn.MERGE: Spec("int64", "merge", "0 for the block's first merge, 1 for its second, ..."),
    BlockColumn.CALL: Spec("int64", "call", "0 for the block's first call in the pass"),
    BlockColumn.BRANCH: Spec("str", "branch", "module whose output ends the residual branch"),
    BlockColumn.SKIP: Spec(
        "str", "skip", "module whose output is the skip, empty for the network's input", missing=True
    ),
    BlockColumn.TRANSITION: Spec("bool", "transition", "whether the skip goes through modules of the block"),
    BlockColumn.ACSM: Spec("float64", "average channel squared mean", "ACSM after the merge", missing=True),
    BlockColumn.ACV: Spec("float64", "average channel variance", "ACV after the merge", missing=True),
    BlockColumn.BRANCH_ACV: Spec(
        "float64", "residual branch ACV", "ACV at the end of the branch, before the merge", missing=True
    ),
    BlockColumn.GRADIENT_ACSM: Spec("float64", "gradient ACSM", "ACSM of the gradient after the merge", missing=True),
    BlockColumn.GRADIENT_ACV: Spec("float64", "gradient ACV", "ACV of the gradient after the merge", missing=True),
    BlockColumn.GRADIENT_BRANCH_ACV: Spec(
        "float64", "gradient branch ACV", "ACV of the gradient at the end of the branch", missing=True
    ),
}


WATCH_BLOCK_COLUMNS: dict[BlockColumn, Spec] = {**BLOCK_COLUMNS, BlockColumn.MODE: MODE}
"""Columns of ``watch.blocks``."""


class ModuleColumn(StrEnum):
    """Columns of ``trace.modules``, one row per module."""

    NAME = "name"
    ALIASES = "aliases"
    TYPE = "type"
    DEPTH = "depth"
    CALLS = "calls"
    LEAF = "leaf"
    TRAINING = "training"
    PARAMETERS = "parameters"
    TRAINABLE = "trainable"
    FAN_IN = "fan_in"
    FAN_OUT = "fan_out"
    GROUPS = "groups"
    EPS = "eps"
    ACTIVATION = "activation"
    TIED = "tied"
    INPUTS = "inputs"


MODULE_COLUMNS: dict[ModuleColumn, Spec] = {
    ModuleColumn.NAME: Spec("str", "module", "qualified name"),
    ModuleColumn.ALIASES: Spec("str", "aliases", "further names of the same module, separated by spaces"),
    ModuleColumn.TYPE: Spec("category", "type", "class name"),
    ModuleColumn.DEPTH: Spec("Int64", "depth", "depth of its first call; missing if it never ran", missing=True),
    ModuleColumn.CALLS: Spec("int64", "calls", "how often it was called in one pass"),
    ModuleColumn.LEAF: Spec("bool", "leaf", "whether it has no children"),
    ModuleColumn.TRAINING: Spec("bool", "training", "its training flag"),
    ModuleColumn.PARAMETERS: Spec("int64", "parameters", "number of its own parameters' elements"),
    ModuleColumn.TRAINABLE: Spec("int64", "trainable", "how many of those require a gradient"),
    ModuleColumn.FAN_IN: Spec("Int64", "fan in", "inputs of one output unit", missing=True),
    ModuleColumn.FAN_OUT: Spec("Int64", "fan out", "output units one input reaches, over the kernel", missing=True),
    ModuleColumn.GROUPS: Spec("Int64", "groups", "groups of a convolution or group norm", missing=True),
    ModuleColumn.EPS: Spec("float64", "eps", "the constant a norm adds to the variance", missing=True),
    ModuleColumn.ACTIVATION: Spec("str", "activation", "name of the nonlinearity, if it is one", missing=True),
    ModuleColumn.TIED: Spec("str", "tied", "parameters it shares, as name=owner.name", missing=True),
    ModuleColumn.INPUTS: Spec(
        "str",
        "inputs",
        "modules whose outputs its calls took, as name or name:call, separated by spaces, calls by commas; `.` for what"
        " came from outside",
        missing=True,
    ),
}


class UnmeasuredColumn(StrEnum):
    """Columns of ``trace.unmeasured``, one row per thing that could not be measured."""

    NAME = "name"
    TYPE = "type"
    CALL = "call"
    OUTPUT = "output"
    SIGNAL = "signal"
    REASON = "reason"


UNMEASURED_COLUMNS: dict[UnmeasuredColumn, Spec] = {
    UnmeasuredColumn.NAME: Spec("str", "module", "qualified module name"),
    UnmeasuredColumn.TYPE: Spec("category", "type", "class name of the module"),
    UnmeasuredColumn.CALL: Spec("Int64", "call", "which call; missing if there was none", missing=True),
    UnmeasuredColumn.OUTPUT: Spec("str", "output", "which output, or the parameter's name"),
    UnmeasuredColumn.SIGNAL: Spec("category", "signal", "which signal is missing", tuple(Signal)),
    UnmeasuredColumn.REASON: Spec("str", "reason", "why"),
}


class ExponentColumn(StrEnum):
    """Columns of ``trace.exponents``, one row per observed tensor, sign and power of two that occurs in it."""

    NAME = "name"
    CALL = "call"
    OUTPUT = "output"
    SIGNAL = "signal"
    SIGN = "sign"
    EXPONENT = "exponent"
    COUNT = "count"


EXPONENT_COLUMNS: dict[ExponentColumn, Spec] = {
    ExponentColumn.NAME: Spec("str", "module", "qualified module name"),
    ExponentColumn.CALL: Spec("int64", "call", "0 for the module's first call in the pass"),
    ExponentColumn.OUTPUT: Spec("str", "output", "which output, or the parameter's name"),
    ExponentColumn.SIGNAL: Spec("category", "signal", "which signal", tuple(Signal)),
    ExponentColumn.SIGN: Spec("int64", "sign", "-1 for negative values, 1 for positive ones"),
    ExponentColumn.EXPONENT: Spec(
        "int64", "exponent", "k of magnitudes in [2^k, 2^(k+1)); the ends, -160 and 160, gather the rest"
    ),
    ExponentColumn.COUNT: Spec("int64", "count", "how many finite, non-zero values"),
}


class ChannelColumn(StrEnum):
    """Columns of ``trace.channels``, two rows per observed tensor: how its channels' means and variances are spread."""

    STEP = "step"
    DEPTH = "depth"
    NAME = "name"
    CALL = "call"
    OUTPUT = "output"
    SIGNAL = "signal"
    STATISTIC = "statistic"
    P10 = "p10"
    P50 = "p50"
    P90 = "p90"
    MIN = "min"
    MAX = "max"


CHANNEL_STATISTICS = ("mean", "var")
"""What is known of each channel: the mean and the biased variance of its finite elements."""

CHANNEL_COLUMNS: dict[ChannelColumn, Spec] = {
    ChannelColumn.STEP: Spec("int64", "step", "0 for a trace; the training step for a watch"),
    ChannelColumn.DEPTH: Spec("Int64", "depth", "as in the frame; missing for a module that never ran", missing=True),
    ChannelColumn.NAME: Spec("str", "module", "qualified module name"),
    ChannelColumn.CALL: Spec("int64", "call", "0 for the module's first call in the pass"),
    ChannelColumn.OUTPUT: Spec("str", "output", "which output, or the parameter's name"),
    ChannelColumn.SIGNAL: Spec("category", "signal", "which signal", tuple(Signal)),
    ChannelColumn.STATISTIC: Spec("category", "statistic", "which number of each channel", CHANNEL_STATISTICS),
    ChannelColumn.P10: Spec("float64", "10 % quantile", "a tenth of the channels lie below", missing=True),
    ChannelColumn.P50: Spec("float64", "median", "half of the channels lie below", missing=True),
    ChannelColumn.P90: Spec("float64", "90 % quantile", "nine tenths of the channels lie below", missing=True),
    ChannelColumn.MIN: Spec("float64", "minimum", "the smallest channel's", missing=True),
    ChannelColumn.MAX: Spec("float64", "maximum", "the largest channel's", missing=True),
}


class FindingColumn(StrEnum):
    """Columns of ``trace.findings``, one row per finding."""

    RULE = "rule"
    SEVERITY = "severity"
    NAME = "name"
    DEPTH = "depth"
    SIGNAL = "signal"
    STATISTIC = "statistic"
    VALUE = "value"
    EXPECTED = "expected"
    MESSAGE = "message"
    REMEDY = "remedy"
    EVIDENCE = "evidence"


FINDING_COLUMNS: dict[FindingColumn, Spec] = {
    FindingColumn.RULE: Spec("str", "rule", "the rule that found it; `spp list rules` describes each"),
    FindingColumn.SEVERITY: Spec("category", "severity", "how bad it is", tuple(Severity)),
    FindingColumn.NAME: Spec(
        "str", "module", "the leaf in which the trouble begins; empty where it is the whole network's"
    ),
    FindingColumn.DEPTH: Spec("Int64", "depth", "depth of that leaf; missing where there is none", missing=True),
    FindingColumn.SIGNAL: Spec("category", "signal", "which signal shows it", tuple(Signal), missing=True),
    FindingColumn.STATISTIC: Spec("str", "statistic", "what `value` measures", missing=True),
    FindingColumn.VALUE: Spec("float64", "value", "the number that was found", missing=True),
    FindingColumn.EXPECTED: Spec("str", "expected", "what the rule would have taken", missing=True),
    FindingColumn.MESSAGE: Spec("str", "message", "the finding in a sentence or two"),
    FindingColumn.REMEDY: Spec("str", "remedy", "what to try, options of the command line between backticks"),
    FindingColumn.EVIDENCE: Spec("str", "evidence", "the layers concerned and their numbers"),
}
