/* What the guests of all families check at their boundary, and say. */
#ifndef FAMILIES_FAMILY_H
#define FAMILIES_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

/* Parts of Linux's boot_params that these guests look at (Documentation/arch/x86/zero-page.rst). */
struct family_boot {
    bool by_linux_protocol;
    uint16_t boot_flag;
    uint32_t header_magic;
    uint32_t initrd;
    uint32_t initrd_bytes;
    uint64_t command_line;
    uint32_t command_line_size;
    bool ram_only;
};

/* Reads them. */
struct family_boot family_boot(void);

/* Checks what every family needs: the header's magic numbers, RAM from 0 up, all ones from ports that nobody owns, a clock
 * that ticks in decimal. Says what is wrong, and gives false. */
bool family_check(const char *name, const struct family_boot *boot);

/* Says "NAME: wrong: WHAT"; false. */
bool family_fail(const char *name, const char *what);

/* Says "NAME: ok", and the command line. */
void family_succeed(const char *name);

/*
 * With wait=1 among the words of the command line: says "NAME: waits", waits for a line on the console, as a server waits
 * for its work, then checks its machine once more, as family_check does, and says "NAME: goes on".
 */
bool family_wait(const char *name, const struct family_boot *boot);

/* The frequency of the TSC in kHz as CPUID leaf 0x40000010 has it; 0 if it has not. */
uint32_t family_tsc_frequency(void);

#endif
