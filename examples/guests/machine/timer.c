#include "machine/timer.h"

#include "machine/interrupts.h"
#include "machine/local_apic.h"

static bool running;

/* Set by timer_entry. */
volatile bool timer_expired;

/* In interrupt_entry.S. */
extern const char timer_entry[];

void timer_start(uint32_t milliseconds)
{
    running = true;
    interrupts_set_entry(INTERRUPT_VECTOR_TIMER, timer_entry);
    local_apic_start_timer(INTERRUPT_VECTOR_TIMER, milliseconds);
}

bool timer_is_running(void)
{
    return running;
}

bool timer_take_expiry(void)
{
    if (!timer_expired)
        return false;
    timer_expired = false;
    running = false;
    return true;
}
