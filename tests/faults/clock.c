/* A clock that jumps twice a second, for LD_PRELOAD: to yesterday, to tomorrow, to 1970, ten years
 * ahead, and back. What only goes forward (CLOCK_MONOTONIC) does so still, and files keep the times
 * that the kernel gives them.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define DAY 86400L
#define HALF 500000000L

static void jump(time_t *seconds, long nanoseconds)
{
    switch ((*seconds * 2 + (nanoseconds >= HALF)) % 6) {
    case 0:
        *seconds -= DAY;
        break;
    case 2:
        *seconds += DAY;
        break;
    case 3:
        *seconds %= 100 * DAY; /* of 1970 */
        break;
    case 4:
        *seconds += 3650 * DAY;
        break;
    }
}

int clock_gettime(clockid_t which, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, which, now);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        jump(&now->tv_sec, now->tv_nsec);
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}
