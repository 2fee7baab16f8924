/* One sweep over memory in order: per-channel count, sums about a pivot, extremes, zeros and non-finite values.
 *
 * A tensor is an outer walk (up to SPP_DIMS axes), C channels and an inner run. Two shapes of the sweep:
 *   rows:     the run is contiguous (stride 1) and belongs to one channel;
 *   columns:  the channels are contiguous (stride 1) and the run is one element.
 * Sums are taken in double of (x - pivot), where the pivot is an element of the channel: nothing cancels, and sums over parts of
 * a tensor add up to the sums over the whole to double rounding. Only where a sum comes out non-finite is the stretch looked at
 * again, element by element. No torch headers, no library: OpenMP symbols resolve against the runtime that torch has loaded.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SPP_DIMS 6
#define SEGMENT 32768  /* elements of one unit of work inside a long run */
#define TILE 24576     /* elements of one tile of rows in the column sweep: stays in the first caches */
#define LANES 16
#define SHORT 256     /* rows up to this length are packed */
#define PACK 2048

typedef struct {
    int64_t dims, size[SPP_DIMS], stride[SPP_DIMS]; /* outer walk, slowest first; strides in elements */
    int64_t channels, channel_stride, run;
} Layout;

typedef struct { double pivot, sum, square, low, high, zeros, bad, count; } Cell;

static inline float from_bf16(uint16_t b) { uint32_t u = (uint32_t)b << 16; float f; memcpy(&f, &u, 4); return f; }

#if defined(__FLT16_MAX__)
typedef _Float16 half_t;
static inline float from_half(half_t h) { return (float)h; }
#define HAS_HALF 1
#else
#define HAS_HALF 0
#endif

static int64_t outer_offset(const Layout *l, int64_t index) {
    int64_t offset = 0;
    for (int64_t d = l->dims - 1; d >= 0; d--) {
        offset += (index % l->size[d]) * l->stride[d];
        index /= l->size[d];
    }
    return offset;
}

static int64_t outer_count(const Layout *l) {
    int64_t n = 1;
    for (int64_t d = 0; d < l->dims; d++) n *= l->size[d];
    return n;
}

static void merge_cells(Cell *into, const Cell *from, int64_t channels) { /* equal pivots: plain sums */
    for (int64_t c = 0; c < channels; c++) {
        into[c].sum += from[c].sum;
        into[c].square += from[c].square;
        into[c].zeros += from[c].zeros;
        into[c].bad += from[c].bad;
        into[c].count += from[c].count;
        if (from[c].low < into[c].low) into[c].low = from[c].low;
        if (from[c].high > into[c].high) into[c].high = from[c].high;
    }
}

static void clear_cell(Cell *cell, double pivot) {
    memset(cell, 0, sizeof *cell);
    cell->pivot = pivot;
    cell->low = INFINITY;
    cell->high = -INFINITY;
}

