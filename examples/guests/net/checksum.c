#include "net/checksum.h"

/* 32 bits a step, with 64 to carry into: no packet is long enough to overflow them. */
uint64_t checksum_add(uint64_t sum, const void *bytes, size_t length)
{
    const struct {
        uint32_t value;
    } __attribute__((packed)) *words = bytes;
    const uint8_t *rest;

    for (; length >= 4; length -= 4)
        sum += (words++)->value;
    rest = (const uint8_t *)words;
    if (length >= 2) {
        sum += (uint32_t)rest[0] | (uint32_t)rest[1] << 8;
        rest += 2;
    }
    if (length % 2 != 0)
        sum += *rest;
    return sum;
}
