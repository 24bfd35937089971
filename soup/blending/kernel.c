/* The inner loop of a blend: bfloat16 or float32 elements of every member, summed, rounded once.

   The same operations on the same float64 values in the same order as soup.methods.linear and
   soup.rounding.round_once, so the same bits. Compiled without contraction (a fused multiply-add
   would round once less) and without any other licence to change what is written here.

   Elements are read where they lie in the page cache, through mapped files: copying them costs more
   than the arithmetic. Every loop of the arithmetic runs over a tile that stays in
   a core's first-level cache, with a length that the compiler knows, and has no branches: that is
   what lets it use the widest vectors there are. */

#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TILE 128 /* elements */
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

INLINE double element(const char *row, int64_t at, int narrow) { /* of any alignment */
    float value;
    if (narrow) { /* bfloat16 is the upper half of a float32 */
        uint16_t upper;
        memcpy(&upper, row + at * 2, sizeof upper);
        return from_bits((uint32_t)upper << 16);
    }
    memcpy(&value, row + at * 4, sizeof value);
    return value;
}

/* Float64 sums, in the order of members. */
INLINE void sum(const struct job *job, int64_t at, int64_t size, int narrow, double *total) {
    int64_t i = 0;
    if (job->before) {
        memcpy(total, job->before + at, size * sizeof *total);
    } else { /* not added to zero: that would lose -0.0 */
        const char *row = job->rows[0];
        const double factor = job->factors ? job->factors[0] : 1;
        EACH(k) total[k] = element(row, at + k, narrow) * factor;
        i = 1;
    }
    for (; i < job->members; i++) {
        const char *row = job->rows[i];
        if (job->factors) {
            const double factor = job->factors[i];
            EACH(k) total[k] += element(row, at + k, narrow) * factor;
        } else {
            EACH(k) total[k] += element(row, at + k, narrow);
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

/* --- reading ------------------------------------------------------------------------------ */

/* Have each member's bytes from `start` on in our page tables. */
static void populate(const struct job *job, int64_t start, int64_t size) {
#ifdef MADV_POPULATE_READ /* all pages at once: a fault for each costs as much as copying them */
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    for (int64_t i = 0; i < job->members; i++) {
        const uintptr_t first = (uintptr_t)(job->rows[i] + start), base = first - first % page;
        madvise((void *)base, first + size - base, MADV_POPULATE_READ);
    }
#else
    (void)job, (void)start, (void)size;
#endif
}

/* Whether each file still holds all that was read: past its end, the last page is zeros. */
static int complete(const struct job *job) {
    struct stat found;
    for (int64_t i = 0; i < job->members; i++)
        if (fstat(job->files[i], &found) || found.st_size < job->ends[i]) return 0;
    return 1;
}

INLINE int merge_all(const struct job *job, int narrow, int to_narrow) {
    int finite = 1;
    int64_t at = 0;
    populate(job, 0, job->count * (narrow ? 2 : 4));
    for (; at + TILE <= job->count; at += TILE)
        finite &= merge_tile(job, at, TILE, narrow, to_narrow);
    finite &= merge_tile(job, at, job->count - at, narrow, to_narrow);
    return finite && complete(job);
}

INLINE int merge(const struct job *job, int narrow, int to_narrow) {
    if (narrow) return to_narrow ? merge_all(job, 1, 1) : merge_all(job, 1, 0);
    return to_narrow ? merge_all(job, 0, 1) : merge_all(job, 0, 0);
}

/* --- the same code for the vectors of several processors: which is at hand is asked when it
   runs --------------------------------------------------------------------------------------- */

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

static int merge_best(const struct job *job, int narrow, int to_narrow) {
#ifdef DISPATCHED
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return merge_avx512(job, narrow, to_narrow);
    if (__builtin_cpu_supports("avx2")) return merge_avx2(job, narrow, to_narrow);
#endif
    return merge(job, narrow, to_narrow);
}

/* --- a file that shrinks, or a disk that fails, while it is mapped: SIGBUS ---------------- */

static __thread sigjmp_buf *escape; /* of the thread that reads mapped files just now */
static struct sigaction earlier;

static void on_bus_error(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    if (escape) siglongjmp(*escape, 1);
    sigaction(SIGBUS, &earlier, NULL); /* not ours: it happens again, and is theirs */
}

/* To be called before the first merge, by one thread; again does no harm. */
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

/* --- what Python calls -------------------------------------------------------------------- */

/* Merge; narrow and to_narrow say whether members and result are bfloat16, else they are float32.
   Returns 1 where all could be read and all of the result is finite, else 0. */
int soup_merge(const char *const *rows, const int *files, const int64_t *ends, int64_t members,
               int64_t count, const double *factors, double divisor, const double *before,
               double *after, void *out, int narrow, int to_narrow) {
    const struct job job = {rows,    files,   ends,   members, count,
                            factors, divisor, before, after,   out};
    sigjmp_buf here;
    volatile int done = 0;
    if (!sigsetjmp(here, 1)) {
        escape = &here;
        done = merge_best(&job, narrow, to_narrow);
    }
    escape = NULL;
    return done;
}
