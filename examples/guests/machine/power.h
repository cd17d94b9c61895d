/* The ways a guest ends, and the way it says that it is ready. */
#ifndef MACHINE_POWER_H
#define MACHINE_POWER_H

#include <stdint.h>

/* Tells the host that the guest is ready for work: the value 123 on the boot port. */
void power_report_ready(void);

/* Ends the machine with an exit code (its low eight bits) on the debug-exit port. */
_Noreturn void power_exit(int code);

/* Powers the machine off by the byte that ACPI's sleep control register takes (ACPI 6.5 §4.8.3.7). */
_Noreturn void power_off(void);

/* Powers the machine off by the word that older virtual machines take on the same port. */
_Noreturn void power_off_legacy(void);

/* Pulses the processor's reset line by the keyboard controller. */
_Noreturn void power_reset(void);

/* Halts with interrupts off: nothing wakes the processor again. */
_Noreturn void power_halt(void);

#endif
