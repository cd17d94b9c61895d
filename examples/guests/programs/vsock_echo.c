/*
 * vsock-echo: echoes vsock streams until their peers have done.
 *
 * listen=N (default 1024) is the port on which it accepts streams. With port=N it also opens one to that port of the
 * host and sends "hello\n" first. With exit=N it exits with that code when the stream it opened is closed, or with
 * EXIT_REFUSED when nobody accepted it; otherwise it goes on for ever.
 */
#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/console.h"
#include "machine/interrupts.h"
#include "machine/power.h"
#include "virtio/vsock.h"
#include "vsock/stream.h"

#define EXIT_NO_DEVICE 2
#define EXIT_REFUSED 3

#define NO_PORT UINT64_MAX
#define NO_EXIT UINT64_MAX

static uint64_t exit_code;

static void report_connected(void)
{
    console_print("vsock-echo: connected\n");
}

/* Not sooner than the last packet is with the device. */
static void exit_if_told(uint64_t code)
{
    if (exit_code == NO_EXIT)
        return;
    streams_send();
    vsock_flush();
    power_exit((int)code);
}

static void report_end(enum stream_end end)
{
    if (end == STREAM_REFUSED) {
        console_print("vsock-echo: refused\n");
        exit_if_told(EXIT_REFUSED);
    } else {
        console_print("vsock-echo: closed\n");
        exit_if_told(exit_code);
    }
}

static void report_ready(uint64_t listen_port)
{
    console_print("vsock-echo: cid=");
    console_print_number(vsock_own_cid());
    console_print(" port=");
    console_print_number(listen_port);
    console_print("\n");
    power_report_ready();
}

static void work(void)
{
    struct vsock_received received;
    bool blocked;

    if (vsock_was_reset())
        streams_drop_all();
    while (vsock_receive(&received)) {
        streams_input(received.header, received.data);
        vsock_recycle(&received);
    }
    blocked = streams_send();
    vsock_flush();
    vsock_wait(blocked);
}

int guest_main(void)
{
    uint64_t listen_port = command_line_number("listen", 1024);
    uint64_t port = command_line_number("port", NO_PORT);

    exit_code = command_line_number("exit", NO_EXIT);
    interrupts_start();
    if (!vsock_start()) {
        console_print("vsock-echo: no socket device\n");
        return EXIT_NO_DEVICE;
    }
    streams_start(&(struct stream_service){
        .listen_port = (uint32_t)listen_port,
        .greeting = "hello\n",
        .connected = report_connected,
        .ended = report_end,
    });
    if (port != NO_PORT)
        streams_connect((uint32_t)port);
    report_ready(listen_port);
    for (;;)
        work();
}