/* T: storage type, W: the type compared in (float for all but double), LOAD: T -> W */
#define DEFINE_SWEEP(NAME, T, W, LOAD)                                                                                   \
    static void NAME##_careful(const T *x, int64_t n, int64_t stride, Cell *cell) {                                      \
        for (int64_t i = 0; i < n; i++) {                                                                                \
            double v = (double)LOAD(x[i * stride]);                                                                      \
            if (!isfinite(v)) { cell->bad += 1; continue; }                                                              \
            double d = v - cell->pivot;                                                                                  \
            cell->sum += d;                                                                                              \
            cell->square += d * d;                                                                                       \
            cell->count += 1;                                                                                            \
            cell->zeros += v == 0;                                                                                       \
            if (v < cell->low) cell->low = v;                                                                            \
            if (v > cell->high) cell->high = v;                                                                          \
        }                                                                                                                \
    }                                                                                                                    \
    static void NAME##_row(const T *restrict x, int64_t n, Cell *restrict cell) {                                        \
        const double pivot = cell->pivot;                                                                                \
        double sum = 0, square = 0;                                                                                      \
        W low = (W)INFINITY, high = -(W)INFINITY;                                                                        \
        int32_t zeros = 0;                                                                                               \
        _Pragma("omp simd reduction(+ : sum, square, zeros) reduction(min : low) reduction(max : high)")                 \
        for (int64_t i = 0; i < n; i++) {                                                                                \
            W v = LOAD(x[i]);                                                                                            \
            double d = (double)v - pivot;                                                                                \
            sum += d;                                                                                                    \
            square += d * d;                                                                                             \
            low = v < low ? v : low;                                                                                     \
            high = v > high ? v : high;                                                                                  \
            zeros += v == 0;                                                                                             \
        }                                                                                                                \
        if (!isfinite(sum)) { NAME##_careful(x, n, 1, cell); return; }                                                   \
        cell->sum += sum;                                                                                                \
        cell->square += square;                                                                                          \
        cell->zeros += zeros;                                                                                            \
        cell->count += (double)n;                                                                                        \
        if ((double)low < cell->low) cell->low = (double)low;                                                            \
        if ((double)high > cell->high) cell->high = (double)high;                                                        \
    }                                                                                                                    \
    /* `rows` rows, `width` <= LANES neighbouring channels */                                                            \
    static void NAME##_block(const T *restrict x, int64_t rows, const int64_t *restrict at, int64_t width, Cell *cells) { \
        double pivot[LANES], sum[LANES], square[LANES];                                                                  \
        W low[LANES], high[LANES];                                                                                       \
        int32_t zeros[LANES];                                                                                            \
        for (int j = 0; j < LANES; j++) {                                                                                \
            pivot[j] = j < width ? cells[j].pivot : 0;                                                                   \
            sum[j] = square[j] = 0;                                                                                      \
            zeros[j] = 0;                                                                                                \
            low[j] = (W)INFINITY;                                                                                        \
            high[j] = -(W)INFINITY;                                                                                      \
        }                                                                                                                \
        if (width == LANES) {                                                                                            \
            for (int64_t r = 0; r < rows; r++) {                                                                         \
                const T *row = x + at[r];                                                                                \
                _Pragma("omp simd") for (int j = 0; j < LANES; j++) {                                                    \
                    W v = LOAD(row[j]);                                                                                  \
                    double d = (double)v - pivot[j];                                                                     \
                    sum[j] += d;                                                                                         \
                    square[j] += d * d;                                                                                  \
                    low[j] = v < low[j] ? v : low[j];                                                                    \
                    high[j] = v > high[j] ? v : high[j];                                                                 \
                    zeros[j] += v == 0;                                                                                  \
                }                                                                                                        \
            }                                                                                                            \
        } else {                                                                                                         \
            for (int64_t r = 0; r < rows; r++) {                                                                         \
                const T *row = x + at[r];                                                                                \
                for (int j = 0; j < (int)width; j++) {                                                                   \
                    W v = LOAD(row[j]);                                                                                  \
                    double d = (double)v - pivot[j];                                                                     \
                    sum[j] += d;                                                                                         \
                    square[j] += d * d;                                                                                  \
                    low[j] = v < low[j] ? v : low[j];                                                                    \
                    high[j] = v > high[j] ? v : high[j];                                                                 \
                    zeros[j] += v == 0;                                                                                  \
                }                                                                                                        \
            }                                                                                                            \
        }                                                                                                                \
        for (int j = 0; j < (int)width; j++) {                                                                           \
            Cell *cell = cells + j;                                                                                      \
            if (!isfinite(sum[j])) {                                                                                     \
                for (int64_t r = 0; r < rows; r++) NAME##_careful(x + at[r] + j, 1, 1, cell);                            \
                continue;                                                                                                \
            }                                                                                                            \
            cell->sum += sum[j];                                                                                         \
            cell->square += square[j];                                                                                   \
            cell->zeros += zeros[j];                                                                                     \
            cell->count += (double)rows;                                                                                 \
            if ((double)low[j] < cell->low) cell->low = (double)low[j];                                                  \
            if ((double)high[j] > cell->high) cell->high = (double)high[j];                                              \
        }                                                                                                                \
    }                                                                                                                    \
    static void NAME##_pivots(const T *x, const Layout *l, int64_t outer, Cell *cells) {                                 \
        for (int64_t c = 0; c < l->channels; c++) {                                                                      \
            double pivot = (double)LOAD(x[c * l->channel_stride]);                                                       \
            for (int64_t o = 0; o < outer && !isfinite(pivot); o++) {                                                    \
                const T *row = x + outer_offset(l, o) + c * l->channel_stride;                                           \
                for (int64_t i = 0; i < l->run && !isfinite(pivot); i++) pivot = (double)LOAD(row[i]);                   \
            }                                                                                                            \
            clear_cell(cells + c, isfinite(pivot) ? pivot : 0);                                                          \
        }                                                                                                                \
    }                                                                                                                    \
    static void NAME##_rows(const T *x, const Layout *l, int64_t from, int64_t to, Cell *cells) {                        \
        const int64_t pieces = (l->run + SEGMENT - 1) / SEGMENT;                                                         \
        int64_t piece = from % pieces, c = from / pieces % l->channels, o = from / pieces / l->channels;                 \
        const T *base = x + outer_offset(l, o);                                                                          \
        for (int64_t unit = from; unit < to; unit++) {                                                                   \
            const int64_t start = piece * SEGMENT, left = l->run - start;                                                \
            NAME##_row(base + c * l->channel_stride + start, left < SEGMENT ? left : SEGMENT, cells + c);                \
            if (++piece == pieces) {                                                                                     \
                piece = 0;                                                                                               \
                if (++c == l->channels) { c = 0; base = x + outer_offset(l, ++o); }                                      \
            }                                                                                                            \
        }                                                                                                                \
    }                                                                                                                    \
    static void NAME##_single(const T *x, const Layout *l, int64_t from, int64_t to, Cell *cells) {                      \
        for (int64_t c = from; c < to; c++) NAME##_careful(x + c * l->channel_stride, 1, 1, cells + c);                  \
    }                                                                                                                    \
    /* Short rows: those of one channel are packed side by side first, since starting and closing a row costs more than it. */ \
    static void NAME##_packed(const T *x, const Layout *l, int64_t from, int64_t to, Cell *cells) {                      \
        T pack[PACK];                                                                                                    \
        const int64_t outer = outer_count(l), run = l->run;                                                              \
        for (int64_t c = from; c < to; c++) {                                                                            \
            const T *base = x + c * l->channel_stride;                                                                   \
            int64_t filled = 0;                                                                                          \
            for (int64_t o = 0; o < outer; o++) {                                                                        \
                const T *row = base + (l->dims == 1 ? o * l->stride[0] : outer_offset(l, o));                            \
                if (filled + run > PACK) { NAME##_row(pack, filled, cells + c); filled = 0; }                            \
                for (int64_t i = 0; i < run; i++) pack[filled + i] = row[i];                                             \
                filled += run;                                                                                           \
            }                                                                                                            \
            NAME##_row(pack, filled, cells + c);                                                                         \
        }                                                                                                                \
    }                                                                                                                    \
    static void NAME##_columns(const T *x, const Layout *l, int64_t from, int64_t to, Cell *cells) {                     \
        int64_t at[1024];                                                                                                \
        int64_t tile = TILE / (l->channels ? l->channels : 1);                                                           \
        tile = tile < 16 ? 16 : tile > 1024 ? 1024 : tile;                                                               \
        for (int64_t r = from; r < to; r += tile) {                                                                      \
            const int64_t rows = to - r < tile ? to - r : tile;                                                          \
            for (int64_t i = 0; i < rows; i++) at[i] = l->dims == 1 ? (r + i) * l->stride[0] : outer_offset(l, r + i);   \
            for (int64_t c = 0; c < l->channels; c += LANES) {                                                           \
                const int64_t width = l->channels - c < LANES ? l->channels - c : LANES;                                 \
                NAME##_block(x + c, rows, at, width, cells + c);                                                         \
            }                                                                                                            \
        }                                                                                                                \
    }

