/* Numbers in network byte order, at any alignment. */
#ifndef NET_BYTES_H
#define NET_BYTES_H

#include <stdint.h>

/* Numbers as they stand in a packet; the types keep the two byte orders from being mixed up. */
struct big_endian16 {
    uint16_t raw;
} __attribute__((packed));

struct big_endian32 {
    uint32_t raw;
} __attribute__((packed));

static inline uint16_t from_big_endian16(struct big_endian16 value)
{
    return __builtin_bswap16(value.raw);
}

static inline struct big_endian16 to_big_endian16(uint16_t value)
{
    return (struct big_endian16){__builtin_bswap16(value)};
}

static inline uint32_t from_big_endian32(struct big_endian32 value)
{
    return __builtin_bswap32(value.raw);
}

static inline struct big_endian32 to_big_endian32(uint32_t value)
{
    return (struct big_endian32){__builtin_bswap32(value)};
}

#endif
