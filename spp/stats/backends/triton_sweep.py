"""The sweep for CUDA, in Triton: two kernels, of which :mod:`spp.stats.backends.cuda` alone is the launcher.

``sweep`` reads every element once. A program takes a block of channels and a range of tiles, centres what it reads on the mean
of its first tile, and keeps sums for each place of a tile, in float64, until its end: nothing waits for another thread while
memory is read. What the centring leaves to cancel is bounded, since the first tile is part of the data. ``merge`` joins the
programs' tables (Chan, Golub & LeVeque 1983). Nothing is added atomically, so equal inputs give equal bits, and no number goes
to the host.

Types are missing here because Triton compiles these functions: they are not Python.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton
import triton.language as tl

from spp.stats.sums import Row

# Triton lets a kernel read a global where that is a constexpr alone
COUNT = tl.constexpr(int(Row.COUNT))
MEAN = tl.constexpr(int(Row.MEAN))
M2 = tl.constexpr(int(Row.M2))
MIN = tl.constexpr(int(Row.MIN))
MAX = tl.constexpr(int(Row.MAX))
ZEROS = tl.constexpr(int(Row.ZEROS))
NONFINITE = tl.constexpr(int(Row.NONFINITE))
SATURATED = tl.constexpr(int(Row.SATURATED))


@triton.jit
def _elements_of_rows(row, n0, s0, n1, s1, n2, s2, n3, s3, n4, s4, DIMS: tl.constexpr):
    """Where the row with this number begins, relative to its channel; axes are numbered from the fastest."""
    if DIMS == 1:
        at = row * s0
    else:
        at = (row % n0) * s0
        row = row // n0
        at += (row % n1) * s1
        if DIMS > 2:
            row = row // n1
            at += (row % n2) * s2
        if DIMS > 3:
            row = row // n2
            at += (row % n3) * s3
        if DIMS > 4:
            row = row // n3
            at += (row % n4) * s4
    return at


@triton.jit
def _first_mean(values, finite, DOUBLE: tl.constexpr):
    """The mean of each row's finite values, ``(channels, elements) -> (channels,)`` float64; 0 where there are none."""
    many = tl.sum(finite.to(tl.int32), 1)
    low = tl.min(tl.where(finite, values, float("inf")), 1).to(tl.float64)
    high = tl.max(tl.where(finite, values, float("-inf")), 1).to(tl.float64)
    mean = tl.sum(tl.where(finite, values, 0.0).to(tl.float64), 1) / tl.maximum(many, 1).to(tl.float64)
    # between the extremes: equal values are exactly their own mean
    return tl.where(many > 0, tl.minimum(tl.maximum(mean, low), high), 0.0)


@triton.jit
def _join(count, mean, m2, more, other_mean, other_m2):
    """Mean and m2 of both sets of elements together."""
    share = more.to(tl.float64) / tl.maximum(count + more, 1).to(tl.float64)
    delta = other_mean - mean
    return mean + delta * share, m2 + other_m2 + delta * delta * count.to(tl.float64) * share


@triton.jit
def _write(table, row: tl.constexpr, length, at, values, live):
    """Store into one row of a table whose rows are ``length`` numbers long."""
    tl.store(table + (row * length + at), values, mask=live)


