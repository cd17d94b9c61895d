/*
 * as-osv: what OSv expects of its machine and does at its boundary.
 *
 * It overwrites pages 1 and 2 while it still uses what it was handed. Without ACPI it powers off by a reset pulse;
 * `--reboot` makes it begin with the system control port, as its reboot does.
 */
#include "families/family.h"
#include "machine/boot.h"
#include "machine/memory.h"
#include "machine/ports.h"
#include "machine/power.h"
#include "machine/text.h"

#define NAME "as-osv"
#define SYSTEM_CONTROL 0x92

/* How the file is recognised. */
static const char mark[] = "OSv options:";

static bool is_told_to_reboot(void)
{
    for (const char *word = boot_command_line(); *word != '\0'; word++) {
        if (text_word_is(word, "--reboot"))
            return true;
    }
    return false;
}

int guest_main(void)
{
    struct family_boot boot;

    __asm__ volatile("" : : "r"(mark));
    memset((void *)0x1000, 0xff, 0x2000);
    boot = family_boot();
    if (!family_check(NAME, &boot))
        return 3;
    family_succeed(NAME);
    if (!family_wait(NAME, &boot))
        return 3;
    if (is_told_to_reboot())
        port_write8(SYSTEM_CONTROL, 1);
    power_reset();
}
