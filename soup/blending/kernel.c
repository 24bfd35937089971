/* The inner loop of a blend: bfloat16, float16 or float32 elements of every member, summed, rounded
   once; and what is looked at while bytes are at hand: their magnitudes, whether they are equal.

   The same operations on the same float64 values in the same order as soup.methods.linear and
   soup.rounding.round_once, so the same bits. Compiled without contraction (a fused multiply-add
   would round once less) and without any other licence to change what is written here.

   Elements are read where they lie in the page cache, through mapped files: copying them costs more
   than the arithmetic. Every loop of the arithmetic runs over a tile that stays in
   a core's first-level cache, with a length that the compiler knows, and has no branches: that is
   what lets it use the widest vectors there are. */

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#define VERSION 3 /* of what is called from outside; see kernel.py's side of it */

#define TILE 128 /* elements */
enum kind { F32, BF16, F16, F64 }; /* the last one only where something is changed, see below */
#define INLINE static inline __attribute__((always_inline))
#define EACH(k) for (int64_t k = 0; k < size; k++)

/* What LoRA does to a member's elements, which are those of a matrix: row + scale · (left row · right),
   where left has `rank` columns and right as many rows. Both lie in mapped files, in any order. */
struct change {
    const char *left, *right;
    int64_t left_row, left_step;   /* elements from one row of left to the next, and in a row */
    int64_t right_row, right_step; /* the same of right */
    int64_t rank;
    int64_t left_kind, right_kind;
    double scale;
};

struct job {
    const char *const *rows; /* per member, its first element in a mapped file */
    const int *files;        /* files that are read, those of rows and more */
    const int64_t *ends;     /* per file, the byte after the last one that is read */
    int64_t parts;           /* how many of these */
    int64_t members;
    int64_t count;           /* elements of each member to merge */
    const double *factors;   /* one per member, or NULL: all count the same */
    double divisor;          /* a whole number; 1 where there are factors */
    const double *before;    /* count sums to start from, or NULL */
    double *after;           /* where to leave the sums, before they are divided; or NULL */
    void *out;               /* count raw elements */
    const struct change *const *changes; /* per member, or NULL; NULL where nothing is changed */
    int64_t first;           /* the position of the first element in the matrix that is changed */
    int64_t columns;         /* of that */
};

/* --- arithmetic: a tile of `size` elements from `at` on ----------------------------------- */

INLINE float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t raw(const char *row, int64_t at, int kind) { /* of any alignment */
    uint32_t whole;
    uint16_t half;
    if (kind == F32) {
        memcpy(&whole, row + at * 4, sizeof whole);
        return whole;
    }
    memcpy(&half, row + at * 2, sizeof half);
    return half;
}

INLINE double element(const char *row, int64_t at, int kind) {
    const uint32_t bits = raw(row, at, kind);
    if (kind == F32) return from_bits(bits);
    if (kind == BF16) return from_bits(bits << 16); /* the upper half of a float32 */
    /* Float16's exponent and fraction, moved to where float32 has them, and the exponent's bias
       changed; twice for Inf and NaN. Below 2^-14 it has no exponent: it is read as if that were 1,
       and what this adds is taken away again, exactly. With masks rather than conditions, of which
       compilers make branches. */
    const uint32_t magnitude = (bits & 0x7FFFu) << 13;
    const uint32_t small = (uint32_t)((int32_t)(magnitude - 0x00800000u) >> 31);
    const uint32_t large = (uint32_t)((int32_t)(0x0F7FFFFFu - magnitude) >> 31);
    const float raised =
        from_bits(magnitude + 0x38000000u + (small & 0x00800000u) + (large & 0x38000000u));
    const float value = raised - from_bits(small & 0x38800000u);
    uint32_t found;
    memcpy(&found, &value, sizeof found);
    return from_bits((bits & 0x8000u) << 16 | found);
}

/* Float16 as float32, and a float32 rounded to float16, to nearest, ties to even: by the processor
   where it can, which gives the same bits as what is written out here. */
static void widen_plainly(const char *row, int64_t size, float *out) {
    EACH(k) out[k] = (float)element(row, k, F16);
}

