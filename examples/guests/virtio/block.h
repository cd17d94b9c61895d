/* The virtio block device (virtio 1.3 §5.2), one disk and one request at a time. */
#ifndef VIRTIO_BLOCK_H
#define VIRTIO_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/mmio.h"

#define BLOCK_SECTOR_BYTES 512

/* The length of a disk's serial id, without the NUL that follows a shorter one. */
#define BLOCK_SERIAL_BYTES 20

struct block_disk {
    struct virtio_device device;
    struct virtqueue queue;
    uint64_t sectors;
    bool read_only;
    bool has_flush; /* otherwise what is written is on the disk at once */
};

/* Finds a disk, counted from 0. False when there are not so many. */
bool block_find(unsigned position, struct block_disk *disk);

/* Readies a disk; the one before must have been closed. False when it does not work. */
bool block_open(struct block_disk *disk);

void block_close(struct block_disk *disk);

/* Requests; false when the disk reports an error. Lengths are whole sectors. */
bool block_read(struct block_disk *disk, uint64_t sector, void *data, size_t length);
bool block_write(struct block_disk *disk, uint64_t sector, const void *data, size_t length);
bool block_flush(struct block_disk *disk);

/* Reads the serial id as text. */
bool block_serial(struct block_disk *disk, char text[BLOCK_SERIAL_BYTES + 1]);

#endif
