/* TCP segments on the wire. */
#ifndef NET_TCP_SEGMENT_H
#define NET_TCP_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/ipv4.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10

/* The most that a peer may send before it is acknowledged. */
#define TCP_RECEIVE_WINDOW 2048

/* The most data in a sent segment: what every host takes without having been asked (RFC 9293 §3.7.1). */
#define TCP_SEND_BYTES_MAXIMUM 536

/* The two ends of a connection, as seen from here. */
struct tcp_ends {
    struct ipv4_peer peer;
    uint16_t peer_port;
    uint16_t own_port;
};

/* A segment, received or to be sent. */
struct tcp_segment {
    struct tcp_ends ends;
    uint32_t sequence;
    uint32_t acknowledgment;
    uint32_t window;
    uint8_t flags;
    const uint8_t *data;
    size_t length;
};

/* Whether sequence number `left` lies before `right`, on their circle. */
static inline bool tcp_is_before(uint32_t left, uint32_t right)
{
    return (int32_t)(left - right) < 0;
}

/* Reads a packet. False when it is no whole segment or its checksum is wrong. */
bool tcp_segment_parse(const struct ipv4_packet *packet, struct tcp_segment *segment);

/* The sequence numbers that a segment takes up: its data, and one each for SYN and FIN. */
uint32_t tcp_segment_span(const struct tcp_segment *segment);

/* Sends a segment, or drops it when nothing can be sent now. */
void tcp_segment_send(const struct tcp_segment *segment);

#endif