/* Below 2^-14 float16 is whole multiples of 2^-24, the last place of a float32 between a half and one:
   adding a half rounds there. What overflows is Inf, and so is NaN. */
INLINE uint16_t narrowed(float value) {
    uint32_t bits, low;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t magnitude = bits & 0x7FFFFFFFu, even = magnitude >> 13 & 1u;
    const float raised = from_bits(magnitude) + 0.5f;
    memcpy(&low, &raised, sizeof low);
    const uint32_t normal = ((magnitude + 0xFFFu + even) >> 13) - (112u << 10);
    const uint32_t found = magnitude < 0x38800000u ? low - 0x3F000000u : normal;
    return (uint16_t)((found < 0x7C00u ? found : 0x7C00u) | bits >> 31 << 15);
}

static void narrow_plainly(const float *row, int64_t size, uint16_t *out) {
    EACH(k) out[k] = narrowed(row[k]);
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2,f16c"))) static void widen_f16c(const char *row, int64_t size,
                                                            float *out) {
    int64_t k = 0;
    for (; k + 8 <= size; k += 8)
        _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + k * 2))));
    for (; k < size; k++) out[k] = (float)element(row, k, F16);
}

__attribute__((target("avx2,f16c"))) static void narrow_f16c(const float *row, int64_t size,
                                                             uint16_t *out) {
    int64_t k = 0;
    for (; k + 8 <= size; k += 8)
        _mm_storeu_si128((void *)(out + k),
                         _mm256_cvtps_ph(_mm256_loadu_ps(row + k), _MM_FROUND_TO_NEAREST_INT));
    for (; k < size; k++) out[k] = narrowed(row[k]);
}

static int f16c; /* whether this processor can */

__attribute__((constructor)) static void find_f16c(void) {
    unsigned a, b, c = 0, d;
    __builtin_cpu_init();
    f16c = __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}
#else
#define f16c 0
#define widen_f16c widen_plainly
#define narrow_f16c narrow_plainly
#endif

