/*
 * hello: one line on the console, then an exit code. The guest of the cold-start benchmarks, so it does nothing else.
 */
#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/console.h"

int guest_main(void)
{
    static const char line[] = "hello from a bare guest\n";

    console_write(line, sizeof line - 1);
    return (int)command_line_number("exit", 0);
}
