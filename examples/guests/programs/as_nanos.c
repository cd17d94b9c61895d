/*
 * as-nanos: what Nanos expects of its machine and does at its boundary.
 *
 * By PVH it uses the stack before it has set one. By the Linux protocol it takes the page tables that it was given over,
 * which are to be four levels with one directory of 2 MiB pages. It ends with a code on port 0x501; exit=N gives the code.
 */
#include "families/family.h"
#include "machine/command_line.h"
#include "machine/power.h"

#define NAME "as-nanos"
#define PAGE_ADDRESS 0xffffffffff000ull
#define PAGE_PRESENT 1
#define PAGE_LARGE 0x80

/* How the file is recognised. */
static const char mark[] = "tfs magic mismatch";

/* The entry that the PVH note names: a call, before anything else. */
__asm__(".pushsection .text.pvh_with_stack, \"ax\"\n"
        ".code32\n"
        ".globl guest_pvh_entry\n"
        "guest_pvh_entry:\n"
        "    call 1f\n"
        "1:  pop %eax\n"
        "    cmp $1b, %eax\n"
        "    je pvh_entry\n"
        "    ud2\n"
        ".code64\n"
        ".popsection\n");

static bool has_large_pages(void)
{
    const uint64_t *table;

    __asm__ volatile("mov %%cr3, %0" : "=r"(table));
    for (unsigned level = 0; level < 2; level++) {
        uint64_t entry = table[0];
        if (!(entry & PAGE_PRESENT) || (entry & PAGE_LARGE))
            return false;
        table = (const uint64_t *)(entry & PAGE_ADDRESS);
    }
    return (table[0] & (PAGE_PRESENT | PAGE_LARGE)) == (PAGE_PRESENT | PAGE_LARGE);
}

int guest_main(void)
{
    struct family_boot boot = family_boot();

    __asm__ volatile("" : : "r"(mark));
    if (!family_check(NAME, &boot))
        return 3;
    if (!has_large_pages()) {
        family_fail(NAME, "the page tables");
        return 3;
    }
    family_succeed(NAME);
    if (!family_wait(NAME, &boot))
        return 3;
    return (int)command_line_number("exit", 0);
}
