#include "machine/power.h"

#include "machine/ports.h"

#define KEYBOARD_CONTROLLER_PORT 0x64
#define KEYBOARD_CONTROLLER_RESET 0xfe

#define BOOT_PORT 0x3f0
#define BOOT_PORT_READY 123

#define DEBUG_EXIT_PORT 0x501

#define SLEEP_CONTROL_PORT 0x604
#define SLEEP_CONTROL_S5 (5 << 2 | 0x20) /* SLP_TYP 5, SLP_EN */
#define LEGACY_POWER_OFF 0x2000

void power_report_ready(void)
{
    port_write8(BOOT_PORT, BOOT_PORT_READY);
}

/* A machine without the debug-exit port takes no notice of the code; it is powered off then. */
void power_exit(int code)
{
    port_write8(DEBUG_EXIT_PORT, (uint8_t)code);
    power_off();
}

void power_off(void)
{
    port_write8(SLEEP_CONTROL_PORT, SLEEP_CONTROL_S5);
    power_halt();
}

void power_off_legacy(void)
{
    port_write16(SLEEP_CONTROL_PORT, LEGACY_POWER_OFF);
    power_halt();
}

void power_reset(void)
{
    port_write8(KEYBOARD_CONTROLLER_PORT, KEYBOARD_CONTROLLER_RESET);
    power_halt();
}

void power_halt(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}
