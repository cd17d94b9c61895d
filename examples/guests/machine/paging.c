#include "machine/paging.h"

/* Intel SDM volume 3, 4.5. */
#define ENTRY_PRESENT (1ull << 0)
#define ENTRY_WRITABLE (1ull << 1)
#define ENTRY_CACHE_DISABLED (1ull << 4)
#define ENTRY_LARGE (1ull << 7)
#define ENTRY_ADDRESS 0x000ffffffffff000ull

#define LEVEL_4_SPAN (1ull << 39)
#define LEVEL_3_SPAN (1ull << 30)

static struct page_table *level_4_table(void)
{
    uint64_t address;
    __asm__ volatile("mov %%cr3, %0" : "=r"(address));
    return (struct page_table *)(address & ENTRY_ADDRESS);
}

bool paging_map(uint64_t address, enum paging_kind kind, struct page_table_pool *pool)
{
    struct page_table *level_3;
    struct page_table *level_2;
    uint64_t *level_3_entry;
    uint64_t *level_2_entry;

    if (address >= LEVEL_4_SPAN)
        return false;
    level_3 = (struct page_table *)(level_4_table()->entries[0] & ENTRY_ADDRESS);
    level_3_entry = &level_3->entries[address / LEVEL_3_SPAN];
    if ((*level_3_entry & ENTRY_PRESENT) == 0) {
        if (pool->left == 0)
            return false;
        pool->left--;
        *level_3_entry = (uint64_t)pool->next++ | ENTRY_PRESENT | ENTRY_WRITABLE;
    }
    if ((*level_3_entry & ENTRY_LARGE) != 0)
        return true;
    level_2 = (struct page_table *)(*level_3_entry & ENTRY_ADDRESS);
    level_2_entry = &level_2->entries[address % LEVEL_3_SPAN / PAGING_UNIT];
    if ((*level_2_entry & ENTRY_PRESENT) == 0) {
        *level_2_entry = (address & ~(PAGING_UNIT - 1)) | ENTRY_PRESENT | ENTRY_WRITABLE | ENTRY_LARGE;
        if (kind == PAGING_DEVICE)
            *level_2_entry |= ENTRY_CACHE_DISABLED;
    }
    return true;
}
