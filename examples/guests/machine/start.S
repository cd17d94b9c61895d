/*
 * Both ways into a guest.
 *
 * `_start` is the 64-bit entry of the Linux boot protocol (Documentation/arch/x86/boot.rst, "64-bit boot protocol"):
 * long mode, the first GiB mapped to itself, %rsi = boot_params. `pvh_entry` is the 32-bit entry of the PVH protocol
 * (Xen, docs/misc/pvh.pandoc): protected mode without paging, %ebx = hvm_start_info. Both end in `boot_main` with
 * interrupts off, the protocol in %edi and its parameters in %rsi.
 */

#define BOOT_PROTOCOL_LINUX     0
#define BOOT_PROTOCOL_PVH       1

#define XEN_ELFNOTE_PHYS32_ENTRY 18

#define CR0_PG                  0x80000000
#define CR4_PAE                 0x20
#define MSR_EFER                0xc0000080
#define EFER_LME                0x100

#define PAGE_PRESENT_WRITABLE   0x3
#define PAGE_2MIB               0x83    /* present, writable, page size */

#define CODE_SELECTOR           0x10    /* the selectors of the Linux boot protocol, so that both entries agree */
#define DATA_SELECTOR           0x18

#define STACK_BYTES             8192

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad guest_pvh_entry

    .section .text.start, "ax"
    .code64
    .globl _start
_start:
    mov $stack_top, %esp
    mov $BOOT_PROTOCOL_LINUX, %edi
    call boot_main

/* A guest may have another entry for PVH, from which it goes on to this one. */
    .weak guest_pvh_entry
    .set guest_pvh_entry, pvh_entry

    .code32
    .globl pvh_entry
pvh_entry:
    movl $(page_directory_pointers + PAGE_PRESENT_WRITABLE), page_map_level_4
    movl $(page_directory + PAGE_PRESENT_WRITABLE), page_directory_pointers
    mov %cr4, %eax
    or $CR4_PAE, %eax
    mov %eax, %cr4
    mov $page_map_level_4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov %cr0, %eax
    or $CR0_PG, %eax
    mov %eax, %cr0
    lgdt descriptor_table_pointer
    ljmp $CODE_SELECTOR, $pvh_long_mode

    .code64
pvh_long_mode:
    mov $DATA_SELECTOR, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    mov $stack_top, %esp
    mov $BOOT_PROTOCOL_PVH, %edi
    mov %ebx, %esi
    call boot_main

    .section .rodata.descriptors, "a"
    .balign 8
descriptor_table:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff            /* CODE_SELECTOR: 64-bit code, already accessed */
    .quad 0x00cf93000000ffff            /* DATA_SELECTOR: flat data, already accessed */
descriptor_table_pointer:
    .word . - descriptor_table - 1
    .quad descriptor_table

/*
 * The first GiB, for the PVH entry alone. The table stands in the image because filling it would cost 2,000
 * instructions, which is a millisecond on a KVM that emulates each of them.
 */
    .section .data.page_directory, "aw"
    .balign 4096
page_directory:
    .set address, 0
    .rept 512
    .quad address + PAGE_2MIB
    .set address, address + 0x200000
    .endr

    .section .bss.page_tables, "aw", @nobits
    .balign 4096
page_map_level_4:
    .skip 4096
page_directory_pointers:
    .skip 4096

    .section .bss.stack, "aw", @nobits
    .balign 16
    .skip STACK_BYTES
stack_top:

    .section .note.GNU-stack, "", @progbits
