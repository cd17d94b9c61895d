/* The serial console, COM1. */
#ifndef MACHINE_CONSOLE_H
#define MACHINE_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Writes bytes without asking whether the transmitter is free: the serial port of a virtual machine always is, and to
 * ask would cost one more exit for each byte.
 */
void console_write(const char *bytes, size_t length);

/* Writes text up to its NUL. */
void console_print(const char *text);

/* Writes a number in decimal. */
void console_print_number(uint64_t number);

/* Writes each byte as two hexadecimal digits. */
void console_print_hexadecimal(const uint8_t *bytes, size_t length);

/* Lets received bytes raise the console's interrupt; interrupts_start() must have been called. */
void console_enable_input(void);

/* Takes one received byte; false when there is none. */
bool console_read(char *byte);

#endif
