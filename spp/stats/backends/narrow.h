/* One channel's row, and a block of neighbouring channels, in plain C that a compiler can put into vectors.
 * Included by walk.h for each storage type. */

static void FN(row)(const STORE *restrict x, int64_t n, const Cells *cells, int64_t c) {
    const double pivot = cells->pivot[c];
    double sum = 0, square = 0;
    REAL low = (REAL)INFINITY, high = -(REAL)INFINITY;
    int32_t zeros = 0;
#pragma omp simd reduction(+ : sum, square, zeros) reduction(min : low) reduction(max : high)
    for (int64_t i = 0; i < n; i++) {
        REAL v = LOAD(x[i]);
        double d = (double)v - pivot;
        sum += d;
        square += d * d;
        low = v < low ? v : low;
        high = v > high ? v : high;
        zeros += v == 0;
    }
    if (!isfinite(sum)) { FN(careful)(x, n, 1, cells, c); return; }
    add_to(cells, c, n, sum, square, (double)low, (double)high, zeros);
}

/* All rows of one channel. Short ones are laid side by side first: starting and closing a row costs more than it. */
static void FN(channel)(const STORE *base, const Layout *l, int64_t outer, int64_t lead, const Cells *cells, int64_t c) {
    (void)lead;
    STORE pack[PACK];
    const int64_t run = l->run;
    int64_t filled = 0;
    for (int64_t o = 0; o < outer; o++) {
        const STORE *row = base + outer_offset(l, o);
        if (run > PACK / 2) { FN(row)(row, run, cells, c); continue; }
        if (filled + run > PACK) { FN(row)(pack, filled, cells, c); filled = 0; }
        for (int64_t i = 0; i < run; i++) pack[filled + i] = row[i];
        filled += run;
    }
    if (filled) FN(row)(pack, filled, cells, c);
}

/* `rows` rows, `lanes` neighbouring channels: LANES of them, or what is left at the end. */
static inline __attribute__((always_inline)) void FN(beside)(const STORE *restrict x, int64_t rows, const int64_t *restrict at,
                                                             const Cells *cells, int64_t c, int lanes) {
    double pivot[LANES], sum[LANES], square[LANES];
    REAL low[LANES], high[LANES];
    int32_t zeros[LANES];
    for (int j = 0; j < lanes; j++) {
        pivot[j] = cells->pivot[c + j];
        sum[j] = square[j] = 0;
        zeros[j] = 0;
        low[j] = (REAL)INFINITY;
        high[j] = -(REAL)INFINITY;
    }
    for (int64_t r = 0; r < rows; r++) {
        const STORE *row = x + at[r];
#pragma omp simd
        for (int j = 0; j < lanes; j++) {
            REAL v = LOAD(row[j]);
            double d = (double)v - pivot[j];
            sum[j] += d;
            square[j] += d * d;
            low[j] = v < low[j] ? v : low[j];
            high[j] = v > high[j] ? v : high[j];
            zeros[j] += v == 0;
        }
    }
    FN(close_block)(x, rows, at, cells, c, lanes, 1, sum, square, low, high, zeros);
}

static void FN(block)(const STORE *x, int64_t rows, const int64_t *at, const STORE *next, const Cells *cells, int64_t c) {
    (void)next;
    FN(beside)(x, rows, at, cells, c, LANES);
}

static void FN(few)(const STORE *x, int64_t rows, const int64_t *at, const Cells *cells, int64_t c, int lanes) {
    FN(beside)(x, rows, at, cells, c, lanes);
}
