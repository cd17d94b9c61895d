/* ICMP echo (RFC 792). */
#ifndef NET_ICMP_H
#define NET_ICMP_H

#include "net/ipv4.h"

/* Answers an echo request. */
void icmp_input(const struct ipv4_packet *packet);

#endif
