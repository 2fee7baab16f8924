/* What narrow.h does, in AVX-512: sixteen elements a step, ends of rows by masks, one closing for all rows of a channel.
 * Included by walk.h for each storage type that fits into a float; VECTOR and MASKED load sixteen of them, LOWER and UPPER
 * widen either half of what VECTOR has loaded. */

#ifndef LOWER
#define LOWER(x, v) _mm512_cvtps_pd(_mm512_castps512_ps256(v))
#define UPPER(x, v) _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))
#endif
#ifndef HALF
#define HALF(m, x) _mm512_castps512_ps256(MASKED(m, x))
#endif
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    __m512d sum0, sum1, square0, square1;
    __m512 low, high;
    int64_t zeros;
} FN(Sums);

INLINE FN(Sums) FN(start)(void) {
    const __m512d none = _mm512_setzero_pd();
    return (FN(Sums)){none, none, none, none, _mm512_set1_ps(INFINITY), _mm512_set1_ps(-INFINITY), 0};
}

INLINE void FN(step)(FN(Sums) *s, const __m512 v, const __m512d lower, const __m512d upper, const __m512d p0, const __m512d p1) {
    const __m512d d0 = _mm512_sub_pd(lower, p0), d1 = _mm512_sub_pd(upper, p1);
    s->sum0 = _mm512_add_pd(s->sum0, d0);
    s->sum1 = _mm512_add_pd(s->sum1, d1);
    s->square0 = _mm512_fmadd_pd(d0, d0, s->square0);
    s->square1 = _mm512_fmadd_pd(d1, d1, s->square1);
    s->low = _mm512_min_ps(v, s->low);
    s->high = _mm512_max_ps(v, s->high);
}

/* `next` is where the walk goes on after this row: far away in memory, so it is asked for while this one is read. */
INLINE void FN(steps)(FN(Sums) *s, const STORE *x, int64_t n, const __m512d pivot, const STORE *next) {
    const __m512 zero = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm_prefetch((const char *)(next + i), _MM_HINT_T0);
        const __m512 v = VECTOR(x + i);
        FN(step)(s, v, LOWER(x + i, v), UPPER(x + i, v), pivot, pivot);
        s->zeros += __builtin_popcount(_mm512_cmpeq_ps_mask(v, zero));
    }
    if (i == n) return;
    if (n - i <= 8) {
        const __mmask8 few = (__mmask8)((1u << (n - i)) - 1);
        const __m256 v = HALF(few, x + i);
        const __m512d d = _mm512_maskz_sub_pd(few, _mm512_cvtps_pd(v), pivot);
        s->sum0 = _mm512_add_pd(s->sum0, d);
        s->square0 = _mm512_fmadd_pd(d, d, s->square0);
        const __m512 w = _mm512_castps256_ps512(v);
        s->low = _mm512_mask_min_ps(s->low, few, w, s->low);
        s->high = _mm512_mask_max_ps(s->high, few, w, s->high);
        s->zeros += __builtin_popcount(_mm512_mask_cmpeq_ps_mask(few, w, zero));
        return;
    }
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
INLINE int FN(close)(const FN(Sums) *s, int64_t n, const Cells *cells, int64_t c) {
    const double sum = _mm512_reduce_add_pd(_mm512_add_pd(s->sum0, s->sum1));
    if (!isfinite(sum)) return 0;
    const double square = _mm512_reduce_add_pd(_mm512_add_pd(s->square0, s->square1));
    add_to(cells, c, n, sum, square, (double)_mm512_reduce_min_ps(s->low), (double)_mm512_reduce_max_ps(s->high), s->zeros);
    return 1;
}

static void FN(row)(const STORE *restrict x, int64_t n, const Cells *cells, int64_t c) {
    FN(Sums) s = FN(start)();
    FN(steps)(&s, x, n, _mm512_set1_pd(cells->pivot[c]), x + AHEAD);
    if (!FN(close)(&s, n, cells, c)) FN(careful)(x, n, 1, cells, c);
}

