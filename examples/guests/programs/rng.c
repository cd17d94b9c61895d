/* rng: prints 32 bytes of the entropy device in hexadecimal. */
#include "machine/boot.h"
#include "machine/console.h"
#include "machine/interrupts.h"
#include "virtio/entropy.h"

enum exit_code {
    EXIT_OK = 0,
    EXIT_NO_DEVICE = 2,
    EXIT_INPUT_OUTPUT = 3,
};

int guest_main(void)
{
    struct entropy_source source;
    uint8_t bytes[32];

    interrupts_start();
    if (!entropy_find(&source)) {
        console_print("rng: no entropy device\n");
        return EXIT_NO_DEVICE;
    }
    if (!entropy_open(&source) || !entropy_read(&source, bytes, sizeof bytes)) {
        console_print("rng: the entropy device does not work\n");
        return EXIT_INPUT_OUTPUT;
    }
    console_print_hexadecimal(bytes, sizeof bytes);
    console_print("\n");
    return EXIT_OK;
}
