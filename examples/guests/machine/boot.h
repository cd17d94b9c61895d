/* What the boot protocol told the guest: its command line and its memory map. */
#ifndef MACHINE_BOOT_H
#define MACHINE_BOOT_H

#include <stdbool.h>
#include <stdint.h>

struct memory_region {
    uint64_t start;
    uint64_t size;
};

/* The command line, terminated by NUL; empty when there is none. */
const char *boot_command_line(void);

/*
 * Gives the next region of RAM of the memory map, in the order of the map, and moves `cursor` (0 at the start) past it.
 * False when there are no more.
 */
bool boot_next_ram(unsigned *cursor, struct memory_region *region);

/* The zero page of the Linux boot protocol; NULL by PVH. */
const uint8_t *boot_linux_parameters(void);

/* Where each guest's program begins; its result is the guest's exit code. Interrupts are off. */
int guest_main(void);

#endif
