#include "virtio/entropy.h"

#include <stdint.h>

#define QUEUE_REQUESTS 0

static struct virtqueue_memory queue_memory;

bool entropy_find(struct entropy_source *source)
{
    return virtio_find(VIRTIO_TYPE_ENTROPY, 0, &source->device);
}

bool entropy_open(struct entropy_source *source)
{
    if (!virtio_negotiate(&source->device, VIRTIO_F_EVENT_IDX) ||
        !virtio_add_queue(&source->device, QUEUE_REQUESTS, &source->queue, &queue_memory))
        return false;
    virtio_start(&source->device);
    return true;
}

bool entropy_read(struct entropy_source *source, void *bytes, size_t length)
{
    uint8_t *position = bytes;

    while (length != 0) {
        struct virtqueue_used_element used;
        virtqueue_describe(&source->queue, 0,
                           (struct virtqueue_descriptor){
                               .address = (uint64_t)position,
                               .length = (uint32_t)length,
                               .flags = VIRTQUEUE_DESCRIPTOR_WRITE,
                           });
        virtqueue_offer(&source->queue, 0);
        used = virtio_execute(&source->device, QUEUE_REQUESTS, &source->queue);
        if (used.length == 0 || used.length > length)
            return false;
        position += used.length;
        length -= used.length;
    }
    return true;
}
