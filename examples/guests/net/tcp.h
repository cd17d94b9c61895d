/*
 * A TCP server (RFC 9293) on one port, with no more state than it needs: handshakes are kept in no table (SYN cookies),
 * and the clock only runs while something is sent that the peer has not acknowledged, so that an idle guest sleeps.
 * What is lost is repeated from the first missing byte on (go back N) after a fixed time that doubles.
 */
#ifndef NET_TCP_H
#define NET_TCP_H

#include <stdbool.h>
#include <stdint.h>

#include "net/ipv4.h"

#define TCP_SERVICE_PORT 80

/* The time between two ticks. */
#define TCP_TICK_MILLISECONDS 200

/* Begins to serve; `seed` keys the initial sequence numbers. */
void tcp_start(uint64_t seed);

/* Forgets all connections without a word, and goes on with another seed. */
void tcp_restart(uint64_t seed);

void tcp_input(const struct ipv4_packet *packet);

/* Whether tcp_tick() is to be called TCP_TICK_MILLISECONDS from now. */
bool tcp_wants_tick(void);

/* Repeats what was not acknowledged for too long, and gives up what was repeated too often. */
void tcp_tick(void);

#endif
