/* One sweep over memory in order: per-channel count, sums about a pivot, extremes, zeros and non-finite values.
 *
 * A tensor is an outer walk (up to SPP_DIMS axes), C channels and an inner run. Two shapes of the sweep:
 *   rows:     the run is contiguous (stride 1) and belongs to one channel;
 *   columns:  the channels are contiguous (stride 1) and the run is one element.
 * Sums are taken in double of (x - pivot), where the pivot is an element of the channel, or zero where the mean does not hide the
 * variance: nothing cancels, and sums over parts of a tensor add up to the sums over the whole to double rounding. Only where a
 * sum comes out non-finite is the stretch looked at again, element by element. No torch headers, no library: OpenMP symbols
 * resolve against the runtime that torch has loaded.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SPP_DIMS 6
#define SEGMENT 32768  /* elements of one unit of work inside a long run */
#define TILE 24576     /* elements of one tile of rows in the column sweep: stays in the first caches */
#define LANES 16
#define FEWEST_ROWS 64 /* of a tile: each has a page of its own, and a block of channels is closed once a tile */
#define MOST_ROWS 1024
#define SHORT 4096     /* rows up to this length are taken channel by channel */
#define ROWS 8         /* of a channel that are read at a time: memory gives more from several pages than from one */
#define LEAD 512       /* elements at least between what is read of a row and what is asked for */
#define FAR 256        /* a mean square over so many variances is measured again about an element of the channel */
#define FEW 128        /* up to so many values of each channel, channels that lie apart are taken LANES at a time */
#define PACK 2048      /* elements that are laid side by side at a time */
#define PAGE 4096
#define PAGES 8        /* that are asked for at a time of what lies in one stretch */
#define LINE 64

typedef struct { /* as in native.py */
    int64_t dims, size[SPP_DIMS], stride[SPP_DIMS]; /* outer walk, slowest first; strides in elements */
    int64_t channels, channel_stride, run, columns, repeats; /* each element counts `repeats` times */
    int64_t dtype; /* 0 float, 1 double, 2 bfloat16, 3 half */
} Layout;

/* What is known of each channel: one array a number, so that neighbouring channels are worked on together. */
typedef struct { double *pivot, *sum, *square, *low, *high, *zeros, *bad, *count; } Cells;
#define NUMBERS 8 /* arrays of Cells */

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

/* What to ask for while x is read: as far into the next PAGES pages, a line of each in turn. */
static inline const char *by_pages(const void *x) {
    const uintptr_t at = (uintptr_t)x, block = at & ~(uintptr_t)(PAGES * PAGE - 1), line = (at - block) / LINE;
    return (const char *)(block + PAGES * PAGE + line % PAGES * PAGE + line / PAGES * LINE);
}

