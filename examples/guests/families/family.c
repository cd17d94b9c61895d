#include "families/family.h"

#include <stddef.h>

#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/console.h"
#include "machine/interrupts.h"
#include "machine/ports.h"
#include "machine/text.h"

#define BOOT_FLAG 0xaa55
#define HEADER_MAGIC 0x53726448 /* "HdrS" */

#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define RTC_INDEX 0x70
#define RTC_DATA 0x71
#define RTC_MONTH 8

#define HYPERVISOR_BASE 0x40000000
#define HYPERVISOR_TIMING 0x40000010

static uint8_t byte_at(const uint8_t *page, unsigned offset)
{
    return page[offset];
}

static uint32_t word_at(const uint8_t *page, unsigned offset)
{
    return (uint32_t)(page[offset] | page[offset + 1] << 8 | page[offset + 2] << 16) | (uint32_t)page[offset + 3] << 24;
}

static bool has_ram_only(const uint8_t *page)
{
    for (unsigned entry = 0; entry < byte_at(page, 0x1e8); entry++) {
        if (word_at(page, 0x2d0 + entry * 20 + 16) != 1)
            return false;
    }
    return true;
}

struct family_boot family_boot(void)
{
    const uint8_t *page = boot_linux_parameters();
    struct family_boot boot = {.by_linux_protocol = page != NULL};

    if (page == NULL)
        return boot;
    boot.boot_flag = (uint16_t)word_at(page, 0x1fe);
    boot.header_magic = word_at(page, 0x202);
    boot.initrd = word_at(page, 0x218);
    boot.initrd_bytes = word_at(page, 0x21c);
    boot.command_line = word_at(page, 0x228);
    boot.command_line_size = word_at(page, 0x238);
    boot.ram_only = has_ram_only(page);
    return boot;
}

static void cpuid(uint32_t leaf, uint32_t *eax)
{
    uint32_t ebx;
    uint32_t ecx = 0;
    uint32_t edx;

    *eax = leaf;
    __asm__ volatile("cpuid" : "+a"(*eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
}

uint32_t family_tsc_frequency(void)
{
    uint32_t eax;

    cpuid(HYPERVISOR_BASE, &eax);
    if (eax < HYPERVISOR_TIMING)
        return 0;
    cpuid(HYPERVISOR_TIMING, &eax);
    return eax;
}

static uint32_t pci_identifier(void)
{
    uint32_t value;

    __asm__ volatile("outl %0, %1" : : "a"(0x80000000), "d"((uint16_t)PCI_ADDRESS));
    __asm__ volatile("inl %1, %0" : "=a"(value) : "d"((uint16_t)PCI_DATA));
    return value;
}

static void say(const char *name, const char *what, const char *more)
{
    console_print(name);
    console_print(what);
    console_print(more);
    console_print("\n");
}

bool family_fail(const char *name, const char *what)
{
    say(name, ": wrong: ", what);
    return false;
}

bool family_check(const char *name, const struct family_boot *boot)
{
    unsigned cursor = 0;
    struct memory_region first;
    uint8_t month;

    if (boot->by_linux_protocol) {
        if (boot->boot_flag != BOOT_FLAG || boot->header_magic != HEADER_MAGIC)
            return family_fail(name, "magic numbers of the zero page");
        if (!boot->ram_only)
            return family_fail(name, "the memory map has more than RAM");
    }
    if (!boot_next_ram(&cursor, &first) || first.start != 0)
        return family_fail(name, "RAM does not begin at 0");
    if (pci_identifier() != UINT32_MAX)
        return family_fail(name, "a PCI bus");
    port_write8(RTC_INDEX, RTC_MONTH);
    month = port_read8(RTC_DATA);
    if (month < 1 || month > 0x12)
        return family_fail(name, "the clock's month");
    return true;
}

void family_succeed(const char *name)
{
    say(name, ": ok: ", boot_command_line());
}

bool family_wait(const char *name, const struct family_boot *boot)
{
    char byte = '\0';

    if (command_line_number("wait", 0) == 0)
        return true;
    interrupts_start();
    console_enable_input();
    say(name, ": waits", "");
    while (byte != '\n') {
        if (!console_read(&byte))
            interrupts_wait();
    }
    if (!family_check(name, boot))
        return false;
    say(name, ": goes on", "");
    return true;
}
