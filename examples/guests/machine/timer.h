/* One timer that wakes the processor once; interrupts_start() must have been called. */
#ifndef MACHINE_TIMER_H
#define MACHINE_TIMER_H

#include <stdbool.h>
#include <stdint.h>

/* Starts the timer; it must not be running. */
void timer_start(uint32_t milliseconds);

/* Whether it was started and its expiry not taken. */
bool timer_is_running(void);

/* Whether it has expired; true once for each start. */
bool timer_take_expiry(void);

#endif
