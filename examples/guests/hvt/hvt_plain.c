/*
 * hvt-plain: a guest of Solo5's hvt interface that demands no device.
 *
 * Prints its command line, checks what it was handed, the clock and the wait, and exits with exit=N (default 0), or ends
 * as end= says: null, write-code, execute-data, invalid, halt, port, outside, flood, wait.
 */
#include "hvt/hvt.h"

#include "machine/time_stamp.h"
#include "machine/text.h"

HVT_MANIFEST(1);

#define MILLISECOND 1000000ull
/* 2020-01-01, in nanoseconds since 1970. */
#define LONG_AGO 1577836800000000000ull

static int failed(const char *what)
{
    hvt_print("hvt-plain: wrong: ");
    hvt_print(what);
    hvt_print("\n");
    return 3;
}

static int check(const struct hvt_boot_info *info)
{
    uint64_t before = hvt_walltime();
    uint64_t cycles = time_stamp();
    uint64_t waited;

    if (info->image_end <= 0x100000 || info->memory_size <= info->image_end)
        return failed("memory or image");
    if (info->manifest->version != 1 || info->manifest->entries != 1)
        return failed("manifest");
    if (info->host_features != 0 || info->network_ring != 0)
        return failed("features");
    if (before < LONG_AGO)
        return failed("clock");
    if (hvt_poll(20 * MILLISECOND) != 0)
        return failed("ready although there is no card");
    waited = hvt_walltime() - before;
    cycles = time_stamp() - cycles;
    if (waited < 20 * MILLISECOND)
        return failed("wait");
    /* The counter is to have gone as far as its frequency says, within a factor of two. */
    if (info->cycles_per_second != 0 && cycles < info->cycles_per_second / 1000 * (waited / MILLISECOND) / 2)
        return failed("frequency");
    return 0;
}

static void end(const char *how)
{
    static char data[16] = {(char)0xc3}; /* ret */

    if (text_word_is(how, "null"))
        (void)*(volatile const char *)8;
    else if (text_word_is(how, "write-code"))
        *(volatile char *)0x100000 = 0;
    else if (text_word_is(how, "execute-data"))
        __asm__ volatile("call *%0" : : "r"(data) : "memory");
    else if (text_word_is(how, "invalid"))
        __asm__ volatile("ud2");
    else if (text_word_is(how, "halt"))
        __asm__ volatile("hlt");
    else if (text_word_is(how, "port"))
        __asm__ volatile("outb %%al, $0x80" : : "a"(1));
    else if (text_word_is(how, "outside"))
        hvt_call(2, 0xfffffff0);
    else if (text_word_is(how, "flood"))
        hvt_puts((const char *)0x100000, 2 << 20);
    else if (text_word_is(how, "wait"))
        hvt_poll(UINT64_MAX);
}

int hvt_main(const struct hvt_boot_info *info)
{
    const char *how = hvt_argument(info, "end");
    const char *status = hvt_argument(info, "exit");
    uint64_t number = 0;
    int result;

    hvt_print("hvt-plain: ");
    hvt_print(info->command_line);
    hvt_print("\n");
    if (how != NULL)
        end(how);
    result = check(info);
    if (result == 0 && status != NULL && !text_parse_number(&status, &number))
        return failed("exit=");
    return result != 0 ? result : (int)number;
}
