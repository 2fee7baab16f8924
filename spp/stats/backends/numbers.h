/* From the sums of each channel to the numbers of a tensor. Included by sweep.c. */

/* What spp_summary writes for each reading. */
enum { TOTAL, NONFINITE, MEAN, VAR, MEAN_SQUARE, ACSM, ACV, MIN, MAX, ZERO_FRACTION, DEAD_FRACTION, SATURATED_FRACTION, COLUMNS };

/* These numbers from the sums of each channel, of which every element counts `repeats` times; dead is a share of the rms. */
static void numbers(int64_t channels, const double *count, const double *mean, const double *m2, const double *low, const double *high,
                    const double *zeros, const double *bad, const double *beyond, double repeats, double dead, double *out) {
    double total = 0, lost = 0, sum = 0, squares = 0, means = 0, acsm = 0, acv = 0, zero = 0, ends = 0, live = 0;
    double least = INFINITY, most = -INFINITY;
    for (int64_t c = 0; beyond && c < channels; c++) ends += beyond[c];
#pragma omp simd reduction(+ : total, lost, sum, squares, means, acsm, acv, zero, live) reduction(min : least) reduction(max : most)
    for (int64_t c = 0; c < channels; c++) { /* a channel without any finite element has zeros, and extremes that do not count */
        const double n = count[c], m = mean[c], weighted = n * m;
        lost += bad[c];
        live += n > 0 ? 1.0 : 0.0;
        total += n;
        sum += weighted;
        squares += m2[c];
        means += weighted * m;
        acsm += m * m;
        acv += m2[c] / (n > 0 ? n : 1.0);
        zero += zeros[c];
        least = low[c] < least ? low[c] : least;
        most = high[c] > most ? high[c] : most;
    }
    const double middle = sum / total, mean_square = (squares + means) / total, limit = dead * dead * mean_square;
    double between = 0, still = 0;
#pragma omp simd reduction(+ : between, still)
    for (int64_t c = 0; c < channels; c++) {
        const double n = count[c], off = mean[c] - middle;
        between += n > 0 ? n * off * off : 0.0;
        still += (n > 0) & ((m2[c] < limit * n) | (zeros[c] == n)) ? 1.0 : 0.0;
    }
    out[TOTAL] = total * repeats;
    out[NONFINITE] = lost * repeats;
    out[MEAN] = middle;
    out[VAR] = (squares + between) / total;
    out[MEAN_SQUARE] = mean_square;
    out[ACSM] = acsm / live;
    out[ACV] = acv / live;
    out[MIN] = live > 0 ? least : NAN;
    out[MAX] = live > 0 ? most : NAN;
    out[ZERO_FRACTION] = zero / total;
    out[DEAD_FRACTION] = still / live;
    out[SATURATED_FRACTION] = ends / total;
}

/* Sums about the pivots become means and sums of squared deviations from them. */
static void close_cells(const Cells *cells, enum walk walk, int64_t channels, double *mean, double *m2) {
    if (walk == SINGLE) {
        if (mean != cells->pivot) memcpy(mean, cells->pivot, sizeof(double) * (size_t)channels);
        if (m2 != cells->square) memset(m2, 0, sizeof(double) * (size_t)channels);
        return;
    }
    const double *count = cells->count, *sum = cells->sum, *square = cells->square, *pivot = cells->pivot;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) { /* without elements pivot and sums are 0 */
        const double shift = sum[c] / (count[c] > 0 ? count[c] : 1.0), left = square[c] - sum[c] * shift;
        mean[c] = pivot[c] + shift;
        m2[c] = left > 0 ? left : 0.0;
    }
}