static inline int64_t outer_offset(const Layout *l, int64_t index) {
    if (l->dims == 1) return index * l->stride[0]; /* mostly; divisions take as long as a short row */
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

static Cells cells_in(double *memory, int64_t channels) {
    return (Cells){memory, memory + channels, memory + 2 * channels, memory + 3 * channels, memory + 4 * channels,
                   memory + 5 * channels, memory + 6 * channels, memory + 7 * channels};
}

static void clear(const Cells *cells, int64_t channels) { /* all but the pivots */
    memset(cells->sum, 0, sizeof(double) * (size_t)(channels * (NUMBERS - 1)));
    for (int64_t c = 0; c < channels; c++) {
        cells->low[c] = INFINITY;
        cells->high[c] = -INFINITY;
    }
}

static void merge_cells(const Cells *into, const Cells *from, int64_t channels) { /* where both have elements the pivots are equal */
    for (int64_t c = 0; c < channels; c++) {
        if (from->count[c] > 0) into->pivot[c] = from->pivot[c];
        into->sum[c] += from->sum[c];
        into->square[c] += from->square[c];
        into->zeros[c] += from->zeros[c];
        into->bad[c] += from->bad[c];
        into->count[c] += from->count[c];
        into->low[c] = from->low[c] < into->low[c] ? from->low[c] : into->low[c];
        into->high[c] = from->high[c] > into->high[c] ? from->high[c] : into->high[c];
    }
}

static inline void add_to(const Cells *cells, int64_t c, int64_t n, double sum, double square, double low, double high, int64_t zeros) {
    cells->sum[c] += sum;
    cells->square[c] += square;
    cells->count[c] += (double)n;
    cells->zeros[c] += (double)zeros;
    if (low < cells->low[c]) cells->low[c] = low;
    if (high > cells->high[c]) cells->high[c] = high;
}

enum walk { SINGLE, ACROSS, BY_CHANNEL, IN_ORDER };
#include "numbers.h"

#define NAME f32
#define STORE float
#define REAL float
#define LOAD(v) (v)
#if WIDE
#define VECTOR(x) _mm512_loadu_ps(x)
#define MASKED(m, x) _mm512_maskz_loadu_ps(m, x)
#define LOWER(x, v) _mm512_cvtps_pd(_mm256_loadu_ps(x)) /* widening from memory spares the port that shuffles */
#define UPPER(x, v) _mm512_cvtps_pd(_mm256_loadu_ps((x) + 8))
#define GATHER(x, lanes) _mm512_i32gather_ps(lanes, x, 4)
#define APART
#define HALF(m, x) _mm256_maskz_loadu_ps(m, x)
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

/* What this build can reduce: bit i for dtype i of a Layout. */
int spp_dtypes(void) { return 1 | 2 | 4 | (HAS_HALF ? 8 : 0); }

typedef struct { /* one reduction: what each thread takes a share of */
    const void *x;
    const Layout *l;
    const double *ends;
    double *memory, *beyond;
    enum walk walk;
    int64_t units, threads;
} Work;

static void share(const Work *w, int64_t t) {
    const void *x = w->x;
    const Layout *l = w->l;
    const int64_t from = w->units * t / w->threads, to = w->units * (t + 1) / w->threads;
    const int64_t first = l->channels * t / w->threads, end = l->channels * (t + 1) / w->threads;
    const Cells mine = cells_in(w->memory + NUMBERS * l->channels * t, l->channels);
    switch (l->dtype) {
        case 0: f32_sweep(x, l, w->walk, from, to, &mine); if (w->ends) f32_beyond(x, l, first, end, w->ends, w->beyond); break;
        case 1: f64_sweep(x, l, w->walk, from, to, &mine); if (w->ends) f64_beyond(x, l, first, end, w->ends, w->beyond); break;
        case 2: bf16_sweep(x, l, w->walk, from, to, &mine); if (w->ends) bf16_beyond(x, l, first, end, w->ends, w->beyond); break;
#if HAS_HALF
        case 3: f16_sweep(x, l, w->walk, from, to, &mine); if (w->ends) f16_beyond(x, l, first, end, w->ends, w->beyond); break;
#endif
    }
}

enum result { DONE, FAILED, RARE }; /* memory ran out or the dtype is unknown; told_apart() has something to tell */

static int is_far(double low, double high) {
    const double largest = -low > high ? -low : high;
    return largest > FAR_END || (largest > 0 && largest < 1 / FAR_END);
}

static int any_rare(const Cells *cells, int64_t channels, int wide) {
    for (int64_t c = 0; c < channels; c++)
        if (cells->bad[c] > 0) return 1;
    double low = INFINITY, high = -INFINITY;
    for (int64_t c = 0; wide && c < channels; c++) {
        if (cells->low[c] < low) low = cells->low[c];
        if (cells->high[c] > high) high = cells->high[c];
    }
    return wide && is_far(low, high);
}

/* Fill out: with a table of ROWS x C doubles (saturated: 0 without ends), or, where `whole`, with the TOTALS numbers of the tensor. */
int spp_sweep(const void *x, const Layout *l, int threads, const double *ends, int whole, double *out) {
    const int64_t dtype = l->dtype;
    const int64_t outer = outer_count(l), pieces = (l->run + SEGMENT - 1) / SEGMENT, channels = l->channels;
    const enum walk walk = outer == 1 && l->run == 1 ? SINGLE : l->columns ? ACROSS : l->run <= SHORT ? BY_CHANNEL : IN_ORDER;
    const int64_t units = walk == SINGLE || walk == BY_CHANNEL ? channels : walk == ACROSS ? outer : outer * channels * pieces;
    if (threads > units) threads = (int)units;
    if (threads < 1) threads = 1;
    if (dtype < 0 || dtype > 3 || !(spp_dtypes() >> dtype & 1)) return FAILED;
    const int64_t room = NUMBERS * channels;
    double *memory = malloc(sizeof(double) * (size_t)(room * threads + (ends && whole ? channels : 0)));
    if (!memory) return FAILED;
    double *beyond = !ends ? NULL : whole ? memory + room * threads : out + ROW_SATURATED * channels;
    const Cells cells = cells_in(memory, channels);
    if (walk == BY_CHANNEL) memset(cells.pivot, 0, sizeof(double) * (size_t)channels); /* each finds its own */
    else switch (dtype) {
        case 0: f32_pivots(x, l, outer, 0, channels, &cells); break;
        case 1: f64_pivots(x, l, outer, 0, channels, &cells); break;
        case 2: bf16_pivots(x, l, outer, 0, channels, &cells); break;
#if HAS_HALF
        case 3: f16_pivots(x, l, outer, 0, channels, &cells); break;
#endif
    }
    clear(&cells, channels);
    for (int t = 1; t < threads; t++) memcpy(memory + room * t, memory, sizeof(double) * (size_t)room);
    const Work work = {x, l, ends, memory, beyond, walk, units, threads};
    if (threads == 1) share(&work, 0); /* the parallel region alone takes as long as a small tensor */
    else {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int t = 0; t < threads; t++) share(&work, t);
    }
    for (int t = 1; t < threads; t++) {
        const Cells other = cells_in(memory + room * t, channels);
        merge_cells(&cells, &other, channels);
    }
    if (whole) {
        close_cells(&cells, walk, channels, cells.pivot, cells.square);
        totals(channels, cells.count, cells.pivot, cells.square, cells.low, cells.high, cells.zeros, cells.bad, beyond,
               (double)l->repeats, out);
    } else {
        const size_t size = sizeof(double) * (size_t)channels;
        close_cells(&cells, walk, channels, out + ROW_MEAN * channels, out + ROW_M2 * channels);
        memcpy(out + ROW_COUNT * channels, cells.count, size);
        memcpy(out + ROW_MIN * channels, cells.low, size);
        memcpy(out + ROW_MAX * channels, cells.high, size);
        memcpy(out + ROW_ZEROS * channels, cells.zeros, size);
        memcpy(out + ROW_NONFINITE * channels, cells.bad, size);
        if (!ends) memset(out + ROW_SATURATED * channels, 0, size);
        for (int row = 0; row < ROWS && l->repeats != 1; row++)
            if (row != ROW_MEAN && row != ROW_MIN && row != ROW_MAX)
                for (int64_t c = 0; c < channels; c++) out[row * channels + c] *= (double)l->repeats;
    }
    const int rare = whole ? out[TOTAL_NONFINITE] > 0 || (dtype == 1 && is_far(out[TOTAL_MIN], out[TOTAL_MAX]))
                           : any_rare(&cells, channels, dtype == 1);
    free(memory);
    return rare ? RARE : DONE;
}

/* The numbers of `tensors` tensors, one after the other: out is tensors x TOTALS. Returns the worst of their results. */
int spp_totals(int64_t tensors, const void *const *x, const Layout *const *layout, const int64_t *threads, double *out) {
    int worst = DONE;
    for (int64_t i = 0; i < tensors; i++, out += TOTALS) {
        const int result = spp_sweep(x[i], layout[i], (int)threads[i], NULL, 1, out);
        if (result == FAILED) return FAILED;
        if (result == RARE) worst = RARE;
    }
    return worst;
}

/* For each of two copies of some tensors, each in one stretch of `size` elements, the sum of the squares of the differences. */
void spp_moved(int64_t tensors, const void *const *before, const void *const *now, const Layout *const *layout, const int64_t *size,
               int threads, double *out) {
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t i = 0; i < tensors; i++)
        switch (layout[i]->dtype) {
            case 0: out[i] = f32_moved(before[i], now[i], size[i]); break;
            case 1: out[i] = f64_moved(before[i], now[i], size[i]); break;
            case 2: out[i] = bf16_moved(before[i], now[i], size[i]); break;
#if HAS_HALF
            case 3: out[i] = f16_moved(before[i], now[i], size[i]); break;
#endif
            default: out[i] = NAN;
        }
}
