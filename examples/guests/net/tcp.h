/*
 * A TCP server (RFC 9293) on one port, for a guest that has no clock.
 *
 * It has no timers, and needs none for what it does: every segment with data that it sends also acknowledges the
 * request that the data answers, and the peer goes on repeating a request that is not acknowledged. A repeated request
 * therefore means that the answer was lost, and the answer is repeated. Handshakes are kept in no table (SYN cookies),
 * so they need no timer either. What is given up: a FIN that had to travel alone, because the peer's window was just
 * full, is not repeated if it is lost.
 */
#ifndef NET_TCP_H
#define NET_TCP_H

#include <stdint.h>

#include "net/ipv4.h"

#define TCP_SERVICE_PORT 80

/* Begins to serve; `seed` keys the initial sequence numbers. */
void tcp_start(uint64_t seed);

void tcp_input(const struct ipv4_packet *packet);

#endif
