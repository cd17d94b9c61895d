/* The virtio socket device (virtio 1.3 §5.10): packets between the guest and its host. */
#ifndef VIRTIO_VSOCK_H
#define VIRTIO_VSOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/packets.h"

/* The host's context identifier. */
#define VSOCK_HOST_CID 2

#define VSOCK_TYPE_STREAM 1

/* Operations, virtio 1.3 §5.10.6. */
enum vsock_operation {
    VSOCK_REQUEST = 1,
    VSOCK_RESPONSE = 2,
    VSOCK_RESET = 3,
    VSOCK_SHUTDOWN = 4,
    VSOCK_DATA = 5,
    VSOCK_CREDIT_UPDATE = 6,
    VSOCK_CREDIT_REQUEST = 7,
};

/* Flags of VSOCK_SHUTDOWN: what the sender will not do any more. */
#define VSOCK_SHUTDOWN_RECEIVE 1
#define VSOCK_SHUTDOWN_SEND 2

/* Stands before each packet's data, little-endian as the processor. */
struct vsock_header {
    uint64_t source_cid;
    uint64_t destination_cid;
    uint32_t source_port;
    uint32_t destination_port;
    uint32_t length;
    uint16_t type;
    uint16_t operation;
    uint32_t flags;
    uint32_t buffer_allocated;
    uint32_t bytes_forwarded;
} __attribute__((packed));

/* The most data in a packet. */
#define VSOCK_DATA_BYTES_MAXIMUM (PACKETS_BUFFER_BYTES - sizeof(struct vsock_header))

/* A received packet; it belongs to the receiver until vsock_recycle(). Its header's length is that of the data. */
struct vsock_received {
    const struct vsock_header *header;
    const uint8_t *data;
    struct received_packet packet;
};

/* Finds the first socket device and readies it. False when there is none that works. */
bool vsock_start(void);

/* The guest's own context identifier. */
uint64_t vsock_own_cid(void);

/*
 * Whether the device was replaced by another since the last call, as after a restore from a snapshot: no connection has
 * survived, and the guest's identifier may be another (§5.10.6.7).
 */
bool vsock_was_reset(void);

bool vsock_receive(struct vsock_received *received);
void vsock_recycle(const struct vsock_received *received);

/*
 * Room for the data of the next packet, VSOCK_DATA_BYTES_MAXIMUM long, or NULL while the device has not sent enough of
 * the earlier ones.
 */
uint8_t *vsock_prepare(void);

/* Sends the prepared data, as long as the header says, behind the header. */
void vsock_send(const struct vsock_header *header);

/* Tells the device of all that was sent and recycled since the last call. */
void vsock_flush(void);

/* Halts until a packet may have come, or, if `to_send`, there may be room to send one; all must have been flushed. */
void vsock_wait(bool to_send);

#endif