static void FN(channel)(const STORE *base, const Layout *l, int64_t outer, const Cells *cells, int64_t c) {
    const int64_t run = l->run;
    const __m512d pivot = _mm512_set1_pd(cells->pivot[c]);
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
    if (FN(close)(&s, outer * run, cells, c)) return;
    for (int64_t o = 0; o < outer; o++) FN(careful)(base + outer_offset(l, o), run, 1, cells, c);
}

/* `stride` lies between neighbouring channels: 1, or what GATHER steps over; `lanes` of them, if fewer than LANES side by side. */
INLINE void FN(sixteen)(const STORE *x, int64_t rows, const int64_t *at, const int64_t *ahead, const Cells *cells, int64_t c, int lanes,
                        int64_t stride) {
    double sum[LANES], square[LANES];
    float low[LANES], high[LANES];
    int32_t zeros[LANES];
    const __mmask16 here = (__mmask16)((1u << lanes) - 1);
    const __m512d p0 = _mm512_maskz_loadu_pd((__mmask8)here, cells->pivot + c);
    const __m512d p1 = _mm512_maskz_loadu_pd((__mmask8)(here >> 8), cells->pivot + c + 8);
    const __m512i one = _mm512_set1_epi32(1);
    __m512i counts = _mm512_setzero_si512();
    FN(Sums) s = FN(start)();
#ifndef GATHER
    (void)ahead;
#else
    const __m512i steps = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32((int)stride));
#endif
    for (int64_t r = 0; r < rows; r++) {
        const STORE *row = x + at[r];
        __m512 v;
#ifdef GATHER
        if (stride != 1) {
            _mm_prefetch((const char *)(x + ahead[r]), _MM_HINT_T0);
            v = GATHER(row, steps);
            FN(step)(&s, v, _mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)), p0, p1);
        } else
#endif
        if (lanes == LANES) {
            _mm_prefetch((const char *)(row + 2 * LANES), _MM_HINT_T0); /* the blocks after the next */
            v = VECTOR(row);
            FN(step)(&s, v, LOWER(row, v), UPPER(row, v), p0, p1);
        } else {
            v = MASKED(here, row);
            FN(step)(&s, v, _mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)), p0, p1);
        }
        counts = _mm512_mask_add_epi32(counts, _mm512_cmpeq_ps_mask(v, _mm512_setzero_ps()), counts, one);
    }
    _mm512_storeu_pd(sum, s.sum0);
    _mm512_storeu_pd(sum + 8, s.sum1);
    _mm512_storeu_pd(square, s.square0);
    _mm512_storeu_pd(square + 8, s.square1);
    _mm512_storeu_ps(low, s.low);
    _mm512_storeu_ps(high, s.high);
    _mm512_storeu_si512(zeros, counts);
    FN(close_block)(x, rows, at, cells, c, lanes, stride, sum, square, low, high, zeros);
}

static void FN(block)(const STORE *x, int64_t rows, const int64_t *at, const Cells *cells, int64_t c) {
    FN(sixteen)(x, rows, at, NULL, cells, c, LANES, 1);
}

static void FN(few)(const STORE *x, int64_t rows, const int64_t *at, const Cells *cells, int64_t c, int lanes) {
    FN(sixteen)(x, rows, at, NULL, cells, c, lanes, 1);
}

#ifdef GATHER
/* As above, of channels that have few values each: collecting them costs less than closing every channel by itself. */
static void FN(apart)(const STORE *x, const Layout *l, int64_t outer, int64_t from, int64_t to, const Cells *cells) {
    int64_t at[FEW], ahead[FEW], rows = 0;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < l->run; i++, rows++) {
            at[rows] = outer_offset(l, o) + i;
            ahead[rows] = at[rows] - i + LANES * (l->channel_stride + i); /* the next channels, a line of the cache at a time */
        }
    for (int64_t c = from; c + LANES <= to; c += LANES)
        FN(sixteen)(x + c * l->channel_stride, rows, at, ahead, cells, c, LANES, l->channel_stride);
}
#endif
#undef INLINE
#undef HALF
#undef GATHER
