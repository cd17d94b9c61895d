/* ARP for IPv4 over Ethernet (RFC 826). */
#ifndef NET_ARP_H
#define NET_ARP_H

#include <stddef.h>
#include <stdint.h>

/* Answers a request for the guest's own address. */
void arp_input(const uint8_t *packet, size_t length);

/* Tells everybody on the link where the guest's address is (RFC 5227 §2.3). */
void arp_announce(void);

#endif
