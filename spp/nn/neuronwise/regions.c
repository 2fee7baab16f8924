/* Sums over the samples in each neuron's linear region, where the region is a mask.
 *
 * The sum of those samples that a neuron's mask names is looked up instead of multiplied out (the method of four Russians:
 * Arlazarov, Dinic, Kronrod & Faradzhev 1970). A set of SET samples is cut into TABLES groups of BITS; for each group the sums
 * of all its subsets are a table that stays in the first cache, and a neuron adds one entry of each, chosen by the bits of its
 * mark: TABLES additions instead of SET multiplications. The tables are shared by all neurons, and for a convolution by all
 * positions under the kernel too, since a position only shifts the mask. x and x^2 lie side by side in an entry.
 * No torch headers, no library: OpenMP symbols resolve against the runtime that torch has loaded.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "finish.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "bits are taken out of bytes in little-endian order"
#endif

#define LANES 16  /* features at a time */
#define BITS 5    /* samples of a table, which has 32 entries */
#define TABLES 6  /* of a set: 24 KiB in all */
#define SET (BITS * TABLES) /* samples, and bits of a mark */
#define TILE 1024 /* sums that are worked on at a time, LANES features of each: 128 KiB */
#define SPAN 4    /* times LANES features are stored at a time, since rows of the result lie a page apart */

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef struct { lanes x, square; } Pair;
typedef struct { Pair table[TABLES << BITS], samples[SET]; } Bench;

/* The sums of all subsets: entry e has the samples whose bits are set in e. */
static inline void subsets(Pair *table, const Pair *samples) {
    memset(table, 0, sizeof *table);
    for (int b = 0; b < BITS; b++)
        for (int e = 0, half = 1 << b; e < half; e++) {
            table[half + e].x = table[e].x + samples[b].x;
            table[half + e].square = table[e].square + samples[b].square;
        }
}

/* Add to each of n sums the samples on the bench that its mark names. */
static inline void add(Pair *sums, const uint32_t *marks, int64_t n, Bench *bench) {
    for (int t = 0; t < TABLES; t++) subsets(bench->table + (t << BITS), bench->samples + t * BITS);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t mark = marks[i];
        lanes x = sums[i].x, square = sums[i].square;
#pragma GCC unroll 6
        for (int t = 0; t < TABLES; t++) {
            const Pair *entry = bench->table + (t << BITS) + (mark >> t * BITS & ((1 << BITS) - 1));
            x += entry->x;
            square += entry->square;
        }
        sums[i].x = x;
        sums[i].square = square;
    }
}

static void *take(int64_t bytes) { return aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64); }

/* Where sums go: `each` times them, plus what is there (where there is `more`), or plus eps for the squares. */
typedef struct { float *first, *second; const float *each; float eps; int more; } Result;

static inline void put(const Result *r, int64_t neuron, int64_t at, float x, float square) {
    const float each = r->each[neuron];
    r->first[at] = (r->more ? r->first[at] : 0) + each * x;
    r->second[at] = (r->more ? r->second[at] : r->eps) + each * square;
}

static void put_rows(const Result *r, const Pair *sums, int64_t start, int64_t neurons, int64_t f0, int64_t features) {
    const int64_t wide = features - f0 < SPAN * LANES ? features - f0 : SPAN * LANES;
    for (int64_t j = 0; j < neurons; j++) {
        const int64_t at = (start + j) * features + f0;
        for (int64_t k = 0; k < wide; k += LANES) {
            __builtin_prefetch(r->first + at + 8 * features + k, 1);
            __builtin_prefetch(r->second + at + 8 * features + k, 1);
        }
        for (int64_t k = 0; k < wide; k += LANES) {
            const Pair *sum = sums + k / LANES * TILE + j;
            const int64_t here = wide - k < LANES ? wide - k : LANES;
            if (here == LANES)
                for (int l = 0; l < LANES; l++) put(r, start + j, at + k + l, sum->x[l], sum->square[l]);
            else
                for (int l = 0; l < here; l++) put(r, start + j, at + k + l, sum->x[l], sum->square[l]);
        }
    }
}

/* first (O, F) and second (O, F) of mask (N, O) and x (N, F); 1 where there is no memory. */
int spp_regions_linear(int64_t n, int64_t neurons, int64_t features, const uint8_t *mask, const float *x, const float *each,
                       float eps, int more, float *first, float *second, int threads) {
    const Result result = {first, second, each, eps, more};
    const int64_t sets = (n + SET - 1) / SET, tiles = (neurons + TILE - 1) / TILE;
    const int64_t spans = (features + SPAN * LANES - 1) / (SPAN * LANES);
    uint32_t *marks = take(sets * neurons * (int64_t)sizeof *marks);
    int failed = !marks;
    if (failed) return 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t s = 0; s < sets; s++) {
            uint32_t *row = marks + s * neurons;
            memset(row, 0, sizeof *row * (size_t)neurons);
            for (int64_t i = s * SET; i < n && i < (s + 1) * SET; i++) {
                const uint8_t *of = mask + i * neurons;
                const int bit = (int)(i - s * SET);
#pragma omp simd
                for (int64_t j = 0; j < neurons; j++) row[j] |= (uint32_t)of[j] << bit;
            }
        }
        Pair *sums = take(SPAN * TILE * (int64_t)sizeof *sums);
        Bench *bench = take(sizeof *bench);
        if (!sums || !bench) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < spans * tiles; unit++) {
            const int64_t f0 = unit / tiles * SPAN * LANES, start = unit % tiles * TILE;
            const int64_t here = neurons - start < TILE ? neurons - start : TILE;
            if (!sums || !bench) continue;
            for (int64_t k = 0; k < SPAN && f0 + k * LANES < features; k++) {
                const int64_t from = f0 + k * LANES, left = features - from;
                const size_t bytes = sizeof(float) * (size_t)(left < LANES ? left : LANES);
                memset(sums + k * TILE, 0, sizeof *sums * (size_t)here);
                for (int64_t s = 0; s < sets; s++) {
                    for (int64_t i = 0; i < SET; i++) {
                        lanes v = {0};
                        if (s * SET + i < n) {
                            const float *row = x + (s * SET + i) * features + from;
                            __builtin_prefetch(row + SET * features);
                            if (bytes == sizeof v) memcpy(&v, row, sizeof v);
                            else memcpy(&v, row, bytes);
                        }
                        bench->samples[i] = (Pair){v, v * v};
                    }
                    add(sums + k * TILE, marks + s * neurons + start, here, bench);
                }
            }
            put_rows(&result, sums, start, here, f0, features);
        }
        free(bench);
        free(sums);
    }
    free(marks);
    return failed;
}