/* Float64 sums, in the order of members. */
INLINE void sum(const struct job *job, int64_t at, int64_t size, int kind, double *total) {
    int64_t i = 0;
    if (kind == F16) { /* a member's elements as float32 first */
        float wide[TILE];
        if (job->before) memcpy(total, job->before + at, size * sizeof *total);
        for (; i < job->members; i++) {
            const double factor = job->factors ? job->factors[i] : 1;
            (f16c ? widen_f16c : widen_plainly)(job->rows[i] + at * 2, size, wide);
            if (i || job->before) EACH(k) total[k] += wide[k] * factor;
            else EACH(k) total[k] = wide[k] * factor;
        }
        if (job->after) memcpy(job->after + at, total, size * sizeof *total);
        return;
    }
    if (job->before) {
        memcpy(total, job->before + at, size * sizeof *total);
    } else { /* not added to zero: that would lose -0.0 */
        const char *row = job->rows[0];
        const double factor = job->factors ? job->factors[0] : 1;
        EACH(k) total[k] = element(row, at + k, kind) * factor;
        i = 1;
    }
    for (; i < job->members; i++) {
        const char *row = job->rows[i];
        if (job->factors) {
            const double factor = job->factors[i];
            EACH(k) total[k] += element(row, at + k, kind) * factor;
        } else {
            EACH(k) total[k] += element(row, at + k, kind);
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

/* Round total/divisor to float16, to nearest, ties to even, in lanes of 32 bits.

   `near` is one of the two float32 next to the true quotient, or is it, as above; what tells on which
   side of it the truth lies is exact, too. So it can be rounded to odd: towards zero, and then its
   last bit set where something was cut off (Boldo & Melquiond 2008, IEEE Trans. Computers 57(4)).
   As a float32 has two bits more than a float16 and its tie need, rounding that again gives what
   rounding the quotient once gives. */
INLINE int to_float16(const double *total, int64_t size, double divisor, uint16_t *out) {
    float near[TILE], missed[TILE];
    uint32_t bits[TILE], side[TILE], largest = 0;
    const double share = 1 / divisor;
    EACH(k) near[k] = (float)(total[k] * share);
    EACH(k) {
        const double truth = __builtin_fabs(total[k]), found = __builtin_fabs((double)near[k]);
        missed[k] = (float)((truth - divisor * found) * 0x1p64);
    }
    memcpy(bits, near, size * sizeof *bits);
    memcpy(side, missed, size * sizeof *side);
    EACH(k) {
        const uint32_t below = side[k] >> 31, cut = side[k] << 1 != 0;
        const uint32_t sign = bits[k] & 0x80000000u, magnitude = bits[k] & 0x7FFFFFFFu;
        bits[k] = sign | ((magnitude - (below & cut)) | cut);
    }
    memcpy(near, bits, size * sizeof *bits);
    (f16c ? narrow_f16c : narrow_plainly)(near, size, out);
    EACH(k) largest = (out[k] & 0x7FFFu) > largest ? out[k] & 0x7FFFu : largest;
    return largest < 0x7C00u; /* Inf and NaN are above it */
}

INLINE int merge_tile(const struct job *job, int64_t at, int64_t size, int kind, int to) {
    double total[TILE];
    sum(job, at, size, kind, total);
    if (to == BF16) return to_bfloat16(total, size, job->divisor, (uint16_t *)job->out + at);
    if (to == F16) return to_float16(total, size, job->divisor, (uint16_t *)job->out + at);
    return to_float32(total, size, job->divisor, (float *)job->out + at);
}

/* --- changing: LoRA ---------------------------------------------------------------------------

   In float64, every product and every sum rounded by itself and in the order of the rank, beginning
   with zero: an element depends on its row and its column alone, not on how a matrix is cut, nor on
   the processor. A tile of the right factors is brought into float64, one behind the other, and
   serves several rows at a time; both stay in a core's first-level cache. */

#define WIDTH 64
#define HEIGHT 8
#define ROWS 4 /* of HEIGHT, at a time */

INLINE int width_of(int kind) { return kind == F64 ? 8 : kind == F32 ? 4 : 2; }

INLINE double any(const char *row, int64_t at, int kind) {
    double value;
    if (kind != F64) return element(row, at, kind);
    memcpy(&value, row + at * 8, sizeof value);
    return value;
}

/* A tile's row as float64; what lies behind its `size` elements is zero. */
INLINE void widen(const char *row, int64_t at, int64_t size, int kind, double *out) {
    char few[WIDTH * 8];
    row += at * width_of(kind);
    if (size < WIDTH) {
        memset(few, 0, sizeof few);
        row = memcpy(few, row, size * width_of(kind));
    }
    size = WIDTH;
    switch (kind) { /* each a loop of its own */
    case F32: EACH(k) out[k] = any(row, k, F32); break;
    case BF16: EACH(k) out[k] = any(row, k, BF16); break;
    case F16: EACH(k) out[k] = any(row, k, F16); break;
    case F64: memcpy(out, row, size * sizeof *out); break;
    }
}

/* The same of a part of a factor, whose elements may lie apart: many are made with each of them. */
static void gather(const char *row, int64_t at, int64_t step, int64_t size, int kind, double *out) {
    EACH(k) out[k] = any(row, at + k * step, kind);
}

/* Some doubles, of any alignment, which processors add at a time; or halves of them, twice. */
typedef double vector __attribute__((vector_size(32), aligned(8), may_alias));
#define LANES 4

/* `found` = left · right of ROWS rows, in registers: each element of right that is loaded serves all
   of them. Left's rows are `rank` apart, right's and found's WIDTH. */
INLINE void multiply(const double *left, const double *right, int64_t rank, double *found) {
    for (int64_t k = 0; k < WIDTH; k += 2 * LANES, right += 2 * LANES) {
        vector a = {0}, a2 = {0}, b = {0}, b2 = {0}, c = {0}, c2 = {0}, d = {0}, d2 = {0};
        const double *l = left, *r = right;
        for (int64_t j = 0; j < rank; j++, l++, r += WIDTH) {
            const vector one = *(const vector *)r, two = *(const vector *)(r + LANES);
            a += l[0] * one, a2 += l[0] * two;
            b += l[rank] * one, b2 += l[rank] * two;
            c += l[2 * rank] * one, c2 += l[2 * rank] * two;
            d += l[3 * rank] * one, d2 += l[3 * rank] * two;
        }
        vector *const out = (vector *)(found + k);
        out[0] = a, out[1] = a2;
        out[WIDTH / LANES] = b, out[WIDTH / LANES + 1] = b2;
        out[2 * WIDTH / LANES] = c, out[2 * WIDTH / LANES + 1] = c2;
        out[3 * WIDTH / LANES] = d, out[3 * WIDTH / LANES + 1] = d2;
    }
}

INLINE int put(const struct job *job, const double *total, int64_t at, int64_t size, int to) {
    char few[WIDTH * 8], *const there = (char *)job->out + at * width_of(to);
    char *const out = size < WIDTH ? few : there;
    int finite = 1;
    switch (to) {
    case F32: finite = to_float32(total, WIDTH, job->divisor, (float *)out); break;
    case BF16: finite = to_bfloat16(total, WIDTH, job->divisor, (uint16_t *)out); break;
    case F16: finite = to_float16(total, WIDTH, job->divisor, (uint16_t *)out); break;
    case F64: memcpy(out, total, WIDTH * sizeof *total); break;
    }
    if (size < WIDTH) memcpy(there, few, size * width_of(to));
    return finite;
}

/* `size` columns of `height` rows, the first element of which is `at`; `right` has the members' tiles,
   `left` room for some rows of any. */
INLINE int merge_block(const struct job *job, int64_t at, int64_t height, int64_t size, int kind,
                       int to, const double *right, double *left) {
    double total[HEIGHT * WIDTH], value[WIDTH], found[ROWS * WIDTH];
    int finite = 1;
    for (int64_t i = 0; i < job->members; i++) {
        const struct change *change = job->changes[i];
        for (int64_t r = 0; r < height; r++) {
            const int64_t here = at + r * job->columns;
            double *restrict sum = total + r * WIDTH;
            if (change && r % ROWS == 0) {
                const int64_t row = (job->first + here) / job->columns;
                for (int64_t k = 0; k < ROWS && r + k < height; k++)
                    gather(change->left, (row + k) * change->left_row, change->left_step,
                           change->rank, change->left_kind, left + k * change->rank);
                multiply(left, right, change->rank, found);
            }
            widen(job->rows[i], here, size, kind, value);
            if (change) {
                const double *product = found + r % ROWS * WIDTH;
                for (int k = 0; k < WIDTH; k++) value[k] += product[k] * change->scale;
            }
            if (job->factors)
                for (int k = 0; k < WIDTH; k++) value[k] *= job->factors[i];
            if (i == 0 && job->before) widen((const char *)job->before, here, size, F64, sum);
            if (i == 0 && !job->before)
                memcpy(sum, value, sizeof value);
            else
                for (int k = 0; k < WIDTH; k++) sum[k] += value[k];
        }
        if (change) right += change->rank * WIDTH;
    }
    for (int64_t r = 0; r < height; r++) {
        const int64_t here = at + r * job->columns;
        const double *sum = total + r * WIDTH;
        if (job->after) memcpy(job->after + here, sum, size * sizeof *sum);
        finite &= put(job, sum, here, size, to);
    }
    return finite;
}

INLINE int merge_changed(const struct job *job, int kind, int to) {
    int64_t all = 0, most = 0;
    for (int64_t i = 0; i < job->members; i++) {
        const int64_t rank = job->changes[i] ? job->changes[i]->rank : 0;
        all += rank;
        most = rank > most ? rank : most;
    }
    double *const right = calloc(all * WIDTH + most * ROWS + 1, sizeof *right);
    if (!right) return 0;
    double *const left = right + all * WIDTH;
    int finite = 1;
    for (int64_t at = 0; at < job->count;) { /* as many whole rows as there are, or a part of one */
        const int64_t column = (job->first + at) % job->columns, rest = job->count - at;
        const int whole = !column && rest >= job->columns;
        const int64_t rows = whole ? rest / job->columns : 1;
        const int64_t there = job->columns - column, width = rest < there ? rest : there;
        for (int64_t c = 0; c < width; c += WIDTH) {
            const int64_t size = width - c < WIDTH ? width - c : WIDTH;
            double *tile = right;
            if (size < WIDTH) memset(right, 0, all * WIDTH * sizeof *right);
            for (int64_t i = 0; i < job->members; i++) {
                const struct change *change = job->changes[i];
                for (int64_t j = 0; change && j < change->rank; j++, tile += WIDTH)
                    gather(change->right,
                           j * change->right_row + (column + c) * change->right_step,
                           change->right_step, size, change->right_kind, tile);
            }
            for (int64_t r = 0; r < rows; r += HEIGHT) {
                const int64_t height = rows - r < HEIGHT ? rows - r : HEIGHT;
                const int64_t here = at + r * job->columns + c;
                finite &= merge_block(job, here, height, size, kind, to, right, left);
            }
        }
        at += whole ? rows * job->columns : width;
    }
    free(right);
    return finite;
}

/* --- looking ------------------------------------------------------------------------------ */

/* Of `size` elements of `width` bytes: the largest of all without their sign, as bits, and the
   smallest that is not zero (all bits set where there is none). Of integers (`sign` 0) all bits. */
#define LOOK(type)                                                                                 \
    INLINE void look_##type(const char *row, int64_t size, int sign, uint64_t *largest,            \
                            uint64_t *smallest) {                                                  \
        const type mask = sign ? (type)((type)~(type)0 >> 1) : (type)~(type)0;                     \
        type high = 0, low = (type)~(type)0; /* one less than it is, so that zero is no less */    \
        EACH(k) {                                                                                  \
            type bits;                                                                             \
            memcpy(&bits, row + k * sizeof bits, sizeof bits);                                     \
            bits &= mask;                                                                          \
            high = bits > high ? bits : high;                                                      \
            bits -= 1;                                                                             \
            low = bits < low ? bits : low;                                                         \
        }                                                                                          \
        *largest = high;                                                                           \
        *smallest = low == (type)~(type)0 ? ~(uint64_t)0 : (uint64_t)low + 1;                      \
    }
LOOK(uint8_t)
LOOK(uint16_t)
LOOK(uint32_t)
LOOK(uint64_t)

INLINE void look_all(const char *row, const int64_t *ends, int64_t pieces, int width, int sign,
                     uint64_t *largest, uint64_t *smallest) {
    int64_t at = 0;
    for (int64_t p = 0; p < pieces; at = ends[p++]) {
        const char *first = row + at * width;
        const int64_t size = ends[p] - at;
        if (width == 1) look_uint8_t(first, size, sign, largest + p, smallest + p);
        if (width == 2) look_uint16_t(first, size, sign, largest + p, smallest + p);
        if (width == 4) look_uint32_t(first, size, sign, largest + p, smallest + p);
        if (width == 8) look_uint64_t(first, size, sign, largest + p, smallest + p);
    }
}

/* Whether float64 sums of the same elements of all members are exact, in whatever order.

   Let e be the exponent of the largest and f that of the smallest that is not zero, p the bits of a
   significand. All are whole multiples of 2^(f-p+1), and sums of n are below n 2^(e+1): where
   e+1 + log2 n - (f-p+1) is at most 53, each of them is a float64. Looked at tile by tile, for
   neighbours are alike. */
INLINE int exact_all(const struct job *job, int kind) {
    const int fraction = kind == F32 ? 23 : kind == BF16 ? 7 : 10;
    int spare = 53 - (fraction + 1);
    for (int64_t n = 1; n < job->members; n *= 2) spare--;
    for (int64_t at = 0; at < job->count; at += TILE) {
        const int64_t size = job->count - at < TILE ? job->count - at : TILE;
        uint64_t largest = 0, smallest = ~(uint64_t)0, high, low;
        for (int64_t i = 0; i < job->members; i++) {
            if (kind == F32)
                look_uint32_t(job->rows[i] + at * 4, size, 1, &high, &low);
            else
                look_uint16_t(job->rows[i] + at * 2, size, 1, &high, &low);
            largest = high > largest ? high : largest;
            smallest = low < smallest ? low : smallest;
        }
        if (!largest) continue;
        const int top = (int)(largest >> fraction), bottom = (int)(smallest >> fraction);
        if ((top ? top : 1) - (bottom ? bottom : 1) > spare) return 0;
    }
    return 1;
}

/* --- reading ------------------------------------------------------------------------------ */

/* Whether each file still holds all that was read: past its end, the last page is zeros. */
static int complete(const struct job *job) {
    struct stat found;
    for (int64_t i = 0; i < job->parts; i++)
        if (fstat(job->files[i], &found) || found.st_size < job->ends[i]) return 0;
    return 1;
}

INLINE int merge_all(const struct job *job, int kind, int to) {
    int finite = 1;
    int64_t at = 0;
    for (; at + TILE <= job->count; at += TILE) finite &= merge_tile(job, at, TILE, kind, to);
    finite &= merge_tile(job, at, job->count - at, kind, to);
    return finite;
}

INLINE int merge(const struct job *job, int kind, int to) {
    if (job->changes) return merge_changed(job, kind, to);
    switch (kind * 3 + to) { /* each a loop of its own */
    case F32 * 3 + F32: return merge_all(job, F32, F32);
    case F32 * 3 + BF16: return merge_all(job, F32, BF16);
    case F32 * 3 + F16: return merge_all(job, F32, F16);
    case BF16 * 3 + F32: return merge_all(job, BF16, F32);
    case BF16 * 3 + BF16: return merge_all(job, BF16, BF16);
    case BF16 * 3 + F16: return merge_all(job, BF16, F16);
    case F16 * 3 + F32: return merge_all(job, F16, F32);
    case F16 * 3 + BF16: return merge_all(job, F16, BF16);
    case F16 * 3 + F16: return merge_all(job, F16, F16);
    }
    return 0;
}

INLINE int exact(const struct job *job, int kind) {
    return kind == F32 ? exact_all(job, F32) : kind == BF16 ? exact_all(job, BF16) : exact_all(job, F16);
}

struct look {
    const char *row;
    const int64_t *ends;
    int64_t pieces;
    int width, sign;
    uint64_t *largest, *smallest;
};

INLINE int look(const struct look *l) {
    if (l->width == 2) look_all(l->row, l->ends, l->pieces, 2, l->sign, l->largest, l->smallest);
    else if (l->width == 4) look_all(l->row, l->ends, l->pieces, 4, l->sign, l->largest, l->smallest);
    else if (l->width == 8) look_all(l->row, l->ends, l->pieces, 8, l->sign, l->largest, l->smallest);
    else look_all(l->row, l->ends, l->pieces, 1, l->sign, l->largest, l->smallest);
    return 1;
}

/* --- the same code for the vectors of several processors: which is at hand is asked when it
   runs --------------------------------------------------------------------------------------- */

#if defined(__x86_64__) && defined(__GNUC__)
#if defined(__clang__)
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#else /* by itself gcc uses half of a register */
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#endif
#define DISPATCH(name, parameters, arguments)                                                      \
    __attribute__((target(AVX512))) static int name##_avx512 parameters { return name arguments; } \
    __attribute__((target("avx2"))) static int name##_avx2 parameters { return name arguments; }   \
    static int name##_best parameters {                                                            \
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&            \
            __builtin_cpu_supports("avx512vl"))                                                    \
            return name##_avx512 arguments;                                                        \
        if (__builtin_cpu_supports("avx2")) return name##_avx2 arguments;                          \
        return name arguments;                                                                     \
    }
