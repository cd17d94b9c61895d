/*
 * Interrupts as reasons to wake up: the 8259 interrupt controllers in automatic end-of-interrupt mode, and one handler
 * that does nothing. A guest runs with interrupts off and takes them only while it halts, so no handler ever meets
 * half-changed state.
 */
#ifndef MACHINE_INTERRUPTS_H
#define MACHINE_INTERRUPTS_H

/* The number of lines of the two controllers. */
#define INTERRUPT_LINES 16

/* The vector of the local APIC's timer, behind those of the lines. */
#define INTERRUPT_VECTOR_TIMER 0x30

/* Sets up both controllers with every line masked, and the interrupt descriptor table. */
void interrupts_start(void);

/* Lets a line, below INTERRUPT_LINES, wake the processor. */
void interrupts_unmask(unsigned line);

/* Gives a vector, at most INTERRUPT_VECTOR_TIMER, another handler than the one that does nothing. */
void interrupts_set_entry(unsigned vector, const char *entry);

/*
 * Halts until an interrupt comes; returns at once when one is pending. The processor takes no interrupt between "sti"
 * and the instruction after it, so one that comes just before the halt is not lost.
 */
static inline void interrupts_wait(void)
{
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

#endif
