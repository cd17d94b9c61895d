/* The virtio network device (virtio 1.3 §5.1): frames in, frames out, one at a time, without copies on the way in. */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/packets.h"

#define ETHERNET_ADDRESS_BYTES 6

/* The largest frame either way: an Ethernet header and 1500 bytes. */
#define NET_FRAME_BYTES_MAXIMUM 1514

/* A received frame; it belongs to the receiver until net_recycle(). */
struct net_received {
    uint8_t *bytes;
    size_t length;
    bool checksum_verified; /* the host vouches for the transport's checksum */
    struct received_packet packet;
};

/* Finds the first network device and readies it. False when there is none that works. */
bool net_start(void);

/* The device's address, ETHERNET_ADDRESS_BYTES long. */
const uint8_t *net_address(void);

/* Gives the device's frames another address. */
void net_set_address(const uint8_t *address);

/* Whether the host completes transport checksums of sent frames. */
bool net_completes_checksums(void);

/*
 * Takes the next frame. None is taken while no buffer is free to answer it: the host holds it back then, where dropping
 * the answer would cost the peer a retransmission.
 */
bool net_receive(struct net_received *frame);
void net_recycle(const struct net_received *frame);

/*
 * The buffer of the next frame to send, NET_FRAME_BYTES_MAXIMUM long, or NULL while the device has not sent enough of
 * the earlier ones. Asking again before net_send() gives the same buffer.
 */
uint8_t *net_prepare(void);

/*
 * Sends the prepared buffer. With `checksum_field` not 0, the host sums the frame from `checksum_start` on and stores
 * the result `checksum_field` bytes behind it; only where net_completes_checksums().
 */
void net_send(size_t length, uint16_t checksum_start, uint16_t checksum_field);

/* Tells the device of all that was sent and recycled since the last call. */
void net_flush(void);

/* Halts until net_receive() may have something to give; all must have been flushed. */
void net_wait(void);

#endif
