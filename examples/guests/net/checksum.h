/* The Internet checksum (RFC 1071). */
#ifndef NET_CHECKSUM_H
#define NET_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/*
 * Adds bytes to a sum. All but the last piece of what is summed must have an even length. The sum is over the bytes as
 * they lie in memory, which gives the right checksum in either byte order (RFC 1071 §2 (B)).
 */
uint64_t checksum_add(uint64_t sum, const void *bytes, size_t length);

/* Folds a sum to 16 bits. */
static inline uint16_t checksum_fold(uint64_t sum)
{
    sum = (sum >> 32) + (uint32_t)sum;
    sum = (sum >> 32) + (uint32_t)sum;
    sum = (sum >> 16) + (uint16_t)sum;
    sum = (sum >> 16) + (uint16_t)sum;
    return (uint16_t)sum;
}

/* The field of a packet whose bytes sum up to this; the sum over a packet with a right checksum folds to 0xffff. */
static inline uint16_t checksum_finish(uint64_t sum)
{
    return (uint16_t)~checksum_fold(sum);
}

#define CHECKSUM_RIGHT 0xffff

#endif
