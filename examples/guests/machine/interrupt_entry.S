/* The interrupt handlers. */

#define LOCAL_APIC_END_OF_INTERRUPT 0xfee000b0

/* Of a device: to have woken the processor is all that it is for. */
    .section .text.interrupt_entry, "ax"
    .globl interrupt_entry
interrupt_entry:
    iretq

/* Of the local APIC's timer, which wants to be told, unlike the 8259. */
    .section .text.timer_entry, "ax"
    .globl timer_entry
timer_entry:
    push %rax
    movb $1, timer_expired(%rip)
    mov $LOCAL_APIC_END_OF_INTERRUPT, %eax
    movl $0, (%rax)
    pop %rax
    iretq

    .section .note.GNU-stack, "", @progbits
