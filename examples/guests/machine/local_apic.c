#include "machine/local_apic.h"

#include "machine/paging.h"

#define LOCAL_APIC 0xfee00000

enum local_apic_register {
    SPURIOUS_VECTOR = 0x0f0,
    TIMER_VECTOR = 0x320,
    LINT0 = 0x350,
    TIMER_INITIAL_COUNT = 0x380,
    TIMER_DIVIDER = 0x3e0,
};

#define SPURIOUS_VECTOR_ENABLED 0x1ff /* software-enabled; vector 255, which nothing here can raise */

#define LINT0_EXTERNAL 0x700 /* the vector is asked of the 8259; not masked */
#define LINT0_MASKED 0x10000
#define LINT0_MODE 0x700

/* Virtual machines count at 1 GHz; a guest that waits for the network need not know it better. */
#define TIMER_DIVIDE_BY_16 0x3
#define TIMER_COUNTS_PER_MILLISECOND (1000000 / 16)

static struct page_table table;

static volatile uint32_t *local_apic(enum local_apic_register offset)
{
    return (volatile uint32_t *)(uintptr_t)(LOCAL_APIC + offset);
}

/*
 * Some machines let the 8259 through before the guest begins, others leave that to a firmware that bare guests do not
 * have. While an APIC is disabled by software its entries cannot be unmasked.
 */
void local_apic_start(void)
{
    struct page_table_pool pool = {&table, 1};

    if (!paging_map(LOCAL_APIC, PAGING_DEVICE, &pool))
        return;
    if ((*local_apic(LINT0) & (LINT0_MASKED | LINT0_MODE)) == LINT0_EXTERNAL)
        return;
    *local_apic(SPURIOUS_VECTOR) = SPURIOUS_VECTOR_ENABLED;
    *local_apic(LINT0) = LINT0_EXTERNAL;
}

void local_apic_start_timer(unsigned vector, uint32_t milliseconds)
{
    *local_apic(SPURIOUS_VECTOR) = SPURIOUS_VECTOR_ENABLED;
    *local_apic(TIMER_VECTOR) = vector;
    *local_apic(TIMER_DIVIDER) = TIMER_DIVIDE_BY_16;
    *local_apic(TIMER_INITIAL_COUNT) = milliseconds * TIMER_COUNTS_PER_MILLISECOND;
}