#else
#define DISPATCH(name, parameters, arguments)                                                      \
    static int name##_best parameters { return name arguments; }
#endif

DISPATCH(merge, (const struct job *job, int kind, int to), (job, kind, to))
DISPATCH(exact, (const struct job *job, int kind), (job, kind))
DISPATCH(look, (const struct look *l), (l))

/* --- a file that shrinks, or a disk that fails, while it is mapped: SIGBUS ------------------

   Whoever reads there, we or a hash function, reads zeros from then on, and `soup_faults` counts it:
   what was read since is not to be used. */

#define MOST 4096 /* mappings at a time; what is mapped beyond them is not watched */

static struct { uintptr_t first, end; } watched[MOST];
static int faults;
static struct sigaction earlier;

static void on_bus_error(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    const uintptr_t there = (uintptr_t)info->si_addr, page = sysconf(_SC_PAGESIZE);
    for (int k = 0; info->si_code > 0 && k < MOST; k++) {
        const uintptr_t end = __atomic_load_n(&watched[k].end, __ATOMIC_ACQUIRE);
        if (there < end && there >= watched[k].first) {
            const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
            __atomic_add_fetch(&faults, 1, __ATOMIC_SEQ_CST);
            if (mmap((void *)(there - there % page), page, PROT_READ, flags, -1, 0) != MAP_FAILED)
                return;
        }
    }
    sigaction(SIGBUS, &earlier, NULL); /* not ours: it happens again, and is theirs */
}

