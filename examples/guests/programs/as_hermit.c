/*
 * as-hermit: what Hermit's loader expects of its machine and does at its boundary.
 *
 * The command line and the initrd begin on a page, and the line ends within the length that the header gives. It ends by
 * a double word on port 0xf4: 1 for success, and 0, with exit=1, for failure.
 */
#include "families/family.h"
#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/power.h"
#include "machine/text.h"

#define NAME "as-hermit"
#define DEBUG_EXIT 0xf4
#define PAGE 4096

/* How the file is recognised. */
static const char mark[] = "Hermit Loader version";

static bool check_placement(const struct family_boot *boot)
{
    if (boot->command_line % PAGE != 0 || text_length(boot_command_line()) >= boot->command_line_size)
        return family_fail(NAME, "the command line's place or length");
    if (boot->initrd == 0 || boot->initrd % PAGE != 0 || boot->initrd_bytes == 0)
        return family_fail(NAME, "the initrd");
    return true;
}

int guest_main(void)
{
    struct family_boot boot = family_boot();
    bool well;

    __asm__ volatile("" : : "r"(mark));
    well = family_check(NAME, &boot) && check_placement(&boot);
    if (well)
        family_succeed(NAME);
    well = well && family_wait(NAME, &boot);
    __asm__ volatile("outl %0, %1" : : "a"((uint32_t)(well && command_line_number("exit", 0) == 0)), "d"((uint16_t)DEBUG_EXIT));
    power_halt();
}
