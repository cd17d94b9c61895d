/*
 * A pair of queues that carries packets: number 0 in, number 1 out, each with buffers of its own that never move. The
 * network and the vsock device both are such a pair.
 */
#ifndef VIRTIO_PACKETS_H
#define VIRTIO_PACKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/mmio.h"
#include "virtio/queue.h"

#define PACKETS_BUFFER_COUNT VIRTQUEUE_SIZE_MAXIMUM

/* Larger than any Ethernet frame with its header. */
#define PACKETS_BUFFER_BYTES 2048

struct packet_buffer {
    uint8_t bytes[PACKETS_BUFFER_BYTES];
};

/* One direction; buffer and descriptor of the same number belong together. */
struct packet_queue {
    struct virtqueue queue;
    struct virtqueue_memory memory;
    struct packet_buffer buffers[PACKETS_BUFFER_COUNT];
};

/* Static, and so all zero at the start. */
struct packet_port {
    struct virtio_device device;
    struct packet_queue receive;
    struct packet_queue transmit;

    /* The transmit buffers that the device does not hold. */
    uint16_t free_count;
    uint16_t ids_ever_used; /* buffers of higher numbers are free too */
    uint16_t free_ids[PACKETS_BUFFER_COUNT];
};

/* A received packet; it belongs to the receiver until packets_recycle(). */
struct received_packet {
    uint8_t *bytes;
    size_t length; /* at most PACKETS_BUFFER_BYTES */
    uint16_t id;
};

/* Adds both queues to a negotiated device and fills that of received packets. False when the device lacks them. */
bool packets_add_queues(struct packet_port *port);

bool packets_receive(struct packet_port *port, struct received_packet *packet);
void packets_recycle(struct packet_port *port, const struct received_packet *packet);

/* Whether packets_prepare() would give a buffer. */
bool packets_can_send(struct packet_port *port);

/*
 * The buffer of the next packet to send, or NULL while the device holds them all. Asking again before packets_send()
 * gives the same buffer.
 */
uint8_t *packets_prepare(struct packet_port *port);

/* Sends the first `length` bytes of the prepared buffer. */
void packets_send(struct packet_port *port, size_t length);

/* Tells the device of all that was sent and recycled since the last call. */
void packets_flush(struct packet_port *port);

/* What packets_wait() waits for, one or both. */
enum packets_event {
    PACKETS_RECEIVED = 1, /* a packet has come */
    PACKETS_SENT = 2,     /* a buffer to send is free */
};

/* Halts until one of the events; all must have been flushed. It may also return without reason. */
void packets_wait(struct packet_port *port, enum packets_event events);

#endif
