/* The guest's arguments: words of the form key=value on the kernel command line. */
#ifndef MACHINE_COMMAND_LINE_H
#define MACHINE_COMMAND_LINE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The value of the first word "key=value" after `position` (NULL for the whole line), which a space or the end of the
 * line ends, or NULL when there is none. The value found is the position to go on from.
 */
const char *command_line_value(const char *key, const char *position);

/* A number; `fallback` when the key is not there. Ends the guest with EXIT_USAGE when its value is not a number. */
uint64_t command_line_number(const char *key, uint64_t fallback);

/* As command_line_number, with an optional suffix K, M or G. */
uint64_t command_line_size(const char *key, uint64_t fallback);

/* The exit code of a guest that does not understand its arguments. */
#define EXIT_USAGE 1

/* Says on the console which key's value is not understood, and ends the guest with EXIT_USAGE. */
_Noreturn void command_line_reject(const char *key);

#endif
