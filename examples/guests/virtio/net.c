#include "virtio/net.h"

#include "machine/memory.h"
#include "virtio/packets.h"

/* Features, virtio 1.3 §5.1.3. */
#define FEATURE_CHECKSUM (1ull << 0)
#define FEATURE_GUEST_CHECKSUM (1ull << 1)
#define FEATURE_ADDRESS (1ull << 5)

#define WANTED_FEATURES (FEATURE_CHECKSUM | FEATURE_GUEST_CHECKSUM | FEATURE_ADDRESS | VIRTIO_F_EVENT_IDX)

/* Header flags, virtio 1.3 §5.1.6. */
#define HEADER_NEEDS_CHECKSUM 1
#define HEADER_CHECKSUM_VALID 2

/* Stands before each frame, either way. */
struct net_header {
    uint8_t flags;
    uint8_t segmentation_type;
    uint16_t header_length;
    uint16_t segment_size;
    uint16_t checksum_start;
    uint16_t checksum_offset;
    uint16_t buffers;
};

_Static_assert(sizeof(struct net_header) + NET_FRAME_BYTES_MAXIMUM <= PACKETS_BUFFER_BYTES, "a frame fits its buffer");

static struct packet_port port;
static uint8_t address[ETHERNET_ADDRESS_BYTES];

bool net_start(void)
{
    if (!virtio_find(VIRTIO_TYPE_NETWORK, 0, &port.device) || !virtio_negotiate(&port.device, WANTED_FEATURES))
        return false;
    if ((port.device.features & FEATURE_ADDRESS) == 0)
        return false;
    for (unsigned i = 0; i < ETHERNET_ADDRESS_BYTES; i++)
        address[i] = virtio_config_read8(&port.device, i);
    if (!packets_add_queues(&port))
        return false;
    virtio_start(&port.device);
    net_flush();
    return true;
}

const uint8_t *net_address(void)
{
    return address;
}

void net_set_address(const uint8_t *given_address)
{
    memcpy(address, given_address, ETHERNET_ADDRESS_BYTES);
}

bool net_completes_checksums(void)
{
    return (port.device.features & FEATURE_CHECKSUM) != 0;
}

bool net_receive(struct net_received *frame)
{
    const struct net_header *header;

    do {
        if (!packets_can_send(&port) || !packets_receive(&port, &frame->packet))
            return false;
        if (frame->packet.length >= sizeof *header)
            break;
        net_recycle(frame);
    } while (true);
    header = (const void *)frame->packet.bytes;
    frame->bytes = frame->packet.bytes + sizeof *header;
    frame->length = frame->packet.length - sizeof *header;
    frame->checksum_verified = (header->flags & (HEADER_NEEDS_CHECKSUM | HEADER_CHECKSUM_VALID)) != 0;
    return true;
}

void net_recycle(const struct net_received *frame)
{
    packets_recycle(&port, &frame->packet);
}

uint8_t *net_prepare(void)
{
    uint8_t *buffer = packets_prepare(&port);

    return buffer != NULL ? buffer + sizeof(struct net_header) : NULL;
}

/* The fields that are not written here stay zero for ever. */
void net_send(size_t length, uint16_t checksum_start, uint16_t checksum_field)
{
    struct net_header *header = (void *)packets_prepare(&port);

    header->flags = checksum_field != 0 ? HEADER_NEEDS_CHECKSUM : 0;
    header->checksum_start = checksum_start;
    header->checksum_offset = checksum_field;
    packets_send(&port, sizeof *header + length);
}

void net_flush(void)
{
    packets_flush(&port);
}

void net_wait(void)
{
    packets_wait(&port, packets_can_send(&port) ? PACKETS_RECEIVED : PACKETS_SENT);
}
