/*
 * Memory by string instructions: a KVM that emulates each instruction is asked for eight bytes a step, and a real
 * processor has fast microcode for them.
 */
#include "machine/memory.h"

#include <stdbool.h>
#include <stdint.h>

void *memcpy(void *restrict destination, const void *restrict source, size_t length)
{
    void *target = destination;
    size_t words = length / 8;
    size_t rest = length % 8;

    __asm__ volatile("rep movsq" : "+D"(target), "+S"(source), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(rest) : : "memory");
    return destination;
}

void *memmove(void *destination, const void *source, size_t length)
{
    const uint8_t *from = (const uint8_t *)source + length - 1;
    uint8_t *to = (uint8_t *)destination + length - 1;

    if ((uintptr_t)destination - (uintptr_t)source >= length)
        return memcpy(destination, source, length);
    __asm__ volatile("std; rep movsb; cld" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
    return destination;
}

void *memset(void *destination, int value, size_t length)
{
    void *target = destination;
    uint64_t pattern = (uint8_t)value * 0x0101010101010101;
    size_t words = length / 8;
    size_t rest = length % 8;

    __asm__ volatile("rep stosq" : "+D"(target), "+c"(words) : "a"(pattern) : "memory");
    __asm__ volatile("rep stosb" : "+D"(target), "+c"(rest) : "a"(pattern) : "memory");
    return destination;
}

int memcmp(const void *left, const void *right, size_t length)
{
    bool above;
    bool below;

    if (length == 0)
        return 0;
    __asm__ volatile("repe cmpsb" : "+S"(left), "+D"(right), "+c"(length), "=@cca"(above), "=@ccb"(below) : : "memory");
    return above - below;
}