#define SAME(v) (v)
DEFINE_SWEEP(f32, float, float, SAME)
DEFINE_SWEEP(f64, double, double, SAME)
DEFINE_SWEEP(bf16, uint16_t, float, from_bf16)
#if HAS_HALF
DEFINE_SWEEP(f16, half_t, float, from_half)
#endif

/* What this build can reduce: bit i for dtype i of spp_sweep. */
int spp_dtypes(void) { return 1 | 2 | 4 | (HAS_HALF ? 8 : 0); }

/* What spp_summary writes for each reading. */
enum { TOTAL, NONFINITE, MEAN, VAR, MEAN_SQUARE, ACSM, ACV, MIN, MAX, ZERO_FRACTION, DEAD_FRACTION, SATURATED_FRACTION, COLUMNS };

/* The same numbers straight from the cells of one tensor, of which each element counts `repeats` times; dead as below. */
static void summarize_cells(const Cell *cells, int64_t channels, double repeats, double dead, double *out) {
    double total = 0, lost = 0, sum = 0, squares = 0, means = 0, acsm = 0, acv = 0, zero = 0, least = INFINITY, most = -INFINITY;
    int64_t live = 0, still = 0;
    for (int64_t c = 0; c < channels; c++) {
        const Cell *cell = cells + c;
        const double n = cell->count;
        lost += cell->bad;
        if (!(n > 0)) continue;
        const double shift = cell->sum / n, mean = cell->pivot + shift, left = cell->square - cell->sum * shift;
        const double m2 = left > 0 ? left : 0;
        live++;
        total += n;
        sum += n * mean;
        squares += m2;
        means += n * mean * mean;
        acsm += mean * mean;
        acv += m2 / n;
        zero += cell->zeros;
        if (cell->low < least) least = cell->low;
        if (cell->high > most) most = cell->high;
    }
    const double middle = sum / total, mean_square = (squares + means) / total, limit = dead * dead * mean_square;
    double between = 0;
    for (int64_t c = 0; c < channels; c++) {
        const Cell *cell = cells + c;
        const double n = cell->count;
        if (!(n > 0)) continue;
        const double shift = cell->sum / n, off = cell->pivot + shift - middle, left = cell->square - cell->sum * shift;
        between += n * off * off;
        still += (left > 0 ? left : 0) < limit * n || cell->zeros == n;
    }
    out[TOTAL] = total * repeats;
    out[NONFINITE] = lost * repeats;
    out[MEAN] = middle;
    out[VAR] = (squares + between) / total;
    out[MEAN_SQUARE] = mean_square;
    out[ACSM] = acsm / (double)live;
    out[ACV] = acv / (double)live;
    out[MIN] = live ? least : NAN;
    out[MAX] = live ? most : NAN;
    out[ZERO_FRACTION] = zero / total;
    out[DEAD_FRACTION] = (double)still / (double)live;
    out[SATURATED_FRACTION] = 0 / total;
}

