#include "net/ethernet.h"

#include <stdbool.h>

#include "machine/memory.h"
#include "net/arp.h"
#include "net/ipv4.h"

const struct ethernet_address ethernet_broadcast = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

const struct ethernet_address *ethernet_own_address(void)
{
    return (const struct ethernet_address *)net_address();
}

static bool same_address(const struct ethernet_address *left, const struct ethernet_address *right)
{
    return memcmp(left, right, sizeof *left) == 0;
}

void ethernet_input(const struct net_received *frame)
{
    const struct ethernet_header *header = (const void *)frame->bytes;
    const uint8_t *payload = frame->bytes + sizeof *header;
    size_t length = frame->length - sizeof *header;

    if (frame->length < sizeof *header)
        return;
    switch (from_big_endian16(header->type)) {
    case ETHERNET_TYPE_ARP:
        arp_input(payload, length);
        break;
    case ETHERNET_TYPE_IPV4:
        if (same_address(&header->destination, ethernet_own_address()))
            ipv4_input(&header->source, payload, length, frame->checksum_verified);
        break;
    }
}

void *ethernet_begin(const struct ethernet_address *destination, uint16_t type)
{
    struct ethernet_header *header = (void *)net_prepare();

    if (header == NULL)
        return NULL;
    header->destination = *destination;
    header->source = *ethernet_own_address();
    header->type = to_big_endian16(type);
    return header + 1;
}

void ethernet_send(size_t length)
{
    net_send(sizeof(struct ethernet_header) + length, 0, 0);
}

void ethernet_send_partial_checksum(size_t length, uint16_t start, uint16_t field)
{
    net_send(sizeof(struct ethernet_header) + length, (uint16_t)(sizeof(struct ethernet_header) + start), field);
}
