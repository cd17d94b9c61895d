#include "virtio/vsock.h"

#define QUEUE_EVENTS 2

#define CONFIG_OWN_CID 0

/* The one event there is, virtio 1.3 §5.10.6.7. */
#define EVENT_TRANSPORT_RESET 0

static struct packet_port port;
static uint64_t own_cid;

static struct virtqueue event_queue;
static struct virtqueue_memory event_memory;
static volatile uint32_t event;

static void offer_event(void)
{
    virtqueue_describe(&event_queue, 0,
                       (struct virtqueue_descriptor){
                           .address = (uint64_t)&event,
                           .length = sizeof event,
                           .flags = VIRTQUEUE_DESCRIPTOR_WRITE,
                       });
    virtqueue_offer(&event_queue, 0);
    if (virtqueue_needs_notification(&event_queue))
        virtio_notify(&port.device, QUEUE_EVENTS);
}

bool vsock_start(void)
{
    if (!virtio_find(VIRTIO_TYPE_VSOCK, 0, &port.device) || !virtio_negotiate(&port.device, VIRTIO_F_EVENT_IDX))
        return false;
    own_cid = virtio_config_read64(&port.device, CONFIG_OWN_CID);
    if (!packets_add_queues(&port) || !virtio_add_queue(&port.device, QUEUE_EVENTS, &event_queue, &event_memory))
        return false;
    virtio_start(&port.device);
    virtqueue_enable_interrupts(&event_queue);
    offer_event();
    vsock_flush();
    return true;
}

uint64_t vsock_own_cid(void)
{
    return own_cid;
}

bool vsock_was_reset(void)
{
    struct virtqueue_used_element used;
    bool was_reset;

    if (!virtqueue_take(&event_queue, &used))
        return false;
    was_reset = used.length >= sizeof event && event == EVENT_TRANSPORT_RESET;
    virtqueue_enable_interrupts(&event_queue);
    offer_event();
    if (was_reset)
        own_cid = virtio_config_read64(&port.device, CONFIG_OWN_CID);
    return was_reset;
}

bool vsock_receive(struct vsock_received *received)
{
    while (packets_receive(&port, &received->packet)) {
        received->header = (const void *)received->packet.bytes;
        received->data = received->packet.bytes + sizeof *received->header;
        if (received->packet.length >= sizeof *received->header &&
            received->header->length == received->packet.length - sizeof *received->header)
            return true;
        vsock_recycle(received);
    }
    return false;
}

void vsock_recycle(const struct vsock_received *received)
{
    packets_recycle(&port, &received->packet);
}

uint8_t *vsock_prepare(void)
{
    uint8_t *buffer = packets_prepare(&port);

    return buffer != NULL ? buffer + sizeof(struct vsock_header) : NULL;
}

void vsock_send(const struct vsock_header *header)
{
    *(struct vsock_header *)packets_prepare(&port) = *header;
    packets_send(&port, sizeof *header + header->length);
}

void vsock_flush(void)
{
    packets_flush(&port);
}

void vsock_wait(bool to_send)
{
    packets_wait(&port, to_send ? PACKETS_RECEIVED | PACKETS_SENT : PACKETS_RECEIVED);
}
