/* The driver's side of a split virtqueue (virtio 1.3 §2.7). */
#ifndef VIRTIO_QUEUE_H
#define VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

/* The most entries a queue is given: enough for one packet of each of 64 connections. */
#define VIRTQUEUE_SIZE_MAXIMUM 64

#define VIRTQUEUE_DESCRIPTOR_NEXT 1
#define VIRTQUEUE_DESCRIPTOR_WRITE 2 /* the device writes, the driver reads */

struct virtqueue_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct virtqueue_used_element {
    uint32_t id;
    uint32_t length;
};

/*
 * What driver and device share, zero at the start. The rings' last fields (used_event, avail_event) follow the entries
 * of the queue's true size, so they are reached through the rings.
 */
struct virtqueue_memory {
    struct virtqueue_descriptor descriptors[VIRTQUEUE_SIZE_MAXIMUM] __attribute__((aligned(16)));
    struct {
        uint16_t flags;
        uint16_t index;
        uint16_t ring[VIRTQUEUE_SIZE_MAXIMUM + 1];
    } available;
    struct {
        uint16_t flags;
        uint16_t index;
        struct virtqueue_used_element ring[VIRTQUEUE_SIZE_MAXIMUM + 1];
    } used __attribute__((aligned(4)));
};

struct virtqueue {
    volatile struct virtqueue_memory *memory;
    uint16_t size;            /* entries, a power of two */
    bool event_index;         /* VIRTIO_F_EVENT_IDX was negotiated */
    uint16_t available_index; /* entries ever made available */
    uint16_t notified_index;  /* of these, those that the device was told of */
    uint16_t used_index;      /* entries ever taken back */
};

/* Starts with no entry and with interrupts suppressed. */
void virtqueue_prepare(struct virtqueue *queue, struct virtqueue_memory *memory, uint16_t size, bool event_index);

/* Fills one descriptor. */
void virtqueue_describe(struct virtqueue *queue, uint16_t id, struct virtqueue_descriptor descriptor);

/* Makes the chain that begins with descriptor `head` available; the device may look at it at once. */
void virtqueue_offer(struct virtqueue *queue, uint16_t head);

/* Makes all descriptors available at once, each a chain by itself; none may have been offered before. */
void virtqueue_offer_all(struct virtqueue *queue);

/*
 * Takes the next chain that the device has used. False when there is none. An element whose id is no descriptor of the
 * queue is dropped.
 */
bool virtqueue_take(struct virtqueue *queue, struct virtqueue_used_element *element);

/* Whether the device must be told of what was offered since the last call; the caller does so. */
bool virtqueue_needs_notification(struct virtqueue *queue);

/*
 * Asks for an interrupt on the next used chain. False when one is there already: then the caller must not wait.
 */
bool virtqueue_enable_interrupts(struct virtqueue *queue);

/* Asks for no interrupts; the device may still send a few. */
void virtqueue_disable_interrupts(struct virtqueue *queue);

#endif
