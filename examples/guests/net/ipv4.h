/* IPv4 (RFC 791) for a host that only ever answers: what it sends goes where the packet it answers came from. */
#ifndef NET_IPV4_H
#define NET_IPV4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/ethernet.h"

#define IPV4_PROTOCOL_ICMP 1
#define IPV4_PROTOCOL_TCP 6

/*
 * Who sent a packet. The link address is that of the frame it came in: answers take the way back without a table of
 * neighbours or routes, through a gateway or not.
 */
struct ipv4_peer {
    struct ethernet_address link;
    uint32_t address;
};

/* A received payload. */
struct ipv4_packet {
    struct ipv4_peer source;
    const uint8_t *payload;
    size_t length;
    bool checksum_verified; /* that of the protocol above */
};

/* Takes the address and prefix length of the guest. False when the prefix has more than 32 bits. */
bool ipv4_configure(uint32_t address, unsigned prefix_bits);

uint32_t ipv4_own_address(void);

/* Handles a received packet of at least `length` bytes; those with options are taken, fragments are not. */
void ipv4_input(const struct ethernet_address *link, const uint8_t *packet, size_t length, bool checksum_verified);

/* Begins a packet; gives the room for its payload, or NULL when nothing can be sent now. */
void *ipv4_begin(const struct ipv4_peer *destination);

/* Sends the packet begun, with a payload of `length` bytes. */
void ipv4_send(uint8_t protocol, size_t length);

/* As ipv4_send(); the host adds the payload's checksum into its field at `field`. */
void ipv4_send_partial_checksum(uint8_t protocol, size_t length, uint16_t field);

#endif
