/* The four memory functions that the compiler may call, with the meaning that the C standard gives them. */
#ifndef MACHINE_MEMORY_H
#define MACHINE_MEMORY_H

#include <stddef.h>

void *memcpy(void *restrict destination, const void *restrict source, size_t length);
void *memmove(void *destination, const void *source, size_t length);
void *memset(void *destination, int value, size_t length);
int memcmp(const void *left, const void *right, size_t length);

#endif
