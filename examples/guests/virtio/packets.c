#include "virtio/packets.h"

#include "machine/interrupts.h"

enum {
    QUEUE_RECEIVE = 0,
    QUEUE_TRANSMIT = 1,
};

static void fill_receive_queue(struct packet_queue *receive)
{
    for (uint16_t id = 0; id < receive->queue.size; id++) {
        virtqueue_describe(&receive->queue, id,
                           (struct virtqueue_descriptor){
                               .address = (uint64_t)&receive->buffers[id],
                               .length = PACKETS_BUFFER_BYTES,
                               .flags = VIRTQUEUE_DESCRIPTOR_WRITE,
                           });
    }
    virtqueue_offer_all(&receive->queue);
}

bool packets_add_queues(struct packet_port *port)
{
    if (!virtio_add_queue(&port->device, QUEUE_RECEIVE, &port->receive.queue, &port->receive.memory) ||
        !virtio_add_queue(&port->device, QUEUE_TRANSMIT, &port->transmit.queue, &port->transmit.memory))
        return false;
    fill_receive_queue(&port->receive);
    return true;
}

/* A length that the buffer cannot have is no packet: the buffer goes back at once. */
bool packets_receive(struct packet_port *port, struct received_packet *packet)
{
    struct virtqueue_used_element used;

    while (virtqueue_take(&port->receive.queue, &used)) {
        packet->id = (uint16_t)used.id;
        packet->bytes = port->receive.buffers[used.id].bytes;
        packet->length = used.length;
        if (used.length <= PACKETS_BUFFER_BYTES)
            return true;
        packets_recycle(port, packet);
    }
    return false;
}

void packets_recycle(struct packet_port *port, const struct received_packet *packet)
{
    virtqueue_offer(&port->receive.queue, packet->id);
}

/* Frees a buffer that was never used, or else takes back those that the device has sent. */
static void find_free_buffers(struct packet_port *port)
{
    struct virtqueue_used_element used;

    if (port->ids_ever_used < port->transmit.queue.size) {
        port->free_ids[port->free_count++] = port->ids_ever_used++;
        return;
    }
    packets_flush(port);
    while (port->free_count < port->transmit.queue.size && virtqueue_take(&port->transmit.queue, &used))
        port->free_ids[port->free_count++] = (uint16_t)used.id;
    virtqueue_disable_interrupts(&port->transmit.queue);
}

bool packets_can_send(struct packet_port *port)
{
    if (port->free_count == 0)
        find_free_buffers(port);
    return port->free_count != 0;
}

uint8_t *packets_prepare(struct packet_port *port)
{
    if (!packets_can_send(port))
        return NULL;
    return port->transmit.buffers[port->free_ids[port->free_count - 1]].bytes;
}

void packets_send(struct packet_port *port, size_t length)
{
    uint16_t id = port->free_ids[--port->free_count];

    virtqueue_describe(&port->transmit.queue, id,
                       (struct virtqueue_descriptor){
                           .address = (uint64_t)&port->transmit.buffers[id],
                           .length = (uint32_t)length,
                       });
    virtqueue_offer(&port->transmit.queue, id);
}

void packets_flush(struct packet_port *port)
{
    if (virtqueue_needs_notification(&port->transmit.queue))
        virtio_notify(&port->device, QUEUE_TRANSMIT);
    if (virtqueue_needs_notification(&port->receive.queue))
        virtio_notify(&port->device, QUEUE_RECEIVE);
}

/* True when none has come already. */
static bool enable_interrupts(struct packet_port *port, enum packets_event events)
{
    bool none = true;

    if ((events & PACKETS_RECEIVED) != 0)
        none = virtqueue_enable_interrupts(&port->receive.queue);
    if ((events & PACKETS_SENT) != 0)
        none = virtqueue_enable_interrupts(&port->transmit.queue) && none;
    return none;
}

void packets_wait(struct packet_port *port, enum packets_event events)
{
    if (enable_interrupts(port, events)) {
        interrupts_wait();
        virtio_acknowledge_interrupt(&port->device);
    }
    virtqueue_disable_interrupts(&port->receive.queue);
    virtqueue_disable_interrupts(&port->transmit.queue);
}
