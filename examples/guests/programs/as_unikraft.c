/*
 * as-unikraft: what Unikraft expects of its machine and does at its boundary, as built for Firecracker.
 *
 * It takes the length of the command line from the setup header, wants to be told how fast its time stamp counter is, and
 * counts on channel 0 of the 8254. It ends by a reset pulse, and by the older power-off word where nobody took that.
 */
#include "families/family.h"
#include "machine/boot.h"
#include "machine/ports.h"
#include "machine/power.h"
#include "machine/text.h"

#define NAME "as-unikraft"
#define TIMER_MODE 0x43
#define TIMER_COUNT 0x40
#define TIMER_LATCH 0x00
#define TIMER_RATE 0x34 /* channel 0, both bytes, rate generator */

/* How the file is recognised. */
static const char mark[] = ".uk_bootinfo\0.uk_libparam_params";

static unsigned timer_count(void)
{
    unsigned low;

    port_write8(TIMER_MODE, TIMER_LATCH);
    low = port_read8(TIMER_COUNT);
    return low | (unsigned)port_read8(TIMER_COUNT) << 8;
}

static bool timer_counts(void)
{
    unsigned first;

    port_write8(TIMER_MODE, TIMER_RATE);
    port_write8(TIMER_COUNT, 0xff);
    port_write8(TIMER_COUNT, 0xff);
    first = timer_count();
    for (unsigned tries = 0; tries < 100000; tries++) {
        if (timer_count() != first)
            return true;
    }
    return false;
}

static void work(const struct family_boot *boot)
{
    family_succeed(NAME);
    if (family_wait(NAME, boot) && !timer_counts())
        family_fail(NAME, "the timer does not count any more");
}

int guest_main(void)
{
    struct family_boot boot = family_boot();
    const char *line = boot_command_line();
    uint32_t expected = *line == '\0' ? 0 : (uint32_t)text_length(line) + 1;

    __asm__ volatile("" : : "r"(mark));
    if (!family_check(NAME, &boot))
        return 3;
    if (!boot.by_linux_protocol || boot.command_line_size != expected)
        family_fail(NAME, "the length of the command line");
    else if (family_tsc_frequency() == 0)
        family_fail(NAME, "the frequency is not told");
    else if (!timer_counts())
        family_fail(NAME, "the timer does not count");
    else
        work(&boot);
    port_write8(0x64, 0xfe);
    power_off_legacy();
}
