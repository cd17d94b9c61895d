#include "virtio/block.h"

#define QUEUE_REQUESTS 0

/* Features, virtio 1.3 §5.2.3. */
#define FEATURE_READ_ONLY (1ull << 5)
#define FEATURE_FLUSH (1ull << 9)

#define WANTED_FEATURES (FEATURE_READ_ONLY | FEATURE_FLUSH | VIRTIO_F_EVENT_IDX)

#define CONFIG_CAPACITY 0 /* in sectors of 512 bytes */

/* Request types, virtio 1.3 §5.2.6. */
enum request_type {
    REQUEST_READ = 0,
    REQUEST_WRITE = 1,
    REQUEST_FLUSH = 4,
    REQUEST_SERIAL = 8,
};

#define STATUS_OK 0
#define STATUS_NOT_WRITTEN 0xff

struct request_header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

/* The descriptors of the one request; that of the data is left out of the chain when there is none. */
enum {
    DESCRIPTOR_HEADER = 0,
    DESCRIPTOR_DATA = 1,
    DESCRIPTOR_STATUS = 2,
};

static struct virtqueue_memory queue_memory;
static struct request_header header;
static volatile uint8_t status;

bool block_find(unsigned position, struct block_disk *disk)
{
    return virtio_find(VIRTIO_TYPE_BLOCK, position, &disk->device);
}

bool block_open(struct block_disk *disk)
{
    if (!virtio_negotiate(&disk->device, WANTED_FEATURES))
        return false;
    disk->sectors = virtio_config_read64(&disk->device, CONFIG_CAPACITY);
    disk->read_only = (disk->device.features & FEATURE_READ_ONLY) != 0;
    disk->has_flush = (disk->device.features & FEATURE_FLUSH) != 0;
    if (!virtio_add_queue(&disk->device, QUEUE_REQUESTS, &disk->queue, &queue_memory))
        return false;
    if (disk->queue.size <= DESCRIPTOR_STATUS)
        return false;
    virtio_start(&disk->device);
    return true;
}

void block_close(struct block_disk *disk)
{
    virtio_reset(&disk->device);
}

static bool execute(struct block_disk *disk, struct request_header request, const void *data, size_t length)
{
    bool device_writes = request.type == REQUEST_READ || request.type == REQUEST_SERIAL;

    header = request;
    status = STATUS_NOT_WRITTEN;
    virtqueue_describe(&disk->queue, DESCRIPTOR_HEADER,
                       (struct virtqueue_descriptor){
                           .address = (uint64_t)&header,
                           .length = sizeof header,
                           .flags = VIRTQUEUE_DESCRIPTOR_NEXT,
                           .next = length != 0 ? DESCRIPTOR_DATA : DESCRIPTOR_STATUS,
                       });
    virtqueue_describe(&disk->queue, DESCRIPTOR_DATA,
                       (struct virtqueue_descriptor){
                           .address = (uint64_t)data,
                           .length = (uint32_t)length,
                           .flags = VIRTQUEUE_DESCRIPTOR_NEXT | (device_writes ? VIRTQUEUE_DESCRIPTOR_WRITE : 0),
                           .next = DESCRIPTOR_STATUS,
                       });
    virtqueue_describe(&disk->queue, DESCRIPTOR_STATUS,
                       (struct virtqueue_descriptor){
                           .address = (uint64_t)&status,
                           .length = sizeof status,
                           .flags = VIRTQUEUE_DESCRIPTOR_WRITE,
                       });
    virtqueue_offer(&disk->queue, DESCRIPTOR_HEADER);
    virtio_execute(&disk->device, QUEUE_REQUESTS, &disk->queue);
    return status == STATUS_OK;
}

bool block_read(struct block_disk *disk, uint64_t sector, void *data, size_t length)
{
    return execute(disk, (struct request_header){.type = REQUEST_READ, .sector = sector}, data, length);
}

bool block_write(struct block_disk *disk, uint64_t sector, const void *data, size_t length)
{
    return execute(disk, (struct request_header){.type = REQUEST_WRITE, .sector = sector}, data, length);
}

bool block_flush(struct block_disk *disk)
{
    return !disk->has_flush || execute(disk, (struct request_header){.type = REQUEST_FLUSH}, NULL, 0);
}

bool block_serial(struct block_disk *disk, char text[BLOCK_SERIAL_BYTES + 1])
{
    text[BLOCK_SERIAL_BYTES] = '\0';
    return execute(disk, (struct request_header){.type = REQUEST_SERIAL}, text, BLOCK_SERIAL_BYTES);
}
