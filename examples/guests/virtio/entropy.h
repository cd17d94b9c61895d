/* The virtio entropy device (virtio 1.3 §5.4). */
#ifndef VIRTIO_ENTROPY_H
#define VIRTIO_ENTROPY_H

#include <stdbool.h>
#include <stddef.h>

#include "virtio/mmio.h"

struct entropy_source {
    struct virtio_device device;
    struct virtqueue queue;
};

/* Finds the first entropy device. False when there is none. */
bool entropy_find(struct entropy_source *source);

/* Readies it. False when it does not work. */
bool entropy_open(struct entropy_source *source);

/* Fills `bytes` with random ones, by as many requests as the device needs. False when it gives none. */
bool entropy_read(struct entropy_source *source, void *bytes, size_t length);

#endif
