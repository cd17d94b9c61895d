/*
 * endings: ends the way it is told, for tests of how a host tells endings apart.
 *
 * end=exit (default), power-off, power-off-legacy, reset, triple-fault, halt, spin, sse, flood or echo; exit=N is the
 * code of those that exit (default 0). Each says its name on the console first.
 */
#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/console.h"
#include "machine/interrupts.h"
#include "machine/power.h"
#include "machine/text.h"

/* From here the caller exits with the code of exit=. */
static void end_by_exit(void)
{
}

/* Without an interrupt descriptor table the invalid instruction cannot be handled, nor can what comes of that. */
static void end_by_triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_table = {0, 0};

    __asm__ volatile("lidt %0; ud2" : : "m"(no_table));
}

static void end_by_spinning(void)
{
    for (;;)
        __asm__ volatile("");
}

/*
 * One SSE instruction, allowed as the processor manuals say (Intel SDM volume 3, 13.1): a KVM that emulates each
 * instruction fails here, any other goes on.
 */
static void end_by_sse(void)
{
    uint64_t control;

    __asm__ volatile("mov %%cr0, %0; and $~4, %0; or $2, %0; mov %0, %%cr0" : "=&r"(control)); /* not EM, but MP */
    __asm__ volatile("mov %%cr4, %0; or $0x600, %0; mov %0, %%cr4" : "=&r"(control)); /* OSFXSR, OSXMMEXCPT */
    __asm__ volatile("xorps %xmm0, %xmm0");
}

static void end_by_flood(void)
{
    static const char line[] = "endings: the flood goes on and on and on\n";

    for (;;)
        console_write(line, sizeof line - 1);
}

/* The longest line that is echoed whole. */
#define LINE_BYTES 256

/* Waits for a byte of input. */
static char read_byte(void)
{
    char byte;

    while (!console_read(&byte))
        interrupts_wait();
    return byte;
}

/* Reads up to the end of a line, which a carriage return or a line feed makes; gives the length without it. */
static size_t read_line(char *line)
{
    size_t length = 0;

    while (length < LINE_BYTES) {
        char byte = read_byte();
        if (byte == '\r' || byte == '\n')
            break;
        line[length++] = byte;
    }
    return length;
}

static void make_upper_case(char *line, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (line[i] >= 'a' && line[i] <= 'z')
            line[i] -= 'a' - 'A';
    }
}

/* Gives every line back in upper case, until one says "quit". */
static void end_by_echo(void)
{
    char line[LINE_BYTES + 1];
    size_t length;

    interrupts_start();
    console_enable_input();
    power_report_ready();
    do {
        length = read_line(line);
        make_upper_case(line, length);
        line[length] = '\n';
        console_write(line, length + 1);
    } while (length != 4 || !text_starts_with(line, "QUIT"));
}

struct ending {
    const char *name;
    void (*end)(void); /* returns only to exit */
};

static const struct ending endings[] = {
    {"exit", end_by_exit},
    {"power-off", power_off},
    {"power-off-legacy", power_off_legacy},
    {"reset", power_reset},
    {"triple-fault", end_by_triple_fault},
    {"halt", power_halt},
    {"spin", end_by_spinning},
    {"sse", end_by_sse},
    {"flood", end_by_flood},
    {"echo", end_by_echo},
};

static const struct ending *find_ending(void)
{
    const char *name = command_line_value("end", NULL);

    if (name == NULL)
        return &endings[0];
    for (unsigned i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        if (text_word_is(name, endings[i].name))
            return &endings[i];
    }
    command_line_reject("end");
}

int guest_main(void)
{
    const struct ending *ending = find_ending();
    int code = (int)command_line_number("exit", 0);

    console_print("endings: ");
    console_print(ending->name);
    console_print("\n");
    ending->end();
    return code;
}
