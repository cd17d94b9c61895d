#include "machine/console.h"

#include "machine/interrupts.h"
#include "machine/ports.h"
#include "machine/text.h"

#define COM1 0x3f8
#define COM1_INTERRUPT 4

/* Registers of the 16550, as offsets from its base. */
#define TRANSMIT_RECEIVE 0
#define INTERRUPT_ENABLE 1
#define MODEM_CONTROL 4
#define LINE_STATUS 5

#define INTERRUPT_ON_RECEIVED 0x01
#define MODEM_READY_INTERRUPTS_OUT 0x0b /* DTR, RTS, and OUT2, which lets the interrupt out */
#define LINE_DATA_READY 0x01

void console_write(const char *bytes, size_t length)
{
    port_write_bytes(COM1 + TRANSMIT_RECEIVE, bytes, length);
}

void console_print(const char *text)
{
    console_write(text, text_length(text));
}

void console_print_number(uint64_t number)
{
    char digits[TEXT_NUMBER_BYTES];
    size_t length = text_format_number(digits, number);

    console_write(digits, length);
}

void console_print_hexadecimal(const uint8_t *bytes, size_t length)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < length; i++) {
        char pair[2] = {digits[bytes[i] >> 4], digits[bytes[i] & 0xf]};
        console_write(pair, sizeof pair);
    }
}

void console_enable_input(void)
{
    interrupts_unmask(COM1_INTERRUPT);
    port_write8(COM1 + MODEM_CONTROL, MODEM_READY_INTERRUPTS_OUT);
    port_write8(COM1 + INTERRUPT_ENABLE, INTERRUPT_ON_RECEIVED);
}

bool console_read(char *byte)
{
    if ((port_read8(COM1 + LINE_STATUS) & LINE_DATA_READY) == 0)
        return false;
    *byte = (char)port_read8(COM1 + TRANSMIT_RECEIVE);
    return true;
}