/* To be called before the first reading, by one thread; again does no harm. */
void soup_guard(void) {
    struct sigaction now, ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO;
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, NULL, &now) || now.sa_sigaction == on_bus_error) return;
    earlier = now;
    sigaction(SIGBUS, &ours, NULL);
}

/* Watch over a mapping. Returns its place in the list; -1 where there is none left. */
int soup_watch(uintptr_t first, uintptr_t size) {
    for (int k = 0; k < MOST; k++)
        if (!watched[k].end) { /* called by one thread at a time: Python's lock is held */
            watched[k].first = first;
            __atomic_store_n(&watched[k].end, first + size, __ATOMIC_RELEASE);
            return k;
        }
    return -1;
}

void soup_unwatch(int place) {
    __atomic_store_n(&watched[place].end, 0, __ATOMIC_RELEASE);
}

int soup_faults(void) { return __atomic_load_n(&faults, __ATOMIC_SEQ_CST); }

/* --- what Python calls -------------------------------------------------------------------- */

int soup_version(void) { return VERSION; }

/* Have `size` bytes from each of `count` places on in our page tables, all pages at once: a fault
   for each costs as much as copying them. */
void soup_populate(const char *const *rows, int64_t count, int64_t size) {
#ifdef MADV_POPULATE_READ
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    for (int64_t i = 0; i < count; i++) {
        const uintptr_t first = (uintptr_t)rows[i], base = first - first % page;
        madvise((void *)base, first + size - base, MADV_POPULATE_READ);
    }
#else
    (void)rows, (void)count, (void)size;
#endif
}

