/*
 * The entry of Solo5's hvt interface, version 2: long mode, all memory mapped to itself, %rdi = boot information, %rsp at
 * the end of memory. `hvt_main` is called with what %rdi points to; its result is the exit status.
 */
    .section .text.start, "ax"
    .code64
    .globl _start
_start:
    xor %ebp, %ebp
    call hvt_main
    mov %eax, %edi
    call hvt_halt

/* The interface that the image is built for: target 1 is hvt, of version 2. */
    .section .note.solo5.abi, "a", @note
    .balign 4
    .long 6, 16, 0x31494241
    .asciz "Solo5"
    .balign 4
    .long 1, 2, 0, 0

    .section .note.GNU-stack, "", @progbits
