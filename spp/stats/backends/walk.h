/* The walks over a tensor of one storage type. Expects NAME, STORE (as it lies in memory), REAL (as it is compared) and
 * LOAD (STORE -> REAL), and VECTOR and MASKED (and LOWER and UPPER) where wide.h can take it; takes all of them back at the end. */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define FN(name) JOIN(NAME, name)

/* Element by element: stretches with NaN or infinities in them, and ends that are too short for anything else. */
static void FN(careful)(const STORE *x, int64_t n, int64_t stride, const Cells *cells, int64_t c) {
    for (int64_t i = 0; i < n; i++) {
        double v = (double)LOAD(x[i * stride]);
        if (!isfinite(v)) { cells->bad[c] += 1; continue; }
        double d = v - cells->pivot[c];
        add_to(cells, c, 1, d, d * d, v, v, v == 0);
    }
}

/* Add the sums over `rows` rows of `lanes` neighbouring channels, the first of which is `c`; `stride` lies between two. */
static void FN(close_block)(const STORE *x, int64_t rows, const int64_t *at, const Cells *cells, int64_t c, int lanes, int64_t stride,
                            const double *sum, const double *square, const REAL *low, const REAL *high, const int32_t *zeros) {
    double lost = 0;
    for (int j = 0; j < lanes; j++) lost += sum[j] * 0;
    if (lost == 0) { /* all are finite */
#pragma omp simd
        for (int j = 0; j < lanes; j++) {
            const double least = (double)low[j], most = (double)high[j];
            cells->sum[c + j] += sum[j];
            cells->square[c + j] += square[j];
            cells->count[c + j] += (double)rows;
            cells->zeros[c + j] += (double)zeros[j];
            cells->low[c + j] = least < cells->low[c + j] ? least : cells->low[c + j];
            cells->high[c + j] = most > cells->high[c + j] ? most : cells->high[c + j];
        }
        return;
    }
    for (int j = 0; j < lanes; j++) {
        if (isfinite(sum[j])) { add_to(cells, c + j, rows, sum[j], square[j], (double)low[j], (double)high[j], zeros[j]); continue; }
        for (int64_t r = 0; r < rows; r++) FN(careful)(x + at[r] + j * stride, 1, 1, cells, c + j);
    }
}

/* The first finite element of a channel, 0 where there is none. */
static double FN(first)(const STORE *base, const Layout *l, int64_t outer) {
    for (int64_t o = 0; o < outer; o++) {
        const STORE *row = base + outer_offset(l, o);
        for (int64_t i = 0; i < l->run; i++)
            if (isfinite((double)LOAD(row[i]))) return (double)LOAD(row[i]);
    }
    return 0;
}

/* The same of each channel from..to. */
static void FN(pivots)(const STORE *x, const Layout *l, int64_t outer, int64_t from, int64_t to, const Cells *cells) {
    int64_t missing = 0;
#pragma omp simd reduction(+ : missing)
    for (int64_t c = from; c < to; c++) {
        const REAL v = LOAD(x[c * l->channel_stride]);
        const double wide = (double)v;
        const int64_t finite = v - v == 0;
        cells->pivot[c] = finite ? wide : 0;
        missing += !finite;
    }
    for (int64_t c = from; missing && c < to; c++)
        if (!isfinite((double)LOAD(x[c * l->channel_stride]))) cells->pivot[c] = FN(first)(x + c * l->channel_stride, l, outer);
}

#ifdef VECTOR
#include "wide.h"
#else
#include "narrow.h"
#endif

/* Long rows in the order of memory; a unit is a piece of a row. */
static void FN(rows)(const STORE *x, const Layout *l, int64_t from, int64_t to, const Cells *cells) {
    const int64_t pieces = (l->run + SEGMENT - 1) / SEGMENT;
    int64_t piece = from % pieces, c = from / pieces % l->channels, o = from / pieces / l->channels;
    const STORE *base = x + outer_offset(l, o);
    for (int64_t unit = from; unit < to; unit++) {
        const int64_t start = piece * SEGMENT, left = l->run - start;
        FN(row)(base + c * l->channel_stride + start, left < SEGMENT ? left : SEGMENT, cells, c);
        if (++piece == pieces) {
            piece = 0;
            if (++c == l->channels) { c = 0; base = x + outer_offset(l, ++o); }
        }
    }
}