/* Fill table (8 x C doubles: count, mean, m2, min, max, zeros, non-finite, saturated = 0), or, where table is null, the COLUMNS
 * numbers of summary. dtype: 0 float, 1 double, 2 bfloat16, 3 half. Returns 0, or 1 when memory ran out or the dtype is unknown. */
int spp_sweep(const void *x, int dtype, int columns, int64_t dims, const int64_t *size, const int64_t *stride, int64_t channels,
              int64_t channel_stride, int64_t run, int threads, double *table, double repeats, double dead, double *summary) {
    Layout layout = {.dims = dims, .channels = channels, .channel_stride = channel_stride, .run = run};
    for (int64_t d = 0; d < dims; d++) { layout.size[d] = size[d]; layout.stride[d] = stride[d]; }
    const Layout *l = &layout;
    const int64_t outer = outer_count(l), pieces = (run + SEGMENT - 1) / SEGMENT;
    const int single = outer == 1 && run == 1; /* one element a channel, as in a bias */
    const int packed = !columns && run <= SHORT && outer > 1;
    const int64_t units = single || packed ? channels : columns ? outer : outer * channels * pieces;
    if (threads > units) threads = (int)units;
    if (threads < 1) threads = 1;
    if (dtype < 0 || dtype > 3 || !(spp_dtypes() >> dtype & 1)) return 1;
    Cell *cells = malloc(sizeof(Cell) * (size_t)(channels * threads));
    if (!cells) return 1;
    switch (dtype) {
        case 0: f32_pivots(x, l, outer, cells); break;
        case 1: f64_pivots(x, l, outer, cells); break;
        case 2: bf16_pivots(x, l, outer, cells); break;
#if HAS_HALF
        case 3: f16_pivots(x, l, outer, cells); break;
#endif
    }
    for (int t = 1; t < threads; t++) memcpy(cells + t * channels, cells, sizeof(Cell) * (size_t)channels);
#define RUN(NAME)                                                                                                        \
    if (single) NAME##_single(x, l, from, to, mine);                                                                     \
    else if (columns) NAME##_columns(x, l, from, to, mine);                                                                   \
    else if (packed) NAME##_packed(x, l, from, to, mine);                                                                \
    else NAME##_rows(x, l, from, to, mine)
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        const int64_t from = units * t / threads, to = units * (t + 1) / threads;
        Cell *mine = cells + t * channels;
        switch (dtype) {
            case 0: RUN(f32); break;
            case 1: RUN(f64); break;
            case 2: RUN(bf16); break;
#if HAS_HALF
            case 3: RUN(f16); break;
#endif
        }
    }
    for (int t = 1; t < threads; t++) merge_cells(cells, cells + t * channels, channels);
    if (!table) {
        summarize_cells(cells, channels, repeats, dead, summary);
        free(cells);
        return 0;
    }
    double *count = table, *mean = count + channels, *m2 = mean + channels, *low = m2 + channels, *high = low + channels,
           *zeros = high + channels, *bad = zeros + channels, *saturated = bad + channels;
    for (int64_t c = 0; c < channels; c++) {
        const Cell *cell = cells + c;
        const double n = cell->count, shift = n > 0 ? cell->sum / n : 0;
        const double left = cell->square - cell->sum * shift;
        count[c] = n;
        mean[c] = n > 0 ? cell->pivot + shift : 0;
        m2[c] = left > 0 ? left : 0;
        low[c] = cell->low;
        high[c] = cell->high;
        zeros[c] = cell->zeros;
        bad[c] = cell->bad;
        saturated[c] = 0;
    }
    free(cells);
    return 0;
}

