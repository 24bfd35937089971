/* The inner loop of a blend: a linear sum of bfloat16 or float32 elements, rounded once.

   The same operations on the same float64 values in the same order as soup.methods.linear and
   soup.rounding.round_once, so the same bits. Compiled without contraction (a fused multiply-add
   would round once less) and without any other licence to change what is written here.

   Every loop runs over a tile that stays in a core's first-level cache, with a length that the
   compiler knows, and has no branches: that is what lets it use the widest vectors there are. */

#include <stdint.h>
#include <string.h>

#define TILE 128 /* elements */
#define INLINE static inline __attribute__((always_inline))
#define EACH(k) for (int64_t k = 0; k < size; k++)

struct job {
    const char *rows;     /* of raw elements, one row per member */
    int64_t stride;       /* bytes from row to row */
    int64_t members;      /* rows */
    int64_t count;        /* elements of a row to merge */
    const double *factors; /* one per member, or NULL: all count the same */
    double divisor;       /* a whole number; of what is divided there are no factors */
    const double *before; /* sums to start from, or NULL */
    double *after;        /* where to leave the sums, before they are divided; or NULL */
    void *out;            /* raw elements */
};

INLINE float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE double element(const char *row, int64_t at, int bfloat16) {
    if (bfloat16) /* the upper half of a float32 */
        return from_bits((uint32_t)((const uint16_t *)row)[at] << 16);
    return ((const float *)row)[at];
}

/* Float64 sums of the rows, in their order. */
INLINE void sum(const struct job *job, int64_t at, int64_t size, int bfloat16, double *total) {
    int64_t i = 0;
    if (job->before) {
        memcpy(total, job->before + at, size * sizeof *total);
    } else { /* not added to zero: that would lose -0.0 */
        const double factor = job->factors ? job->factors[0] : 1;
        EACH(k) total[k] = element(job->rows, at + k, bfloat16) * factor;
        i = 1;
    }
    for (; i < job->members; i++) {
        const char *row = job->rows + i * job->stride;
        if (job->factors) {
            const double factor = job->factors[i];
            EACH(k) total[k] += element(row, at + k, bfloat16) * factor;
        } else {
            EACH(k) total[k] += element(row, at + k, bfloat16);
        }
    }
    if (job->after) memcpy(job->after + at, total, size * sizeof *total);
}

/* Whether every element is finite as a float32 and, without its sign, below `limit`. */
INLINE int all_below(const uint32_t *bits, int64_t size, uint32_t limit) {
    uint32_t largest = 0;
    EACH(k) {
        const uint32_t magnitude = bits[k] & 0x7FFFFFFFu;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < limit;
}

INLINE int to_float32(const double *total, int64_t size, double divisor, float *out) {
    uint32_t bits[TILE];
    if (divisor == 1) {
        EACH(k) out[k] = (float)total[k];
    } else {
        EACH(k) out[k] = (float)(total[k] / divisor);
    }
    memcpy(bits, out, size * sizeof *bits);
    return all_below(bits, size, 0x7F800000u);
}

/* Round total/divisor to bfloat16, to nearest, ties to even: without dividing, which is slow, and
   not by way of float32 alone, which rounds twice.

   `near` is the quotient as a float32, give or take its last bit. Bfloat16 is the upper half of a
   float32, so the nearest one is plain from near's bits, unless its lower half is 0x8000: half
   way. A true quotient that is half way gives just that float32 (its product with the divisor fits
   a float64), and what comes next to it tells on which side of it the truth lies: the sign of
   |total| - divisor * |near|, which is exact. That the float64 quotient is half way only where the
   true one is follows from the divisor being a whole number. */
INLINE int to_bfloat16(const double *total, int64_t size, double divisor, uint16_t *out) {
    float near[TILE], missed[TILE];
    uint32_t bits[TILE], side[TILE];
    const double share = 1 / divisor;
    EACH(k) near[k] = (float)(total[k] * share);
    EACH(k) { /* scaled, so that the sign of the smallest difference outlives float32 */
        const double truth = __builtin_fabs(total[k]), found = __builtin_fabs((double)near[k]);
        missed[k] = (float)((truth - divisor * found) * 0x1p64);
    }
    memcpy(bits, near, size * sizeof *bits);
    memcpy(side, missed, size * sizeof *side);
    EACH(k) {
        const uint32_t half_way = (bits[k] & 0xFFFFu) == 0x8000u;
        const uint32_t below = side[k] >> 31, above = (side[k] != 0) & ~below;
        const uint32_t nudged = bits[k] + (half_way & above) - (half_way & below);
        const uint32_t even = (nudged >> 16) & 1u;
        out[k] = (uint16_t)((nudged + 0x7FFFu + even) >> 16);
    }
    return all_below(bits, size, 0x7F7F8000u); /* from there on bfloat16 has only Inf */
}

INLINE int merge_tile(const struct job *job, int64_t at, int64_t size, int narrow, int to_narrow) {
    double total[TILE];
    sum(job, at, size, narrow, total);
    return to_narrow ? to_bfloat16(total, size, job->divisor, (uint16_t *)job->out + at)
                     : to_float32(total, size, job->divisor, (float *)job->out + at);
}

INLINE int merge_all(const struct job *job, int narrow, int to_narrow) {
    int finite = 1;
    int64_t at = 0;
    for (; at + TILE <= job->count; at += TILE)
        finite &= merge_tile(job, at, TILE, narrow, to_narrow);
    return finite & merge_tile(job, at, job->count - at, narrow, to_narrow);
}

INLINE int merge(const struct job *job, int narrow, int to_narrow) {
    if (narrow) return to_narrow ? merge_all(job, 1, 1) : merge_all(job, 1, 0);
    return to_narrow ? merge_all(job, 0, 1) : merge_all(job, 0, 0);
}

/* The same code for the vectors of several processors; which one is at hand is asked when it runs. */
#if defined(__x86_64__) && defined(__GNUC__)
#define DISPATCHED 1
#if defined(__clang__)
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#else /* by itself gcc uses half of a register */
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#endif
__attribute__((target(AVX512))) static int merge_avx512(const struct job *job, int a, int b) {
    return merge(job, a, b);
}
__attribute__((target("avx2"))) static int merge_avx2(const struct job *job, int a, int b) {
    return merge(job, a, b);
}
#endif

/* Merge; narrow and to_narrow say whether rows and result are bfloat16, else they are float32.
   Returns 1 where all of the result is finite, else 0. */
int soup_merge(const char *rows, int64_t stride, int64_t members, int64_t count,
               const double *factors, double divisor, const double *before, double *after,
               void *out, int narrow, int to_narrow) {
    const struct job job = {rows, stride, members, count, factors, divisor, before, after, out};
#ifdef DISPATCHED
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return merge_avx512(&job, narrow, to_narrow);
    if (__builtin_cpu_supports("avx2")) return merge_avx2(&job, narrow, to_narrow);
#endif
    return merge(&job, narrow, to_narrow);
}
