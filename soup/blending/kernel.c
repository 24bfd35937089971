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
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#define VERSION 2 /* of what is called from outside; see kernel.py's side of it */

#define TILE 128 /* elements */
enum kind { F32, BF16, F16 };
#define INLINE static inline __attribute__((always_inline))
#define EACH(k) for (int64_t k = 0; k < size; k++)

struct job {
    const char *const *rows; /* per member, its first element in a mapped file */
    const int *files;        /* per member, that file */
    const int64_t *ends;     /* per member, the byte of the file after its last element */
    int64_t members;
    int64_t count;           /* elements of each member to merge */
    const double *factors;   /* one per member, or NULL: all count the same */
    double divisor;          /* a whole number; 1 where there are factors */
    const double *before;    /* count sums to start from, or NULL */
    double *after;           /* where to leave the sums, before they are divided; or NULL */
    void *out;               /* count raw elements */
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
    for (int64_t i = 0; i < job->members; i++)
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

/* Merge elements of `kind` into those of kind `to`. Returns 1 where all could be read and all of the
   result is finite, else 0. */
int soup_merge(const char *const *rows, const int *files, const int64_t *ends, int64_t members,
               int64_t count, const double *factors, double divisor, const double *before,
               double *after, void *out, int kind, int to) {
    const struct job job = {rows,    files,   ends,   members, count,
                            factors, divisor, before, after,   out};
    const int until_now = soup_faults();
    return merge_best(&job, kind, to) && complete(&job) && soup_faults() == until_now;
}