typedef struct { /* as in native.py; sizes of x and of the kernel with its padding and dilation */
    int64_t images, channels, height, width, neurons, out_height, out_width, kernel[2], step[2];
} Conv;

/* The mask (H', W') of one neuron in one image as bits in the order of the padded image's pixels, from bit `from` on. */
static void stream(uint8_t *bits, const uint8_t *mask, const Conv *c, int64_t from) {
    for (int64_t y = 0; y < c->out_height; y++, mask += c->out_width)
        for (int64_t x = 0; x < c->out_width; x += 8) {
            const int64_t at = from + y * c->width + x, here = c->out_width - x < 8 ? c->out_width - x : 8;
            uint64_t bytes = 0;
            uint16_t there;
            if (here == 8) memcpy(&bytes, mask + x, 8);
            else memcpy(&bytes, mask + x, (size_t)here);
            bytes = bytes * 0x0102040810204080u >> 56; /* eight bytes of 0 or 1 to eight bits, the first one lowest */
            memcpy(&there, bits + at / 8, 2);
            there |= (uint16_t)(bytes << at % 8);
            memcpy(bits + at / 8, &there, 2);
        }
}

/* first and second (O, C, *K) of mask (N, O, H', W') and padded x (N, C, H, W), stride 1; 1 where there is no memory. */
int spp_regions_conv(const Conv *c, const uint8_t *mask, const float *x, const float *each, float eps, int more, float *first,
                     float *second, int threads) {
    const Result result = {first, second, each, eps, more};
    const int64_t pixels = c->height * c->width, sets = (pixels + SET - 1) / SET, taps = c->kernel[0] * c->kernel[1];
    const int64_t rows = c->neurons * taps, tiles = (rows + TILE - 1) / TILE, blocks = (c->channels + LANES - 1) / LANES;
    const int64_t before = (c->kernel[0] - 1) * c->step[0] * c->width + (c->kernel[1] - 1) * c->step[1];
    const int64_t size = (before + sets * SET) / 8 + 16, outputs = c->out_height * c->out_width;
    uint32_t *marks = take(c->images * sets * rows * (int64_t)sizeof *marks);
    int failed = !marks;
    if (failed) return 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Pair *sums = take(TILE * (int64_t)sizeof *sums);
        Bench *bench = take(sizeof *bench);
        uint8_t *bits = take(size);
        const int works = sums && bench && bits;
        if (!works) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < c->images * c->neurons; unit++) {
            if (!works) continue;
            const int64_t image = unit / c->neurons, neuron = unit % c->neurons;
            memset(bits, 0, (size_t)size);
            stream(bits, mask + unit * outputs, c, before);
            uint32_t *mark = marks + image * sets * rows + neuron * taps;
            for (int64_t ky = 0; ky < c->kernel[0]; ky++)
                for (int64_t kx = 0; kx < c->kernel[1]; kx++, mark++)
                    for (int64_t s = 0; s < sets; s++) {
                        const int64_t at = before + s * SET - ky * c->step[0] * c->width - kx * c->step[1];
                        uint64_t word;
                        memcpy(&word, bits + at / 8, 8);
                        mark[s * rows] = (uint32_t)(word >> at % 8 & ((1u << SET) - 1));
                    }
        }
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < blocks * tiles; unit++) {
            if (!works) continue;
            const int64_t c0 = unit / tiles * LANES, start = unit % tiles * TILE;
            const int64_t here = rows - start < TILE ? rows - start : TILE;
            const int64_t wide = c->channels - c0 < LANES ? c->channels - c0 : LANES;
            memset(sums, 0, sizeof *sums * (size_t)here);
            memset(bench, 0, sizeof *bench);
            for (int64_t set = 0; set < c->images * sets; set++) {
                const int64_t image = set / sets, from = set % sets * SET;
                const int64_t many = pixels - from < SET ? pixels - from : SET;
                const float *of = x + (image * c->channels + c0) * pixels + from;
                for (int64_t i = 0; i < SET; i++) {
                    lanes v = {0};
                    if (i < many)
                        for (int64_t l = 0; l < wide; l++) v[l] = of[l * pixels + i];
                    bench->samples[i] = (Pair){v, v * v};
                }
                add(sums, marks + set * rows + start, here, bench);
            }
            for (int64_t j = 0; j < here; j++) {
                const int64_t neuron = (start + j) / taps, at = (neuron * c->channels + c0) * taps + (start + j) % taps;
                for (int64_t l = 0; l < wide; l++) put(&result, neuron, at + l * taps, sums[j].x[l], sums[j].square[l]);
            }
        }
        free(bits);
        free(bench);
        free(sums);
    }
    free(marks);
    return failed;
}
