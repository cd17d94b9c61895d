/* Ethernet frames. */
#ifndef NET_ETHERNET_H
#define NET_ETHERNET_H

#include <stddef.h>
#include <stdint.h>

#include "net/bytes.h"
#include "virtio/net.h"

#define ETHERNET_TYPE_IPV4 0x0800
#define ETHERNET_TYPE_ARP 0x0806

struct ethernet_address {
    uint8_t bytes[ETHERNET_ADDRESS_BYTES];
};

struct ethernet_header {
    struct ethernet_address destination;
    struct ethernet_address source;
    struct big_endian16 type;
} __attribute__((packed));

extern const struct ethernet_address ethernet_broadcast;

/* The guest's own address. */
const struct ethernet_address *ethernet_own_address(void);

/* Handles a received frame; whatever is in it that this guest does not know is ignored. */
void ethernet_input(const struct net_received *frame);

/*
 * Begins a frame: gives the room behind its header, or NULL when nothing can be sent now. The protocols above answer
 * what they received and take a lost answer as they take one lost on the wire.
 */
void *ethernet_begin(const struct ethernet_address *destination, uint16_t type);

/* Sends the frame begun, with `length` bytes behind its header. */
void ethernet_send(size_t length);

/*
 * As ethernet_send(); the host adds a checksum from `start` bytes behind the header on, into the field `field` bytes
 * further. Only where net_completes_checksums().
 */
void ethernet_send_partial_checksum(size_t length, uint16_t start, uint16_t field);

#endif
