/*
 * hog: touches memory, one write for each page, and then burns processor time.
 *
 * Arguments: touch=BYTES (suffix K, M or G; default 0), rounded up to whole pages of 4 KiB; spin=N loop iterations
 * (default 0) or spin=forever.
 */
#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/console.h"
#include "machine/paging.h"
#include "machine/text.h"

#define EXIT_NOT_SO_MUCH_MEMORY 2

#define PAGE_BYTES 4096

/* Regions of RAM looked at; memory maps of virtual machines have two or three. */
#define REGIONS_MAXIMUM 16

/* One table for each GiB beyond the first: memory is touched up to this many GiB and one. */
#define TABLES_MAXIMUM 64
#define TOUCHED_ADDRESS_MAXIMUM ((TABLES_MAXIMUM + 1ull) << 30)

/* The end of this guest's own memory, from the linker script. */
extern const char image_end[];

static struct page_table tables[TABLES_MAXIMUM];

/*
 * The memory that may be touched: all RAM behind the guest itself. It is copied out of the memory map first, which may
 * lie in what is touched.
 */
static struct memory_region regions[REGIONS_MAXIMUM];

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* Fills `regions`; gives their bytes in all. */
static uint64_t find_memory(void)
{
    uint64_t first = round_up((uint64_t)image_end, PAGE_BYTES);
    uint64_t total = 0;
    unsigned cursor = 0;
    unsigned count = 0;
    struct memory_region region;

    while (count < REGIONS_MAXIMUM && boot_next_ram(&cursor, &region)) {
        uint64_t end = region.start + region.size;
        uint64_t start = region.start < first ? first : round_up(region.start, PAGE_BYTES);
        if (end > TOUCHED_ADDRESS_MAXIMUM)
            end = TOUCHED_ADDRESS_MAXIMUM;
        if (end < start + PAGE_BYTES)
            continue;
        regions[count].start = start;
        regions[count].size = (end - start) / PAGE_BYTES * PAGE_BYTES;
        total += regions[count++].size;
    }
    return total;
}

/* Touches memory up to the end of the 2 MiB that `start` lies in, or `end`; gives where it stopped. */
static uint64_t touch_unit(uint64_t start, uint64_t end)
{
    uint64_t unit_end = (start / PAGING_UNIT + 1) * PAGING_UNIT;

    if (unit_end > end)
        unit_end = end;
    for (; start < unit_end; start += PAGE_BYTES)
        *(volatile uint8_t *)start = 1;
    return start;
}

/* Touches so many bytes, a whole number of pages. False when the map cannot grow so far. */
static bool touch(uint64_t left)
{
    struct page_table_pool pool = {tables, TABLES_MAXIMUM};

    for (unsigned i = 0; i < REGIONS_MAXIMUM && left != 0; i++) {
        uint64_t length = regions[i].size < left ? regions[i].size : left;
        uint64_t address = regions[i].start;
        uint64_t end = address + length;
        while (address < end) {
            if (!paging_map(address, PAGING_MEMORY, &pool))
                return false;
            address = touch_unit(address, end);
        }
        left -= length;
    }
    return left == 0;
}

static void spin(uint64_t iterations)
{
    if (iterations == 0)
        return;
    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(iterations));
}

static int report_too_little(uint64_t asked, uint64_t given)
{
    console_print("hog: asked to touch ");
    console_print_number(asked);
    console_print(" bytes, given ");
    console_print_number(given);
    console_print("\n");
    return EXIT_NOT_SO_MUCH_MEMORY;
}

int guest_main(void)
{
    const char *spin_value = command_line_value("spin", NULL);
    bool forever = spin_value != NULL && text_word_is(spin_value, "forever");
    uint64_t iterations = forever ? 0 : command_line_number("spin", 0);
    uint64_t asked = command_line_size("touch", 0);
    uint64_t given = find_memory();

    if (asked > given || !touch(round_up(asked, PAGE_BYTES)))
        return report_too_little(asked, given);
    while (forever)
        __asm__ volatile("");
    spin(iterations);
    console_print("hog: done\n");
    return 0;
}