/* Short rows, channel by channel. */
static void FN(channels)(const STORE *x, const Layout *l, int64_t from, int64_t to, const Cells *cells) {
    const int64_t outer = outer_count(l);
#ifdef APART
    if (outer * l->run <= FEW && l->channel_stride < INT32_MAX / LANES) {
        const int64_t whole = to - (to - from) % LANES;
        FN(pivots)(x, l, outer, from, whole, cells);
        FN(apart)(x, l, outer, from, whole, cells);
        from = whole;
    }
#endif
#ifndef VECTOR
    FN(pivots)(x, l, outer, from, to, cells);
#endif
    const int64_t lead = (LEAD + l->run - 1) / l->run * l->run;
    for (int64_t c = from; c < to; c++) FN(channel)(x + c * l->channel_stride, l, outer, lead, cells, c);
}

/* One element a channel, as in a bias: its pivot is its mean. */
static void FN(single)(const STORE *x, const Layout *l, int64_t from, int64_t to, const Cells *cells) {
#pragma omp simd
    for (int64_t c = from; c < to; c++) {
        const REAL v = LOAD(x[c * l->channel_stride]);
        const double wide = (double)v;
        const int finite = v - v == 0;
        cells->low[c] = finite ? wide : (double)INFINITY;
        cells->high[c] = finite ? wide : -(double)INFINITY;
        cells->zeros[c] = v == 0 ? 1.0 : 0.0;
        cells->bad[c] = finite ? 0.0 : 1.0;
        cells->count[c] = finite ? 1.0 : 0.0;
    }
}

/* Channels that lie side by side; a unit is a row of all of them. */
static void FN(columns)(const STORE *x, const Layout *l, int64_t from, int64_t to, const Cells *cells) {
    int64_t at[MOST_ROWS];
    int64_t tile = TILE / (l->channels ? l->channels : 1);
    tile = tile < FEWEST_ROWS ? FEWEST_ROWS : tile > MOST_ROWS ? MOST_ROWS : tile;
    for (int64_t r = from; r < to; r += tile) {
        const int64_t rows = to - r < tile ? to - r : tile, whole = l->channels - l->channels % LANES;
        for (int64_t i = 0; i < rows; i++) at[i] = outer_offset(l, r + i);
        const STORE *next = x + outer_offset(l, r + rows < to ? r + rows : from); /* the tile after this one, a line for each step */
        for (int64_t c = 0; c < whole; c += LANES) FN(block)(x + c, rows, at, next + c * rows, cells, c);
        if (whole < l->channels) FN(few)(x + whole, rows, at, cells, whole, (int)(l->channels - whole));
    }
}

static void FN(sweep)(const STORE *x, const Layout *l, enum walk walk, int64_t from, int64_t to, const Cells *cells) {
    switch (walk) {
        case SINGLE: FN(single)(x, l, from, to, cells); break;
        case ACROSS: FN(columns)(x, l, from, to, cells); break;
        case BY_CHANNEL: FN(channels)(x, l, from, to, cells); break;
        case IN_ORDER: FN(rows)(x, l, from, to, cells); break;
    }
}

/* How many finite values of the channels from..to lie at or beyond either end. */
static void FN(beyond)(const STORE *x, const Layout *l, int64_t from, int64_t to, const double *ends, double *out) {
    const REAL low = (REAL)ends[0], high = (REAL)ends[1], most = (REAL)INFINITY;
    const int64_t outer = outer_count(l);
    for (int64_t c = from; c < to; c++) out[c] = 0;
    for (int64_t o = 0; o < outer; o++) {
        const STORE *base = x + outer_offset(l, o);
        if (l->columns) {
#pragma omp simd
            for (int64_t c = from; c < to; c++) {
                const REAL v = LOAD(base[c]);
                out[c] += ((v <= low) & (v > -most)) | ((v >= high) & (v < most));
            }
            continue;
        }
        for (int64_t c = from; c < to; c++) {
            const STORE *row = base + c * l->channel_stride;
            int64_t count = 0;
#pragma omp simd reduction(+ : count)
            for (int64_t i = 0; i < l->run; i++) {
                const REAL v = LOAD(row[i]);
                count += ((v <= low) & (v > -most)) | ((v >= high) & (v < most));
            }
            out[c] += (double)count;
        }
    }
}

/* The sum of the squares of what `n` elements lost or gained between two copies, as far as that is finite. */
static double FN(moved)(const STORE *restrict x, const STORE *restrict y, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)LOAD(x[i]) - (double)LOAD(y[i]);
        sum += d * d;
    }
    if (isfinite(sum)) return sum;
    sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)LOAD(x[i]) - (double)LOAD(y[i]);
        sum += isfinite(d) ? d * d : 0;
    }
    return sum;
}

#undef NAME
#undef STORE
#undef REAL
#undef LOAD
#undef VECTOR
#undef MASKED
#undef LOWER
#undef UPPER
#undef APART
#undef FN
#undef JOIN
#undef JOIN_
