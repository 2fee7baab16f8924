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
#define MOST_ROWS 1024
#define SHORT 1024     /* rows up to this length are taken channel by channel */
#define PACK 2048
#define AHEAD 1024 /* elements between what is read and what is asked for in a long row */

typedef struct { /* as in native.py */
    int64_t dims, size[SPP_DIMS], stride[SPP_DIMS]; /* outer walk, slowest first; strides in elements */
    int64_t channels, channel_stride, run, columns, repeats; /* each element counts `repeats` times */
} Layout;

typedef struct { double pivot, sum, square, low, high, zeros, bad, count; } Cell;

static inline float from_bf16(uint16_t b) { uint32_t u = (uint32_t)b << 16; float f; memcpy(&f, &u, 4); return f; }

#if defined(__FLT16_MAX__)
typedef _Float16 half_t;
#define HAS_HALF 1
#else
#define HAS_HALF 0
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define WIDE 1
#else
#define WIDE 0
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

static inline void add_to(Cell *cell, int64_t n, double sum, double square, double low, double high, int64_t zeros) {
    cell->sum += sum;
    cell->square += square;
    cell->count += (double)n;
    cell->zeros += (double)zeros;
    if (low < cell->low) cell->low = low;
    if (high > cell->high) cell->high = high;
}

enum walk { SINGLE, ACROSS, BY_CHANNEL, IN_ORDER };

#define NAME f32
#define STORE float
#define REAL float
#define LOAD(v) (v)
#if WIDE
#define VECTOR(x) _mm512_loadu_ps(x)
#define MASKED(m, x) _mm512_maskz_loadu_ps(m, x)
#endif
#include "walk.h"

#define NAME f64
#define STORE double
#define REAL double
#define LOAD(v) (v)
#include "walk.h"

#define NAME bf16
#define STORE uint16_t
#define REAL float
#define LOAD(v) from_bf16(v)
#if WIDE
#define SHIFTED(v) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16))
#define VECTOR(x) SHIFTED(_mm256_loadu_si256((const __m256i *)(x)))
#define MASKED(m, x) SHIFTED(_mm256_maskz_loadu_epi16(m, x))
#endif
#include "walk.h"

#if HAS_HALF
#define NAME f16
#define STORE half_t
#define REAL float
#define LOAD(v) (float)(v)
#if WIDE
#define VECTOR(x) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x)))
#define MASKED(m, x) _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, x))
#endif
#include "walk.h"
#endif

/* What this build can reduce: bit i for dtype i of spp_sweep. */
int spp_dtypes(void) { return 1 | 2 | 4 | (HAS_HALF ? 8 : 0); }

/* What spp_summary writes for each reading. */
enum { TOTAL, NONFINITE, MEAN, VAR, MEAN_SQUARE, ACSM, ACV, MIN, MAX, ZERO_FRACTION, DEAD_FRACTION, SATURATED_FRACTION, COLUMNS };

/* The same numbers straight from the cells of one tensor, of which each element counts `repeats` times; dead as below. */
static void summarize_cells(const Cell *cells, const double *beyond, int64_t channels, double repeats, double dead, double *out) {
    double total = 0, lost = 0, sum = 0, squares = 0, means = 0, acsm = 0, acv = 0, zero = 0, ends = 0;
    double least = INFINITY, most = -INFINITY;
    int64_t live = 0, still = 0;
    for (int64_t c = 0; beyond && c < channels; c++) ends += beyond[c];
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
    out[SATURATED_FRACTION] = ends / total;
}

/* Fill table (8 x C doubles: count, mean, m2, min, max, zeros, non-finite, saturated: 0 without ends), or, where table is null, the COLUMNS
 * numbers of summary. dtype: 0 float, 1 double, 2 bfloat16, 3 half. Returns 0, or 1 when memory ran out or the dtype is unknown. */
int spp_sweep(const void *x, int dtype, const Layout *l, int threads, const double *ends, double *table, double dead, double *summary) {
    const int64_t outer = outer_count(l), pieces = (l->run + SEGMENT - 1) / SEGMENT, channels = l->channels;
    const enum walk walk = outer == 1 && l->run == 1 ? SINGLE : l->columns ? ACROSS : l->run <= SHORT ? BY_CHANNEL : IN_ORDER;
    const int64_t units = walk == SINGLE || walk == BY_CHANNEL ? channels : walk == ACROSS ? outer : outer * channels * pieces;
    if (threads > units) threads = (int)units;
    if (threads < 1) threads = 1;
    if (dtype < 0 || dtype > 3 || !(spp_dtypes() >> dtype & 1)) return 1;
    Cell *cells = malloc(sizeof(Cell) * (size_t)(channels * threads) + sizeof(double) * (size_t)(ends && !table ? channels : 0));
    if (!cells) return 1;
    double *beyond = !ends ? NULL : table ? table + 7 * channels : (double *)(cells + channels * threads);
    switch (dtype) {
        case 0: f32_pivots(x, l, outer, cells); break;
        case 1: f64_pivots(x, l, outer, cells); break;
        case 2: bf16_pivots(x, l, outer, cells); break;
#if HAS_HALF
        case 3: f16_pivots(x, l, outer, cells); break;
#endif
    }
    for (int t = 1; t < threads; t++) memcpy(cells + t * channels, cells, sizeof(Cell) * (size_t)channels);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        const int64_t from = units * t / threads, to = units * (t + 1) / threads;
        const int64_t first = channels * t / threads, end = channels * (t + 1) / threads;
        Cell *mine = cells + t * channels;
        switch (dtype) {
            case 0: f32_sweep(x, l, walk, from, to, mine); if (ends) f32_beyond(x, l, first, end, ends, beyond); break;
            case 1: f64_sweep(x, l, walk, from, to, mine); if (ends) f64_beyond(x, l, first, end, ends, beyond); break;
            case 2: bf16_sweep(x, l, walk, from, to, mine); if (ends) bf16_beyond(x, l, first, end, ends, beyond); break;
#if HAS_HALF
            case 3: f16_sweep(x, l, walk, from, to, mine); if (ends) f16_beyond(x, l, first, end, ends, beyond); break;
#endif
        }
    }
    for (int t = 1; t < threads; t++) merge_cells(cells, cells + t * channels, channels);
    if (!table) {
        summarize_cells(cells, beyond, channels, (double)l->repeats, dead, summary);
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
        if (!ends) saturated[c] = 0;
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
