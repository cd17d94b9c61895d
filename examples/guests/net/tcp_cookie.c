#include "net/tcp_cookie.h"

/* SipHash-1-3 (Aumasson and Bernstein, 2012) of two 64-bit words. */
struct sip_state {
    uint64_t v0;
    uint64_t v1;
    uint64_t v2;
    uint64_t v3;
};

static uint64_t keys[2];

static inline uint64_t rotate_left(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static inline void sip_round(struct sip_state *s)
{
    s->v0 += s->v1;
    s->v1 = rotate_left(s->v1, 13) ^ s->v0;
    s->v0 = rotate_left(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate_left(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate_left(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate_left(s->v1, 17) ^ s->v2;
    s->v2 = rotate_left(s->v2, 32);
}

static inline void sip_absorb(struct sip_state *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    s->v0 ^= word;
}

static uint64_t sip_hash(uint64_t first, uint64_t second)
{
    struct sip_state s = {
        keys[0] ^ 0x736f6d6570736575,
        keys[1] ^ 0x646f72616e646f6d,
        keys[0] ^ 0x6c7967656e657261,
        keys[1] ^ 0x7465646279746573,
    };

    sip_absorb(&s, first);
    sip_absorb(&s, second);
    sip_absorb(&s, 16ull << 56); /* the message's length in bytes */
    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

void tcp_cookie_start(uint64_t seed)
{
    keys[0] = seed;
    keys[1] = sip_hash(seed, 1);
    keys[0] = sip_hash(seed, 2);
}

/*
 * The upper half of a cookie depends on the connection's ends alone, to the lower half the peer's first sequence number
 * is added. So of a later segment the upper half is still right, and the lower tells how much later it is.
 */
uint32_t tcp_cookie(const struct tcp_ends *ends, uint32_t peer_sequence)
{
    uint64_t ports = (uint64_t)ends->peer_port << 16 | ends->own_port;
    uint64_t hash = sip_hash(ends->peer.address, ports);

    return (uint32_t)(hash >> 32 & 0xffff0000) | (uint16_t)(hash + peer_sequence);
}

/*
 * Only a segment without data can be a later one. With data it is more likely of a connection that was pushed out of
 * the table, whose peer must learn that.
 */
enum tcp_cookie_verdict tcp_cookie_check(const struct tcp_segment *segment)
{
    uint32_t given = segment->acknowledgment - 1;
    uint32_t expected = tcp_cookie(&segment->ends, segment->sequence - 1);
    uint16_t missing = (uint16_t)(expected - given);

    if (given == expected)
        return TCP_COOKIE_VALID;
    if (given >> 16 == expected >> 16 && missing <= TCP_RECEIVE_WINDOW && tcp_segment_span(segment) == 0)
        return TCP_COOKIE_LATER;
    return TCP_COOKIE_FOREIGN;
}
