/* From the sums of each channel to the sums of a tensor. Included by sweep.c; ROW_..., TOTAL_... and DEAD_SPREAD come from
 * spp/stats/sums.py by the command line. */

/* The numbers of Total from the sums of each channel, of which every element counts `repeats` times. */
static void totals(int64_t channels, const double *count, const double *mean, const double *m2, const double *low, const double *high,
                   const double *zeros, const double *bad, const double *beyond, double repeats, double *out) {
    double total = 0, lost = 0, sum = 0, within = 0, means = 0, squared = 0, variances = 0, zero = 0, ends = 0, live = 0;
    double least = INFINITY, most = -INFINITY;
    for (int64_t c = 0; beyond && c < channels; c++) ends += beyond[c];
#pragma omp simd reduction(+ : total, lost, sum, within, means, squared, variances, zero, live) reduction(min : least) reduction(max : most)
    for (int64_t c = 0; c < channels; c++) { /* a channel without any finite element has zeros, and extremes that do not count */
        const double n = count[c], m = mean[c], weighted = n * m;
        lost += bad[c];
        live += n > 0 ? 1.0 : 0.0;
        total += n;
        sum += weighted;
        within += m2[c];
        means += weighted * m;
        squared += m * m;
        variances += m2[c] / (n > 0 ? n : 1.0);
        zero += zeros[c];
        least = low[c] < least ? low[c] : least;
        most = high[c] > most ? high[c] : most;
    }
    const double elements = total > 0 ? total : 1.0, middle = sum / elements;
    const double limit = DEAD_SPREAD * DEAD_SPREAD * (within + means) / elements;
    double between = 0, still = 0;
#pragma omp simd reduction(+ : between, still)
    for (int64_t c = 0; c < channels; c++) {
        const double n = count[c], off = mean[c] - middle;
        between += n > 0 ? n * off * off : 0.0;
        still += (n > 0) & ((m2[c] < limit * n) | (zeros[c] == n)) ? 1.0 : 0.0;
    }
    out[TOTAL_CHANNELS] = (double)channels;
    out[TOTAL_LIVE] = live;
    out[TOTAL_COUNT] = total * repeats;
    out[TOTAL_NONFINITE] = lost * repeats;
    out[TOTAL_SUM] = sum * repeats;
    out[TOTAL_SQUARES] = (within + means) * repeats;
    out[TOTAL_WITHIN] = within * repeats;
    out[TOTAL_BETWEEN] = between * repeats;
    out[TOTAL_SQUARED_MEANS] = squared;
    out[TOTAL_VARIANCES] = variances;
    out[TOTAL_MIN] = least;
    out[TOTAL_MAX] = most;
    out[TOTAL_ZEROS] = zero * repeats;
    out[TOTAL_DEAD] = still;
    out[TOTAL_SATURATED] = ends * repeats;
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
