/* The identity map beyond the first GiB, which is all that the boot protocols give. */
#ifndef MACHINE_PAGING_H
#define MACHINE_PAGING_H

#include <stdbool.h>
#include <stdint.h>

/* A page of 2 MiB, the unit of the map. */
#define PAGING_UNIT (2ull << 20)

struct page_table {
    uint64_t entries[512];
} __attribute__((aligned(4096)));

/* Tables, all zero, that the map may grow into: one for each further GiB. */
struct page_table_pool {
    struct page_table *next;
    unsigned left;
};

enum paging_kind {
    PAGING_MEMORY,
    PAGING_DEVICE, /* not cached */
};

/*
 * Maps the 2 MiB around an address to themselves, unless they are mapped already. False when the address lies beyond
 * 512 GiB or the pool is used up.
 */
bool paging_map(uint64_t address, enum paging_kind kind, struct page_table_pool *pool);

#endif
