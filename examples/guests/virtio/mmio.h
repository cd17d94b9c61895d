/* Finding and starting virtio devices behind memory-mapped windows (virtio 1.3 §4.2), modern interface only. */
#ifndef VIRTIO_MMIO_H
#define VIRTIO_MMIO_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/queue.h"

/* Device types, virtio 1.3 §5. */
enum virtio_type {
    VIRTIO_TYPE_NETWORK = 1,
    VIRTIO_TYPE_BLOCK = 2,
    VIRTIO_TYPE_ENTROPY = 4,
    VIRTIO_TYPE_BALLOON = 5,
    VIRTIO_TYPE_VSOCK = 19,
};

/* Features of every device type, virtio 1.3 §6. */
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

struct virtio_device {
    volatile uint8_t *window;
    unsigned interrupt;
    uint64_t features; /* negotiated */
};

/*
 * Finds the device of a type, counted from 0 in the order of the command line, by the words
 * virtio_mmio.device=SIZE@ADDRESS:INTERRUPT. False when there are not so many.
 */
bool virtio_find(enum virtio_type type, unsigned position, struct virtio_device *device);

/*
 * Resets a device and negotiates those of the wanted features that it offers, VIRTIO_F_VERSION_1 always among them.
 * False when the device is not modern or refuses.
 */
bool virtio_negotiate(struct virtio_device *device, uint64_t wanted_features);

/*
 * Hands a queue to the device, with as many entries as both it and `memory` have. False when the device has no such
 * queue.
 */
bool virtio_add_queue(struct virtio_device *device, unsigned index, struct virtqueue *queue,
                      struct virtqueue_memory *memory);

/* Lets the device work, and its interrupts through. */
void virtio_start(struct virtio_device *device);

/* Takes the device away from its queues. */
void virtio_reset(struct virtio_device *device);

/*
 * Tells the device that its interrupt was seen. This must come before the look at the queues: what the device adds
 * later then raises the interrupt anew.
 */
void virtio_acknowledge_interrupt(struct virtio_device *device);

/*
 * Notifies queue `index`, and halts until the device has used a chain of it. For drivers with one request at a time.
 */
struct virtqueue_used_element virtio_execute(struct virtio_device *device, unsigned index, struct virtqueue *queue);

/* Tells the device that queue `index` has new entries, whether or not it asked to be told. */
void virtio_notify(struct virtio_device *device, unsigned index);

/* Fields of the device's configuration space. */
uint8_t virtio_config_read8(const struct virtio_device *device, unsigned offset);
uint32_t virtio_config_read32(const struct virtio_device *device, unsigned offset);
uint64_t virtio_config_read64(const struct virtio_device *device, unsigned offset);

#endif
