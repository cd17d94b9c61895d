/*
 * SYN cookies (RFC 4987 §3.6): the initial sequence number says by itself that the guest gave it out, so a handshake
 * needs no memory before its last step, and a flood of half-open connections fills no table.
 */
#ifndef NET_TCP_COOKIE_H
#define NET_TCP_COOKIE_H

#include <stdint.h>

#include "net/tcp_segment.h"

/* Keys the cookies. A peer that knows the seed can open connections from addresses that are not its own. */
void tcp_cookie_start(uint64_t seed);

/* The guest's initial sequence number towards a peer that begins with `peer_sequence`. */
uint32_t tcp_cookie(const struct tcp_ends *ends, uint32_t peer_sequence);

/* What an acknowledgment says of a handshake that nobody has noted down. */
enum tcp_cookie_verdict {
    TCP_COOKIE_VALID,   /* the segment is the first behind a handshake */
    TCP_COOKIE_LATER,   /* there was a handshake, but the segments before this one are missing: they will come again */
    TCP_COOKIE_FOREIGN, /* there was none, or its connection is over */
};

enum tcp_cookie_verdict tcp_cookie_check(const struct tcp_segment *segment);

#endif
