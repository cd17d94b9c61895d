#include "hvt/hvt.h"

#include "machine/text.h"

#define PORT_BASE 0x500

enum {
    WALLTIME = 1,
    PUTS = 2,
    POLL = 3,
    BLOCK_WRITE = 4,
    BLOCK_READ = 5,
    NET_WRITE = 6,
    NET_READ = 7,
    HALT = 8,
};

void hvt_call(unsigned number, uint32_t argument)
{
    __asm__ volatile("outl %0, %1" : : "a"(argument), "d"((uint16_t)(PORT_BASE + number)) : "memory");
}

/* Arguments stand on the stack, below 4 GiB as all memory does. */
static void call(unsigned number, volatile void *argument)
{
    hvt_call(number, (uint32_t)(uintptr_t)argument);
}

uint64_t hvt_walltime(void)
{
    volatile uint64_t nanoseconds = 0;

    call(WALLTIME, &nanoseconds);
    return nanoseconds;
}

void hvt_puts(const char *data, size_t length)
{
    struct {
        const char *data;
        size_t length;
    } argument = {data, length};

    call(PUTS, &argument);
}

uint64_t hvt_poll(uint64_t nanoseconds)
{
    volatile struct {
        uint64_t timeout;
        uint64_t ready;
        uint32_t result;
    } argument = {nanoseconds, 0, 0};

    call(POLL, &argument);
    return argument.ready;
}

struct block_argument {
    uint64_t handle;
    uint64_t offset;
    uint64_t data;
    size_t length;
    uint32_t result;
};

enum hvt_result hvt_block_write(uint64_t handle, uint64_t offset, const void *data, size_t length)
{
    volatile struct block_argument argument = {handle, offset, (uint64_t)data, length, HVT_UNSPECIFIED};

    call(BLOCK_WRITE, &argument);
    return argument.result;
}

enum hvt_result hvt_block_read(uint64_t handle, uint64_t offset, void *data, size_t *length)
{
    volatile struct block_argument argument = {handle, offset, (uint64_t)data, *length, HVT_UNSPECIFIED};

    call(BLOCK_READ, &argument);
    *length = argument.length;
    return argument.result;
}

struct net_argument {
    uint64_t handle;
    uint64_t data;
    size_t length;
    uint32_t result;
};

enum hvt_result hvt_net_write(uint64_t handle, const void *frame, size_t length)
{
    volatile struct net_argument argument = {handle, (uint64_t)frame, length, HVT_UNSPECIFIED};

    call(NET_WRITE, &argument);
    return argument.result;
}

enum hvt_result hvt_net_read(uint64_t handle, void *frame, size_t *length)
{
    volatile struct net_argument argument = {handle, (uint64_t)frame, *length, HVT_UNSPECIFIED};

    call(NET_READ, &argument);
    *length = argument.length;
    return argument.result;
}

void hvt_halt(int status)
{
    volatile struct {
        uint64_t cookie;
        int32_t status;
    } argument = {0, status};

    for (;;)
        call(HALT, &argument);
}

void hvt_print(const char *text)
{
    hvt_puts(text, text_length(text));
}

void hvt_print_number(uint64_t number)
{
    char digits[TEXT_NUMBER_BYTES];

    hvt_puts(digits, text_format_number(digits, number));
}

const char *hvt_argument(const struct hvt_boot_info *info, const char *key)
{
    const char *word = info->command_line;

    while (*word != '\0') {
        if (text_starts_with(word, key) && word[text_length(key)] == '=')
            return word + text_length(key) + 1;
        while (!text_is_end_of_word(*word))
            word++;
        while (*word == ' ')
            word++;
    }
    return NULL;
}

uint64_t hvt_find(const struct hvt_boot_info *info, const char *name)
{
    for (uint32_t handle = 1; handle < info->manifest->entries; handle++) {
        const struct hvt_device *device = &info->manifest->devices[handle];
        if (device->attached && text_starts_with(device->name, name) && device->name[text_length(name)] == '\0')
            return handle;
    }
    return 0;
}
