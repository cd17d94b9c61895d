/* The hypercalls of Solo5's hvt interface, version 2, from the guest's side. */
#ifndef HVT_HVT_H
#define HVT_HVT_H

#include <stddef.h>
#include <stdint.h>

/* What %rdi points to at the entry. */
struct hvt_boot_info {
    uint64_t memory_size;
    uint64_t image_end;
    uint64_t cycles_per_second;
    const char *command_line;
    const struct hvt_manifest *manifest;
    uint32_t host_features;
    uint32_t guest_features;
    uint64_t network_ring;
};

enum hvt_result {
    HVT_OK = 0,
    HVT_AGAIN = 1,
    HVT_INVALID = 2,
    HVT_UNSPECIFIED = 3,
};

enum hvt_device_type {
    HVT_BLOCK = 1,
    HVT_NET = 2,
    HVT_RESERVED = 1 << 30,
};

struct hvt_device {
    char name[68];
    uint32_t type;
    union {
        struct {
            uint64_t capacity;
            uint16_t block_size;
        } block;
        struct {
            uint8_t mac[6];
            uint16_t mtu;
        } net;
    } properties;
    uint64_t backing;
    uint8_t attached;
};

/* The devices by their handles; the first is none. */
struct hvt_manifest {
    uint32_t version;
    uint32_t entries;
    struct hvt_device devices[];
};

_Static_assert(sizeof(struct hvt_device) == 104, "the manifest's layout is fixed");

/* Declares the manifest of a guest with `count` entries, the reserved first one among them, which follow in braces. */
#define HVT_MANIFEST(count, ...)                                                                                       \
    const struct {                                                                                                     \
        uint32_t owner_bytes;                                                                                          \
        uint32_t description_bytes;                                                                                    \
        uint32_t type;                                                                                                 \
        char owner[8];                                                                                                 \
        uint32_t padding;                                                                                              \
        uint32_t version;                                                                                              \
        uint32_t entries;                                                                                              \
        struct hvt_device devices[count];                                                                              \
    } hvt_manifest_note __attribute__((section(".note.solo5.manifest"), aligned(4), used)) = {                         \
        6,                                                                                                             \
        12 + (count) * sizeof(struct hvt_device),                                                                      \
        0x3154464d,                                                                                                    \
        "Solo5",                                                                                                       \
        0,                                                                                                             \
        1,                                                                                                             \
        count,                                                                                                         \
        {{.type = HVT_RESERVED}, __VA_ARGS__},                                                                         \
    }

/* Where each guest's program begins; its result is the exit status. */
int hvt_main(const struct hvt_boot_info *info);

uint64_t hvt_walltime(void);
void hvt_puts(const char *data, size_t length);
/* Waits; gives the set of cards with a frame. */
uint64_t hvt_poll(uint64_t nanoseconds);
enum hvt_result hvt_block_write(uint64_t handle, uint64_t offset, const void *data, size_t length);
enum hvt_result hvt_block_read(uint64_t handle, uint64_t offset, void *data, size_t *length);
enum hvt_result hvt_net_write(uint64_t handle, const void *frame, size_t length);
enum hvt_result hvt_net_read(uint64_t handle, void *frame, size_t *length);
_Noreturn void hvt_halt(int status);

/* Any call, with the address of any argument. */
void hvt_call(unsigned number, uint32_t argument);

/* Prints text up to its NUL. */
void hvt_print(const char *text);

/* Prints a number in decimal. */
void hvt_print_number(uint64_t number);

/* The value of the word "key=value" on the command line, or NULL. */
const char *hvt_argument(const struct hvt_boot_info *info, const char *key);

/* The handle of a device by its name; 0 if it is not there. */
uint64_t hvt_find(const struct hvt_boot_info *info, const char *name);

#endif
