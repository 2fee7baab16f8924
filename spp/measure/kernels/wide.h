/* What narrow.h does, in AVX-512: sixteen elements a step, ends of rows by masks, one closing for all rows of a channel.
 * Included by walk.h for each storage type that fits into a float; VECTOR and MASKED load sixteen of them. */

typedef struct {
    __m512d sum0, sum1, square0, square1;
    __m512 low, high;
    int64_t zeros;
} FN(Sums);

static inline __attribute__((always_inline)) FN(Sums) FN(start)(void) {
    const __m512d none = _mm512_setzero_pd();
    return (FN(Sums)){none, none, none, none, _mm512_set1_ps(INFINITY), _mm512_set1_ps(-INFINITY), 0};
}

static inline __attribute__((always_inline)) void FN(step)(FN(Sums) *s, const __m512 v, const __m512d p0, const __m512d p1) {
    const __m512d d0 = _mm512_sub_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(v)), p0);
    const __m512d d1 = _mm512_sub_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)), p1);
    s->sum0 = _mm512_add_pd(s->sum0, d0);
    s->sum1 = _mm512_add_pd(s->sum1, d1);
    s->square0 = _mm512_fmadd_pd(d0, d0, s->square0);
    s->square1 = _mm512_fmadd_pd(d1, d1, s->square1);
    s->low = _mm512_min_ps(v, s->low);
    s->high = _mm512_max_ps(v, s->high);
}

/* `next` is where the walk goes on after this row: far away in memory, so it is asked for while this one is read. */
static inline __attribute__((always_inline)) void FN(steps)(FN(Sums) *s, const STORE *x, int64_t n, const __m512d pivot, const STORE *next) {
    const __m512 zero = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm_prefetch((const char *)(next + i), _MM_HINT_T0);
        const __m512 v = VECTOR(x + i);
        FN(step)(s, v, pivot, pivot);
        s->zeros += __builtin_popcount(_mm512_cmpeq_ps_mask(v, zero));
    }
    if (i == n) return;
    const __mmask16 here = (__mmask16)((1u << (n - i)) - 1);
    const __m512 v = MASKED(here, x + i);
    const __m512d d0 = _mm512_maskz_sub_pd((__mmask8)here, _mm512_cvtps_pd(_mm512_castps512_ps256(v)), pivot);
    const __m512d d1 = _mm512_maskz_sub_pd((__mmask8)(here >> 8), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)), pivot);
    s->sum0 = _mm512_add_pd(s->sum0, d0);
    s->sum1 = _mm512_add_pd(s->sum1, d1);
    s->square0 = _mm512_fmadd_pd(d0, d0, s->square0);
    s->square1 = _mm512_fmadd_pd(d1, d1, s->square1);
    s->low = _mm512_mask_min_ps(s->low, here, v, s->low);
    s->high = _mm512_mask_max_ps(s->high, here, v, s->high);
    s->zeros += __builtin_popcount(_mm512_mask_cmpeq_ps_mask(here, v, zero));
}

/* Whether the sums were finite, and so counted. */
static inline __attribute__((always_inline)) int FN(close)(const FN(Sums) *s, int64_t n, Cell *cell) {
    const double sum = _mm512_reduce_add_pd(_mm512_add_pd(s->sum0, s->sum1));
    if (!isfinite(sum)) return 0;
    const double square = _mm512_reduce_add_pd(_mm512_add_pd(s->square0, s->square1));
    add_to(cell, n, sum, square, (double)_mm512_reduce_min_ps(s->low), (double)_mm512_reduce_max_ps(s->high), s->zeros);
    return 1;
}

static void FN(row)(const STORE *restrict x, int64_t n, Cell *restrict cell) {
    FN(Sums) s = FN(start)();
    FN(steps)(&s, x, n, _mm512_set1_pd(cell->pivot), x + AHEAD);
    if (!FN(close)(&s, n, cell)) FN(careful)(x, n, 1, cell);
}

static void FN(channel)(const STORE *base, const Layout *l, int64_t outer, Cell *cell) {
    const int64_t run = l->run;
    const __m512d pivot = _mm512_set1_pd(cell->pivot);
    FN(Sums) s = FN(start)();
    const int64_t lead = run < AHEAD / 2 ? AHEAD / 2 / run : 1, step = l->stride[0];
    if (l->dims == 1 && run < 32) /* the next channels' rows lie on the same lines of the cache or the next */
        for (int64_t o = 0; o < outer; o++) FN(steps)(&s, base + o * step, run, pivot, base + o * step + AHEAD / 4);
    else if (l->dims == 1)
        for (int64_t o = 0; o < outer; o++) {
            const int64_t later = o + lead, channel = later / outer;
            FN(steps)(&s, base + o * step, run, pivot, base + channel * l->channel_stride + (later - channel * outer) * step);
        }
    else
        for (int64_t o = 0; o < outer; o++) {
            const STORE *row = base + outer_offset(l, o);
            FN(steps)(&s, row, run, pivot, row + run);
        }
    if (FN(close)(&s, outer * run, cell)) return;
    for (int64_t o = 0; o < outer; o++) FN(careful)(base + outer_offset(l, o), run, 1, cell);
}

static void FN(block)(const STORE *restrict x, int64_t rows, const int64_t *restrict at, Cell *cells) {
    double pivot[LANES], sum[LANES], square[LANES];
    float low[LANES], high[LANES];
    int32_t zeros[LANES];
    for (int j = 0; j < LANES; j++) pivot[j] = cells[j].pivot;
    const __m512d p0 = _mm512_loadu_pd(pivot), p1 = _mm512_loadu_pd(pivot + 8);
    const __m512i one = _mm512_set1_epi32(1);
    __m512i counts = _mm512_setzero_si512();
    FN(Sums) s = FN(start)();
    for (int64_t r = 0; r < rows; r++) {
        const __m512 v = VECTOR(x + at[r]);
        FN(step)(&s, v, p0, p1);
        counts = _mm512_mask_add_epi32(counts, _mm512_cmpeq_ps_mask(v, _mm512_setzero_ps()), counts, one);
    }
    _mm512_storeu_pd(sum, s.sum0);
    _mm512_storeu_pd(sum + 8, s.sum1);
    _mm512_storeu_pd(square, s.square0);
    _mm512_storeu_pd(square + 8, s.square1);
    _mm512_storeu_ps(low, s.low);
    _mm512_storeu_ps(high, s.high);
    _mm512_storeu_si512(zeros, counts);
    for (int j = 0; j < LANES; j++) {
        if (isfinite(sum[j])) { add_to(cells + j, rows, sum[j], square[j], (double)low[j], (double)high[j], zeros[j]); continue; }
        for (int64_t r = 0; r < rows; r++) FN(careful)(x + at[r] + j, 1, 1, cells + j);
    }
}
