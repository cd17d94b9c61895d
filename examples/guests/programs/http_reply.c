/*
 * http-reply: a web server of one page, on the first network device.
 *
 * ip=ADDRESS/PREFIX is the guest's address. gw= is taken as part of the usual network parameters and not needed: every
 * answer goes back the way its request came.
 */
#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/console.h"
#include "machine/identity.h"
#include "machine/interrupts.h"
#include "machine/memory.h"
#include "machine/power.h"
#include "machine/text.h"
#include "machine/time_stamp.h"
#include "machine/timer.h"
#include "net/arp.h"
#include "net/ethernet.h"
#include "net/ipv4.h"
#include "net/tcp.h"
#include "virtio/net.h"

#define EXIT_NO_DEVICE 2

/* Reads ADDRESS/PREFIX; false when it is not that. */
static bool parse_address(const char *text, uint32_t *address, uint64_t *prefix_bits)
{
    *address = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t byte;
        if (!text_parse_number(&text, &byte) || byte > UINT8_MAX || *text++ != (i < 3 ? '.' : '/'))
            return false;
        *address = *address << 8 | (uint32_t)byte;
    }
    return text_parse_number(&text, prefix_bits) && *prefix_bits <= 32 && text_is_end_of_word(*text);
}

static void configure_address(void)
{
    const char *value = command_line_value("ip", NULL);
    uint32_t address;
    uint64_t prefix_bits;

    if (value == NULL || !parse_address(value, &address, &prefix_bits))
        command_line_reject("ip");
    ipv4_configure(address, (unsigned)prefix_bits);
}

/* The time of the start is the best secret to be had; it keeps the initial sequence numbers from being the same. */
static uint64_t seed(void)
{
    uint64_t link_address = 0;

    memcpy(&link_address, net_address(), ETHERNET_ADDRESS_BYTES);
    return time_stamp() ^ link_address << 16;
}

/*
 * A clone: other addresses where they are given, and none of the original's connections, whose peers talk to the
 * original. The entropy makes its initial sequence numbers its own.
 */
static void become(const struct identity_record *identity)
{
    uint64_t entropy;

    memcpy(&entropy, identity->entropy, sizeof entropy);
    if ((identity->parts & IDENTITY_LINK_ADDRESS) != 0)
        net_set_address(identity->link_address);
    if ((identity->parts & IDENTITY_ADDRESS) != 0)
        ipv4_configure((uint32_t)identity->address[0] << 24 | (uint32_t)identity->address[1] << 16 |
                           (uint32_t)identity->address[2] << 8 | identity->address[3],
                       identity->prefix_bits);
    tcp_restart(seed() ^ entropy);
    arp_announce();
    identity_confirm();
}

static void keep_time(void)
{
    if (timer_take_expiry())
        tcp_tick();
    if (tcp_wants_tick() && !timer_is_running())
        timer_start(TCP_TICK_MILLISECONDS);
}

static _Noreturn void serve(void)
{
    struct net_received frame;

    for (;;) {
        const struct identity_record *identity = identity_take();
        if (identity != NULL)
            become(identity);
        while (net_receive(&frame)) {
            ethernet_input(&frame);
            net_recycle(&frame);
        }
        keep_time();
        net_flush();
        net_wait();
    }
}

int guest_main(void)
{
    configure_address();
    interrupts_start();
    if (!net_start()) {
        console_print("http-reply: no network device\n");
        return EXIT_NO_DEVICE;
    }
    tcp_start(seed());
    arp_announce();
    net_flush();
    identity_start(IDENTITY_ENTROPY | IDENTITY_LINK_ADDRESS | IDENTITY_ADDRESS);
    console_print("http-reply: ready\n");
    power_report_ready();
    serve();
}
