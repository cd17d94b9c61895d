/*
 * Echoing vsock streams: what comes in goes out again, as far as the peer's credit goes (virtio 1.3 §5.10.6.3).
 *
 * A stream never asks for memory and never waits: what it owes the peer, answers as well as data, is noted in it and
 * sent when the device has room.
 */
#ifndef VSOCK_STREAM_H
#define VSOCK_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/vsock.h"

enum stream_end {
    STREAM_REFUSED, /* the peer did not accept it */
    STREAM_CLOSED,
};

/* What the program wants of the streams; set before the first packet. */
struct stream_service {
    uint32_t listen_port;
    const char *greeting;               /* sent first on the stream that the guest opens */
    void (*connected)(void);            /* that stream was accepted, */
    void (*ended)(enum stream_end end); /* or it is over */
};

void streams_start(const struct stream_service *service);

/* Opens the guest's own stream, to a port of the host. */
void streams_connect(uint32_t port);

/* Handles a received packet. */
void streams_input(const struct vsock_header *header, const uint8_t *data);

/* Ends all streams without a word: their peers are gone. */
void streams_drop_all(void);

/* Sends what can be sent. True when something is left for which the device had no room. */
bool streams_send(void);

#endif
