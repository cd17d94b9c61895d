/*
 * disk-check: writes a pattern to the disks, flushes, and reads it back; or only reads one that is there.
 *
 * The pattern of sector S is 64 words of 64 bits, little-endian; word W, from 0, is (S * 64 + W) * 0x9e3779b97f4a7c15
 * modulo 2^64. No word occurs twice on a disk, so a sector in the wrong place is noticed.
 *
 * Arguments: sectors=N (default 64) and first=N (default 0), the sectors to check; mode=write (default) or mode=read;
 * disk=N, only that disk, counted from 0, instead of all.
 */
#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/console.h"
#include "machine/interrupts.h"
#include "machine/power.h"
#include "machine/text.h"
#include "virtio/block.h"

enum exit_code {
    EXIT_OK = 0,
    EXIT_NO_DISK = 2,
    EXIT_INPUT_OUTPUT = 3,
    EXIT_MISMATCH = 4,
    EXIT_READ_ONLY = 5,
    EXIT_TOO_SMALL = 6,
};

#define PATTERN_FACTOR 0x9e3779b97f4a7c15
#define SECTOR_WORDS (BLOCK_SECTOR_BYTES / 8)

/* So many sectors to a request. */
#define REQUEST_SECTORS 16

/* A run of sectors. */
struct sectors {
    uint64_t first;
    uint64_t count;
};

static uint64_t buffer[REQUEST_SECTORS * SECTOR_WORDS];

static enum exit_code fail(enum exit_code code, const char *what, uint64_t sector)
{
    console_print("disk-check: ");
    console_print(what);
    console_print(" at sector ");
    console_print_number(sector);
    console_print("\n");
    return code;
}

static void fill_buffer(struct sectors sectors)
{
    uint64_t word = sectors.first * SECTOR_WORDS * PATTERN_FACTOR;

    for (uint64_t i = 0; i < sectors.count * SECTOR_WORDS; i++, word += PATTERN_FACTOR)
        buffer[i] = word;
}

/* The first sector of the buffer with another pattern than its own, or the one behind the last. */
static uint64_t find_mismatch(struct sectors sectors)
{
    uint64_t word = sectors.first * SECTOR_WORDS * PATTERN_FACTOR;

    for (uint64_t i = 0; i < sectors.count * SECTOR_WORDS; i++, word += PATTERN_FACTOR) {
        if (buffer[i] != word)
            return sectors.first + i / SECTOR_WORDS;
    }
    return sectors.first + sectors.count;
}

static enum exit_code write_request(struct block_disk *disk, struct sectors sectors)
{
    fill_buffer(sectors);
    if (!block_write(disk, sectors.first, buffer, sectors.count * BLOCK_SECTOR_BYTES))
        return fail(EXIT_INPUT_OUTPUT, "write error", sectors.first);
    return EXIT_OK;
}

static enum exit_code verify_request(struct block_disk *disk, struct sectors sectors)
{
    uint64_t mismatch;

    if (!block_read(disk, sectors.first, buffer, sectors.count * BLOCK_SECTOR_BYTES))
        return fail(EXIT_INPUT_OUTPUT, "read error", sectors.first);
    mismatch = find_mismatch(sectors);
    if (mismatch != sectors.first + sectors.count)
        return fail(EXIT_MISMATCH, "other data than the pattern", mismatch);
    return EXIT_OK;
}

/* Makes as many requests as the sectors need. */
static enum exit_code for_each_request(struct block_disk *disk, struct sectors sectors,
                                       enum exit_code (*request)(struct block_disk *, struct sectors))
{
    while (sectors.count != 0) {
        uint64_t count = sectors.count < REQUEST_SECTORS ? sectors.count : REQUEST_SECTORS;
        enum exit_code code = request(disk, (struct sectors){sectors.first, count});
        if (code != EXIT_OK)
            return code;
        sectors.first += count;
        sectors.count -= count;
    }
    return EXIT_OK;
}

static void print_disk(unsigned position, const struct block_disk *disk, const char *serial)
{
    console_print("disk-check: disk ");
    console_print_number(position);
    console_print(" serial=");
    console_print(serial);
    console_print(" sectors=");
    console_print_number(disk->sectors);
    console_print(disk->read_only ? " read-only\n" : "\n");
}

static enum exit_code check_open_disk(unsigned position, struct block_disk *disk, struct sectors sectors, bool writing)
{
    char serial[BLOCK_SERIAL_BYTES + 1];
    enum exit_code code = EXIT_OK;

    if (!block_serial(disk, serial))
        return fail(EXIT_INPUT_OUTPUT, "no serial id", 0);
    print_disk(position, disk, serial);
    if (sectors.first > disk->sectors || sectors.count > disk->sectors - sectors.first)
        return fail(EXIT_TOO_SMALL, "the disk ends", disk->sectors);
    if (writing && disk->read_only)
        return fail(EXIT_READ_ONLY, "a read-only disk is not written", sectors.first);
    if (writing) {
        code = for_each_request(disk, sectors, write_request);
        if (code == EXIT_OK && !block_flush(disk))
            code = fail(EXIT_INPUT_OUTPUT, "flush error", sectors.first);
    }
    return code == EXIT_OK ? for_each_request(disk, sectors, verify_request) : code;
}

static enum exit_code check_disk(unsigned position, struct block_disk *disk, struct sectors sectors, bool writing)
{
    enum exit_code code;

    if (!block_open(disk))
        return fail(EXIT_INPUT_OUTPUT, "the disk does not start", 0);
    code = check_open_disk(position, disk, sectors, writing);
    block_close(disk);
    return code;
}

static bool parse_writing(void)
{
    const char *mode = command_line_value("mode", NULL);

    if (mode == NULL || text_word_is(mode, "write"))
        return true;
    if (!text_word_is(mode, "read"))
        command_line_reject("mode");
    return false;
}

int guest_main(void)
{
    struct sectors sectors = {command_line_number("first", 0), command_line_number("sectors", 64)};
    uint64_t only = command_line_number("disk", UINT64_MAX);
    bool writing = parse_writing();
    unsigned position = only == UINT64_MAX ? 0 : (unsigned)only;
    unsigned checked = 0;
    struct block_disk disk;

    interrupts_start();
    for (; block_find(position, &disk) && (only == UINT64_MAX || checked == 0); position++, checked++) {
        enum exit_code code = check_disk(position, &disk, sectors, writing);
        if (code != EXIT_OK)
            return code;
    }
    if (checked == 0) {
        console_print("disk-check: no disk\n");
        return EXIT_NO_DISK;
    }
    console_print("disk-check: ok\n");
    return EXIT_OK;
}