@triton.jit(do_not_specialize=["outer", "per", "repeats", "n0", "n1", "n2", "n3", "n4", "low_end", "high_end"])
def sweep(
    x,
    out,
    channels,
    channel_stride,
    run,
    outer,
    per,
    repeats,
    low_end,
    high_end,
    n0,
    s0,
    n1,
    s1,
    n2,
    s2,
    n3,
    s3,
    n4,
    s4,
    DIMS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_R: tl.constexpr,
    ADJACENT: tl.constexpr,
    ENDS: tl.constexpr,
    WIDE: tl.constexpr,
    DOUBLE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Write the table of one program's tiles, ``out[:, part, channel]`` of ``(8, parts, channels)`` float64.

    A channel's elements are ``outer`` rows, over up to five axes of sizes ``n`` and strides ``s``, of ``run`` adjacent numbers.
    ADJACENT says that channels are a stride of 1 apart, WIDE that offsets need 64 bits, ENDS that values beyond either end
    are counted. ``per`` tiles fall to each program.
    """
    part = tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    live = channel < channels
    place = tl.arange(0, BLOCK_O * BLOCK_R)
    down, along = place // BLOCK_R, place % BLOCK_R
    start = channel
    if WIDE:
        start, down, along = start.to(tl.int64), down.to(tl.int64), along.to(tl.int64)
    if not ADJACENT:
        start = start * channel_stride
    across = tl.cdiv(run, BLOCK_R)
    first = part * per
    last = tl.minimum(first + per, tl.cdiv(outer, BLOCK_O) * across)

    # finite values, and 2^16 times the zeros among them: one register less
    packed = tl.zeros([BLOCK_C, BLOCK_O * BLOCK_R], tl.int32)
    beyond, total = packed, packed.to(tl.float64)
    squares, pivot = total, tl.zeros([BLOCK_C], tl.float64)
    low = tl.full([BLOCK_C, BLOCK_O * BLOCK_R], float("inf"), tl.float64 if DOUBLE else tl.float32)
    high = -low
    seen = first * 0
    for tile in tl.range(first, last, num_stages=STAGES):
        row, column = tile // across * BLOCK_O + down, tile % across * BLOCK_R + along
        inside = live[:, None] & ((row < outer) & (column < run))[None, :]
        begin = _elements_of_rows(row, n0, s0, n1, s1, n2, s2, n3, s3, n4, s4, DIMS)
        values = tl.load(x + (start[:, None] + (begin + column)[None, :]), mask=inside, other=0.0)
        values = values.to(tl.float64) if DOUBLE else values.to(tl.float32)
        finite = inside & (tl.abs(values) < float("inf"))
        if tile == first:
            pivot = _first_mean(values, finite, DOUBLE)
        off = tl.where(finite, values.to(tl.float64) - pivot[:, None], 0.0)
        total += off
        squares += off * off
        low = tl.minimum(low, tl.where(finite, values, float("inf")))
        high = tl.maximum(high, tl.where(finite, values, float("-inf")))
        packed += tl.where(finite, tl.where(values == 0, 65537, 1), 0)
        if ENDS:
            beyond += (finite & ((values <= low_end) | (values >= high_end))).to(tl.int32)
        rows = tl.minimum(outer - tile // across * BLOCK_O, BLOCK_O)
        seen += rows * tl.minimum(run - tile % across * BLOCK_R, BLOCK_R)

    count = tl.sum(packed & 65535, 1)
    zeros = tl.sum(packed >> 16, 1)
    sums = tl.sum(total, 1)
    shift = sums / tl.maximum(count, 1).to(tl.float64)
    mean = pivot + shift
    m2 = tl.maximum(tl.sum(squares, 1) - sums * shift, 0.0)
    # 64 bits: programs times channels times rows may be more than 2^31
    length = tl.num_programs(1).to(tl.int64) * channels
    at = part.to(tl.int64) * channels + channel
    times = repeats.to(tl.float64)
    _write(out, COUNT, length, at, count * times, live)
    _write(out, MEAN, length, at, mean, live)
    _write(out, M2, length, at, m2 * times, live)
    _write(out, MIN, length, at, tl.min(low, 1), live)
    _write(out, MAX, length, at, tl.max(high, 1), live)
    _write(out, ZEROS, length, at, zeros * times, live)
    _write(out, NONFINITE, length, at, (seen - count) * times, live)
    _write(out, SATURATED, length, at, tl.sum(beyond, 1) * times, live)


@triton.jit
def _read(table, row: tl.constexpr, length, at, inside, other):
    """Load from one row of a table whose rows are ``length`` numbers long."""
    return tl.load(table + (row * length + at), mask=inside, other=other)


@triton.jit(do_not_specialize=["parts", "channels", "repeats"])
def merge(tables, out, parts, channels, fold, repeats, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Merge ``(8, parts, channels * fold)`` into ``(8, channels)``: ``fold`` neighbouring columns make one channel."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    live = channel < channels
    columns = channels * fold
    pieces = parts * fold
    length = parts.to(tl.int64) * columns

    count = tl.zeros([BLOCK_C], tl.float64)
    mean, m2, zeros, nonfinite, beyond = count, count, count, count, count
    low, high = count + float("inf"), count - float("inf")
    for begin in range(0, pieces, BLOCK_P):
        piece = begin + tl.arange(0, BLOCK_P)
        inside = live[:, None] & (piece < pieces)[None, :]
        at = (piece // fold).to(tl.int64)[None, :] * columns + (channel[:, None] * fold + (piece % fold)[None, :])
        n = _read(tables, COUNT, length, at, inside, 0.0)
        means = _read(tables, MEAN, length, at, inside, 0.0)
        squares = _read(tables, M2, length, at, inside, 0.0)
        more = tl.sum(n, 1)
        pivot = tl.sum(n * means, 1) / tl.maximum(more, 1.0)
        off = tl.where(n > 0, means - pivot[:, None], 0.0)
        rest = tl.sum(n * off, 1) / tl.maximum(more, 1.0)
        other_m2 = tl.sum(squares, 1) + tl.sum(n * off * off, 1) - more * rest * rest
        mean, m2 = _join(count, mean, m2, more, pivot + rest, tl.maximum(other_m2, 0.0))
        count += more
        low = tl.minimum(low, tl.min(_read(tables, MIN, length, at, inside, float("inf")), 1))
        high = tl.maximum(high, tl.max(_read(tables, MAX, length, at, inside, float("-inf")), 1))
        zeros += tl.sum(_read(tables, ZEROS, length, at, inside, 0.0), 1)
        nonfinite += tl.sum(_read(tables, NONFINITE, length, at, inside, 0.0), 1)
        beyond += tl.sum(_read(tables, SATURATED, length, at, inside, 0.0), 1)

    times = repeats.to(tl.float64)
    _write(out, COUNT, channels, channel, count * times, live)
    _write(out, MEAN, channels, channel, mean, live)
    _write(out, M2, channels, channel, m2 * times, live)
    _write(out, MIN, channels, channel, low, live)
    _write(out, MAX, channels, channel, high, live)
    _write(out, ZEROS, channels, channel, zeros * times, live)
    _write(out, NONFINITE, channels, channel, nonfinite * times, live)
    _write(out, SATURATED, channels, channel, beyond * times, live)
