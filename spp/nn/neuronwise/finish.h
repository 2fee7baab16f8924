/* From sums to the neuron-wise gradient: what statistics.py and transform.py say, in one pass over the weight. */

#define CHUNK 256 /* features at a time: they stay in the first cache between the steps, with the next ones, which are asked for */

typedef struct { /* as in native.py */
    int64_t neurons, features;
    int64_t pivot_step;   /* from one neuron's pivot to the next one's: 0 where all have the same */
    int64_t centre;       /* whether mean times bias gradient is taken off, or pivot times bias gradient put back */
    int64_t power;        /* of the spread that is divided by: 0, 1 or 2 */
    float *gradient;      /* (O, F), of inputs minus pivot; overwritten with the result */
    const float *bias;    /* (O), the ordinary bias gradient */
    const float *pivot;
    const float *offset;  /* (O, F), the region's mean minus pivot */
    const float *second;  /* (O, F), its mean square about the pivot, plus eps where statistics are the batch's */
    const float *scale;   /* (O), what both are to be multiplied by first; NULL for nothing */
    const float *least;   /* (O), what the variance is at least */
    float *mean, *var;    /* (O, F), running; NULL where statistics are the batch's */
    const float *newest;  /* (O), weight of the newest region in the running statistics; NULL where they stand still */
    float *moved;         /* (O), sum over features of mean times result; NULL where nobody asks */
    double eps;           /* added to the running variance */
} Finish;

static inline void ask_for(const float *what, int64_t n) { /* the n numbers after these */
    for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(what + n + i);
}

/* Fold the newest region into running statistics, without cancellation (Chan, Golub & LeVeque 1983). */
static void fold(float *restrict mean, float *restrict var, const float *restrict offset, const float *restrict second,
                 const float *restrict pivot, int64_t n, float least, float part) {
    const float rest = 1 - part, between = part * rest;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float own = second[i] - offset[i] * offset[i], v = own < least ? least : own;
        const float merged = part < 0.5f ? var[i] + part * (v - var[i]) : v - (v - var[i]) * rest;
        const float step = offset[i] + pivot[i] - mean[i];
        mean[i] += part * step;
        var[i] = merged + between * (step * step);
    }
}

static double finish_chunk(const Finish *f, int64_t o, int64_t from, int64_t n) {
    float offset[CHUNK], square[CHUNK], scaled[CHUNK];
    const int64_t at = o * f->features + from;
    const float *restrict pivot = f->pivot + o * f->pivot_step + from;
    const float *first = f->offset + at, *second = f->second + at;
    float *restrict g = f->gradient + at;
    const float least = f->least[o], bias = f->bias[o], eps = (float)f->eps;
    ask_for(first, n);
    ask_for(second, n);
    ask_for(g, n);
    if (f->scale) {
        const float scale = f->scale[o];
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            scaled[i] = first[i] * scale;
            square[i] = second[i] * scale;
        }
        first = scaled;
        second = square;
    }
    if (f->mean) {
        float *restrict mean = f->mean + at, *restrict var = f->var + at;
        ask_for(mean, n);
        ask_for(var, n);
        if (f->newest) fold(mean, var, first, second, pivot, n, least, f->newest[o]);
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            offset[i] = mean[i] - pivot[i];
            square[i] = var[i] + eps;
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const float own = second[i] - first[i] * first[i];
            offset[i] = first[i];
            square[i] = own < least ? least : own;
        }
    }
    if (f->centre) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) g[i] -= offset[i] * bias;
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) g[i] += pivot[i] * bias;
    }
    if (f->power == 2) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) g[i] /= square[i];
    } else if (f->power == 1) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) g[i] /= __builtin_sqrtf(square[i]);
    }
    float moved = 0;
    if (f->moved) {
#pragma omp simd reduction(+ : moved)
        for (int64_t i = 0; i < n; i++) moved += (offset[i] + pivot[i]) * g[i];
    }
    return moved;
}

void spp_finish(const Finish *f, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t o = 0; o < f->neurons; o++) {
        double moved = 0;
        for (int64_t from = 0; from < f->features; from += CHUNK)
            moved += finish_chunk(f, o, from, f->features - from < CHUNK ? f->features - from : CHUNK);
        if (f->moved) f->moved[o] = (float)moved;
    }
}
