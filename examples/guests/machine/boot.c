#include "machine/boot.h"

#include <stddef.h>

#include "machine/power.h"

/* The values that start.S hands over. */
enum boot_protocol {
    BOOT_PROTOCOL_LINUX = 0,
    BOOT_PROTOCOL_PVH = 1,
};

#define MEMORY_TYPE_RAM 1

/* The parts of Linux's boot_params ("zero page") that matter here; Documentation/arch/x86/zero-page.rst. */
struct boot_params {
    uint8_t before_command_line_high[0x0c8];
    uint32_t command_line_high;
    uint8_t before_memory_map_entries[0x1e8 - 0x0cc];
    uint8_t memory_map_entries;
    uint8_t before_command_line_low[0x228 - 0x1e9];
    uint32_t command_line_low;
    uint8_t before_memory_map[0x2d0 - 0x22c];
    struct {
        uint64_t start;
        uint64_t size;
        uint32_t type;
    } __attribute__((packed)) memory_map[128];
} __attribute__((packed));

_Static_assert(offsetof(struct boot_params, memory_map) == 0x2d0, "the zero page's layout is fixed");

struct pvh_memory_map_entry {
    uint64_t start;
    uint64_t size;
    uint32_t type;
    uint32_t reserved;
};

/* Xen's struct hvm_start_info, version 1; xen/include/public/arch-x86/hvm/start_info.h. */
struct pvh_start_info {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t module_count;
    uint64_t modules;
    uint64_t command_line;
    uint64_t acpi_root;
    uint64_t memory_map;
    uint32_t memory_map_entries;
    uint32_t reserved;
};

static enum boot_protocol protocol;
static const void *parameters;

/* Called by start.S. */
_Noreturn void boot_main(enum boot_protocol given_protocol, const void *given_parameters);

void boot_main(enum boot_protocol given_protocol, const void *given_parameters)
{
    protocol = given_protocol;
    parameters = given_parameters;
    power_exit(guest_main());
}

const uint8_t *boot_linux_parameters(void)
{
    return protocol == BOOT_PROTOCOL_LINUX ? parameters : NULL;
}

const char *boot_command_line(void)
{
    uint64_t address;

    if (protocol == BOOT_PROTOCOL_LINUX) {
        const struct boot_params *linux_parameters = parameters;
        address = (uint64_t)linux_parameters->command_line_high << 32 | linux_parameters->command_line_low;
    } else {
        const struct pvh_start_info *start_info = parameters;
        address = start_info->command_line;
    }
    return address != 0 ? (const char *)address : "";
}

bool boot_next_ram(unsigned *cursor, struct memory_region *region)
{
    uint32_t type = 0;

    do {
        unsigned index = *cursor;
        if (protocol == BOOT_PROTOCOL_LINUX) {
            const struct boot_params *linux_parameters = parameters;
            if (index >= linux_parameters->memory_map_entries || index >= 128)
                return false;
            region->start = linux_parameters->memory_map[index].start;
            region->size = linux_parameters->memory_map[index].size;
            type = linux_parameters->memory_map[index].type;
        } else {
            const struct pvh_start_info *start_info = parameters;
            const struct pvh_memory_map_entry *map = (const void *)start_info->memory_map;
            if (start_info->version < 1 || index >= start_info->memory_map_entries)
                return false;
            region->start = map[index].start;
            region->size = map[index].size;
            type = map[index].type;
        }
        *cursor = index + 1;
    } while (type != MEMORY_TYPE_RAM);
    return true;
}