/* Of each of `count` rows the first that has the same bytes; itself where none before it has. */
void soup_alike(const char *const *rows, int64_t count, int64_t size, int64_t *first) {
    for (int64_t i = 0; i < count; i++) {
        first[i] = i;
        for (int64_t j = 0; j < i; j++)
            if (first[j] == j && (rows[i] == rows[j] || !memcmp(rows[i], rows[j], size))) {
                first[i] = j;
                break;
            }
    }
}

/* See `look_all`; `ends` are the pieces' ends, in elements. */
void soup_look(const char *row, const int64_t *ends, int64_t pieces, int width, int sign,
               uint64_t *largest, uint64_t *smallest) {
    const struct look given = {row, ends, pieces, width, sign, largest, smallest};
    look_best(&given);
}

/* See `exact_all`. */
int soup_exact(const char *const *rows, int64_t members, int64_t count, int kind) {
    struct job job;
    memset(&job, 0, sizeof job);
    job.rows = rows, job.members = members, job.count = count;
    return exact_best(&job, kind);
}

/* Merge elements of `kind` into those of kind `to`; `ends` are of the `parts` files that are read.
   Returns 1 where all could be read and all of the result is finite, else 0. */
int soup_merge(const char *const *rows, const int *files, const int64_t *ends, int64_t parts,
               int64_t members, int64_t count, const double *factors, double divisor,
               const double *before, double *after, void *out, int kind, int to,
               const struct change *const *changes, int64_t first, int64_t columns) {
    const struct job job = {rows,    files,  ends,  parts, members, count,  factors, divisor,
                            before,  after,  out,   changes, first, columns};
    const int until_now = soup_faults();
    return merge_best(&job, kind, to) && complete(&job) && soup_faults() == until_now;
}