/* The numbers of `readings` tables as spp_sweep makes them: out is readings x COLUMNS, dead a share of the rms. */
void spp_summary(int64_t readings, const double *const *tables, const int64_t *channels, double dead, double *out) {
    for (int64_t r = 0; r < readings; r++, out += COLUMNS) {
        const int64_t n = channels[r];
        const double *count = tables[r], *mean = count + n, *m2 = mean + n, *low = m2 + n, *high = low + n, *zeros = high + n,
                     *bad = zeros + n, *saturated = bad + n;
        double total = 0, lost = 0, sum = 0, squares = 0, means = 0, acsm = 0, acv = 0, zero = 0, ends = 0;
        double least = INFINITY, most = -INFINITY;
        int64_t live = 0, still = 0;
        for (int64_t c = 0; c < n; c++) {
            lost += bad[c];
            if (!(count[c] > 0)) continue;
            live++;
            total += count[c];
            sum += count[c] * mean[c];
            squares += m2[c];
            means += count[c] * mean[c] * mean[c];
            acsm += mean[c] * mean[c];
            acv += m2[c] / count[c];
            zero += zeros[c];
            ends += saturated[c];
            if (low[c] < least) least = low[c];
            if (high[c] > most) most = high[c];
        }
        const double middle = sum / total, mean_square = (squares + means) / total, limit = dead * dead * mean_square;
        double between = 0;
        for (int64_t c = 0; c < n; c++) {
            if (!(count[c] > 0)) continue;
            const double off = mean[c] - middle;
            between += count[c] * off * off;
            still += m2[c] < limit * count[c] || zeros[c] == count[c];
        }
        out[TOTAL] = total;
        out[NONFINITE] = lost;
        out[MEAN] = middle;
        out[VAR] = (squares + between) / total;
        out[MEAN_SQUARE] = mean_square;
        out[ACSM] = acsm / (double)live;
        out[ACV] = acv / (double)live;
        out[MIN] = live ? least : NAN;
        out[MAX] = live ? most : NAN;
        out[ZERO_FRACTION] = zero / total;
        out[DEAD_FRACTION] = (double)still / (double)live;
        out[SATURATED_FRACTION] = ends / total;
    }
}
