/* The processor's time stamp counter. */
#ifndef MACHINE_TIME_STAMP_H
#define MACHINE_TIME_STAMP_H

#include <stdint.h>

static inline uint64_t time_stamp(void)
{
    uint32_t low;
    uint32_t high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

#endif
