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

INLINE void FN(add)(FN(Sums) *s, const __m512 v, const __m512d d0, const __m512d d1) {
    s->sum0 = _mm512_add_pd(s->sum0, d0);
    s->sum1 = _mm512_add_pd(s->sum1, d1);
    s->square0 = _mm512_fmadd_pd(d0, d0, s->square0);
    s->square1 = _mm512_fmadd_pd(d1, d1, s->square1);
    s->low = _mm512_min_ps(v, s->low);
    s->high = _mm512_max_ps(v, s->high);
}

INLINE void FN(step)(FN(Sums) *s, const __m512 v, const __m512d lower, const __m512d upper, const __m512d p0, const __m512d p1) {
    FN(add)(s, v, _mm512_sub_pd(lower, p0), _mm512_sub_pd(upper, p1));
}

/* Sixteen elements, about *pivot, or about zero where it is NULL: nothing to subtract is a fifth less to do. */
INLINE void FN(take)(FN(Sums) *s, const STORE *x, const __m512d *pivot) {
    const __m512 v = VECTOR(x);
    if (pivot)
        FN(step)(s, v, LOWER(x, v), UPPER(x, v), *pivot, *pivot);
    else
        FN(add)(s, v, LOWER(x, v), UPPER(x, v));
    s->zeros += __builtin_popcount(_mm512_cmpeq_ps_mask(v, _mm512_setzero_ps()));
}

/* Fewer than sixteen elements, the end of a row. */
INLINE void FN(rest)(FN(Sums) *s, const STORE *x, int64_t n, const __m512d *pivot) {
    const __m512 zero = _mm512_setzero_ps();
    if (n <= 8) {
        const __mmask8 few = (__mmask8)((1u << n) - 1);
        const __m256 v = HALF(few, x);
        const __m512 w = _mm512_castps256_ps512(v);
        __m512d d = _mm512_cvtps_pd(v);
        if (pivot) d = _mm512_maskz_sub_pd(few, d, *pivot);
        s->sum0 = _mm512_add_pd(s->sum0, d);
        s->square0 = _mm512_fmadd_pd(d, d, s->square0);
        s->low = _mm512_mask_min_ps(s->low, few, w, s->low);
        s->high = _mm512_mask_max_ps(s->high, few, w, s->high);
        s->zeros += __builtin_popcount(_mm512_mask_cmpeq_ps_mask(few, w, zero));
        return;
    }
    const __mmask16 here = (__mmask16)((1u << n) - 1);
    const __m512 v = MASKED(here, x);
    __m512d d0 = _mm512_cvtps_pd(_mm512_castps512_ps256(v)), d1 = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    if (pivot) {
        d0 = _mm512_sub_pd(d0, *pivot);
        d1 = _mm512_maskz_sub_pd((__mmask8)(here >> 8), d1, *pivot);
    }
    s->sum0 = _mm512_add_pd(s->sum0, d0);
    s->sum1 = _mm512_add_pd(s->sum1, d1);
    s->square0 = _mm512_fmadd_pd(d0, d0, s->square0);
    s->square1 = _mm512_fmadd_pd(d1, d1, s->square1);
    s->low = _mm512_mask_min_ps(s->low, here, v, s->low);
    s->high = _mm512_mask_max_ps(s->high, here, v, s->high);
    s->zeros += __builtin_popcount(_mm512_mask_cmpeq_ps_mask(here, v, zero));
}

/* A row that lies in one stretch of memory with those before and after it. */
INLINE void FN(steps)(FN(Sums) *s, const STORE *x, int64_t n, const __m512d *pivot) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm_prefetch(by_pages(x + i), _MM_HINT_T1);
        FN(take)(s, x + i, pivot);
    }
    if (i < n) FN(rest)(s, x + i, n - i, pivot);
}

/* `rows` rows of one channel side by side, `apart` elements from each other: each is read from a page of its own. */
INLINE void FN(beside)(FN(Sums) *s, const STORE *x, int64_t n, int64_t apart, const int rows, const __m512d *pivot, int64_t lead) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            _mm_prefetch((const char *)(x + r * apart + i + lead), _MM_HINT_T0);
            FN(take)(s, x + r * apart + i, pivot);
        }
    if (i == n) return;
    for (int r = 0; r < rows; r++) FN(rest)(s, x + r * apart + i, n - i, pivot);
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
    const __m512d pivot = _mm512_set1_pd(cells->pivot[c]);
    FN(Sums) s = FN(start)();
    FN(steps)(&s, x, n, &pivot);
    if (!FN(close)(&s, n, cells, c)) FN(careful)(x, n, 1, cells, c);
}

/* All rows of one channel, ROWS of them at a time where they are evenly apart (and this is no second look, which is rare). */
INLINE FN(Sums) FN(over)(const STORE *base, const Layout *l, int64_t outer, int64_t lead, const __m512d *pivot) {
    const int64_t run = l->run, step = l->stride[0];
    FN(Sums) s = FN(start)();
    int64_t o = 0;
    if (l->dims == 1 && !pivot)
        for (; o + ROWS <= outer; o += ROWS) FN(beside)(&s, base + o * step, run, step, ROWS, NULL, lead);
    for (; o < outer; o++) FN(steps)(&s, base + outer_offset(l, o), run, pivot);
    return s;
}

/* Sums about zero will do unless the mean hides the variance. */
static void FN(channel)(const STORE *base, const Layout *l, int64_t outer, int64_t lead, const Cells *cells, int64_t c) {
    const double n = (double)(outer * l->run);
    FN(Sums) s = FN(over)(base, l, outer, lead, NULL);
    cells->pivot[c] = 0;
    if (FN(close)(&s, outer * l->run, cells, c)) {
        const double mean = cells->sum[c] * cells->sum[c], whole = cells->square[c] * n;
        if (whole <= FAR * (whole - mean)) return;
        cells->sum[c] = cells->square[c] = cells->count[c] = cells->zeros[c] = 0;
        cells->pivot[c] = FN(first)(base, l, outer);
        const __m512d pivot = _mm512_set1_pd(cells->pivot[c]);
        s = FN(over)(base, l, outer, lead, &pivot);
        FN(close)(&s, outer * l->run, cells, c);
        return;
    }
    cells->pivot[c] = FN(first)(base, l, outer);
    for (int64_t o = 0; o < outer; o++) FN(careful)(base + outer_offset(l, o), l->run, 1, cells, c);
}

/* `stride` lies between neighbouring channels: 1, or what GATHER steps over; `lanes` of them, if fewer than LANES side by side. */
INLINE void FN(sixteen)(const STORE *x, int64_t rows, const int64_t *at, const int64_t *ahead, const STORE *next, const Cells *cells,
                        int64_t c, int lanes, int64_t stride) {
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
            _mm_prefetch((const char *)(row + 2 * LANES), _MM_HINT_T0); /* the blocks after the next: the first tile was not asked for */
            _mm_prefetch((const char *)(next + r * LANES), _MM_HINT_T1);
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

static void FN(block)(const STORE *x, int64_t rows, const int64_t *at, const STORE *next, const Cells *cells, int64_t c) {
    FN(sixteen)(x, rows, at, NULL, next, cells, c, LANES, 1);
}

static void FN(few)(const STORE *x, int64_t rows, const int64_t *at, const Cells *cells, int64_t c, int lanes) {
    FN(sixteen)(x, rows, at, NULL, x, cells, c, lanes, 1);
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
        FN(sixteen)(x + c * l->channel_stride, rows, at, ahead, NULL, cells, c, LANES, l->channel_stride);
}
#endif
#undef INLINE
#undef HALF
#undef GATHER
