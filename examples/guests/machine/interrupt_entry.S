/* The one interrupt handler: to have woken the processor is all that an interrupt is for. */

    .section .text.interrupt_entry, "ax"
    .globl interrupt_entry
interrupt_entry:
    iretq

    .section .note.GNU-stack, "", @progbits
