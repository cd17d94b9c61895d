/* The local APIC (Intel SDM volume 3, chapter 11), which stands between the 8259 and the processor. */
#ifndef MACHINE_LOCAL_APIC_H
#define MACHINE_LOCAL_APIC_H

#include <stdint.h>

/* Makes the local APIC accessible, and lets the 8259's interrupts through it. */
void local_apic_start(void);

/* Raises interrupt `vector` once, after so many milliseconds; at most 60,000. */
void local_apic_start_timer(unsigned vector, uint32_t milliseconds);

#endif
