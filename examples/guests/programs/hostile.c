/*
 * hostile: attacks the machine that it runs on, for tests of what a host does about it. attack=NAME says how.
 *
 * Each virtio device that is found is attacked in turn. Then every one of them is reset, and the entropy device must
 * work as if nothing had been: exit code 0 says that it does.
 */
#include <stddef.h>

#include "machine/boot.h"
#include "machine/command_line.h"
#include "machine/console.h"
#include "machine/paging.h"
#include "machine/ports.h"
#include "machine/text.h"
#include "virtio/entropy.h"
#include "virtio/mmio.h"

#define EXIT_NO_DEVICE 2
#define EXIT_NOT_RECOVERED 3

/* Registers that this program writes wrongly, virtio 1.3 §4.2.2. */
#define QUEUE_SELECT 0x030
#define QUEUE_SIZE 0x038
#define QUEUE_READY 0x044
#define QUEUE_NOTIFY 0x050
#define STATUS 0x070
#define QUEUE_DESCRIPTORS 0x080
#define QUEUE_AVAILABLE 0x090
#define QUEUE_USED 0x0a0
#define CONFIG 0x100
#define WINDOW_END 0x1000

#define STATUS_DRIVER_OK 0x0f
#define INDIRECT 4
#define ENTRIES 64
#define QUEUES 5
#define WRITE VIRTQUEUE_DESCRIPTOR_WRITE
#define NEXT VIRTQUEUE_DESCRIPTOR_NEXT

static struct virtqueue_memory rings[QUEUES];
static struct virtqueue_descriptor table[ENTRIES] __attribute__((aligned(16)));
static uint8_t buffer[8192] __attribute__((aligned(4096)));

/* Numbers without a pattern, the same ones at every run (xorshift). */
static uint64_t next_random(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void write32(struct virtio_device *device, unsigned offset, uint32_t value)
{
    *(volatile uint32_t *)(device->window + offset) = value;
}

static void write64(struct virtio_device *device, unsigned offset, uint64_t value)
{
    write32(device, offset, (uint32_t)value);
    write32(device, offset + 4, (uint32_t)(value >> 32));
}

static void clear(void *memory, size_t length)
{
    uint8_t *bytes = memory;

    while (length-- > 0)
        bytes[length] = 0;
}

/* Hands over the rings at these addresses, with this size, whatever they are. */
static void set_queue(struct virtio_device *device, unsigned queue, uint32_t size, const uint64_t addresses[3])
{
    write32(device, QUEUE_SELECT, queue);
    write32(device, QUEUE_SIZE, size);
    write64(device, QUEUE_DESCRIPTORS, addresses[0]);
    write64(device, QUEUE_AVAILABLE, addresses[1]);
    write64(device, QUEUE_USED, addresses[2]);
    write32(device, QUEUE_READY, 1);
}

static void addresses_of(const struct virtqueue_memory *ring, uint64_t addresses[3])
{
    addresses[0] = (uintptr_t)ring->descriptors;
    addresses[1] = (uintptr_t)&ring->available;
    addresses[2] = (uintptr_t)&ring->used;
}

/* A device with all its features and good rings, that does not work yet. */
static void set_up(struct virtio_device *device)
{
    virtio_negotiate(device, ~0ull);
    clear(rings, sizeof rings);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        uint64_t addresses[3];
        addresses_of(&rings[queue], addresses);
        set_queue(device, queue, ENTRIES, addresses);
    }
}

static void start(struct virtio_device *device)
{
    write32(device, STATUS, STATUS_DRIVER_OK);
}

static void kick_all(struct virtio_device *device)
{
    for (unsigned queue = 0; queue < QUEUES; queue++)
        write32(device, QUEUE_NOTIFY, queue);
}

static void describe(unsigned index, uint64_t address, uint32_t length, unsigned flags, uint16_t next)
{
    struct virtqueue_descriptor descriptor = {address, length, (uint16_t)flags, next};

    for (unsigned queue = 0; queue < QUEUES; queue++)
        rings[queue].descriptors[index] = descriptor;
}

static void offer(uint16_t head)
{
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        uint16_t index = rings[queue].available.index;
        rings[queue].available.ring[index % ENTRIES] = head;
        __asm__ volatile("" : : : "memory");
        rings[queue].available.index = (uint16_t)(index + 1);
    }
}

/* Starts with what the rings hold, kicks, and takes the device away. */
static void strike(struct virtio_device *device)
{
    start(device);
    kick_all(device);
    kick_all(device);
    virtio_reset(device);
}

static void attack_by_loops(struct virtio_device *device)
{
    for (unsigned flags = 0; flags <= WRITE; flags += WRITE) {
        set_up(device);
        describe(0, (uintptr_t)buffer, 16, flags | NEXT, 0);
        describe(1, (uintptr_t)buffer, 16, flags | NEXT, 2);
        describe(2, (uintptr_t)buffer, 16, flags | NEXT, 1);
        describe(3, (uintptr_t)buffer, 16, flags | NEXT, ENTRIES);
        describe(4, (uintptr_t)buffer, 16, flags | NEXT, UINT16_MAX);
        for (uint16_t head = 0; head < 5; head++)
            offer(head);
        strike(device);
    }
}

/* Behind the end of memory, in the windows of devices, at the interrupt controller, around the end of the space. */
static const uint64_t wild_addresses[] = {
    1ull << 40, ~0ull, ~0xfffull, 0xd0000000, 0xfee00000, 0xfec00000, (16ull << 20) - 8, 0xbffffff8, 1ull << 63,
};

static void attack_by_wild_addresses(struct virtio_device *device)
{
    const unsigned count = sizeof wild_addresses / sizeof wild_addresses[0];

    for (unsigned flags = 0; flags <= WRITE; flags += WRITE) {
        set_up(device);
        for (unsigned i = 0; i < count; i++) {
            describe(i, wild_addresses[i], 4096, flags, 0);
            describe(ENTRIES / 2 + i, (uintptr_t)buffer, 16, NEXT, (uint16_t)i);
            offer((uint16_t)i);
            offer((uint16_t)(ENTRIES / 2 + i));
        }
        strike(device);
    }
}

static void attack_by_lengths(struct virtio_device *device)
{
    static const uint32_t lengths[] = {0, 1, 11, 15, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffff000, 17 << 20};
    const unsigned count = sizeof lengths / sizeof lengths[0];

    for (unsigned flags = 0; flags <= WRITE; flags += WRITE) {
        set_up(device);
        for (unsigned i = 0; i < count; i++) {
            describe(2 * i, (uintptr_t)buffer, lengths[i], flags | NEXT, (uint16_t)(2 * i + 1));
            describe(2 * i + 1, (uintptr_t)buffer, lengths[count - 1 - i], WRITE, 0);
            offer((uint16_t)(2 * i));
        }
        strike(device);
    }
}

static void attack_by_heads(struct virtio_device *device)
{
    static const uint16_t heads[] = {ENTRIES, ENTRIES + 1, 0x7fff, 0x8000, UINT16_MAX};

    for (unsigned i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        set_up(device);
        offer(heads[i]);
        strike(device);
    }
}

static void attack_by_index_jumps(struct virtio_device *device)
{
    static const uint16_t jumps[] = {ENTRIES + 1, 0x7fff, 0x8000, UINT16_MAX};

    for (unsigned i = 0; i < sizeof jumps / sizeof jumps[0]; i++) {
        set_up(device);
        describe(0, (uintptr_t)buffer, 16, WRITE, 0);
        start(device);
        offer(0);
        kick_all(device);
        for (unsigned queue = 0; queue < QUEUES; queue++) {
            rings[queue].available.index = jumps[i];
            rings[queue].used.index = (uint16_t)~jumps[i];
        }
        kick_all(device);
        for (unsigned queue = 0; queue < QUEUES; queue++)
            rings[queue].available.index = 0;
        kick_all(device);
        virtio_reset(device);
    }
}

static void attack_by_indirect_tables(struct virtio_device *device)
{
    static const uint32_t lengths[] = {0, 1, 8, 15, 17, sizeof table, 16 * 65535, 0xfffffff0, 0xffffffff};
    const unsigned count = sizeof lengths / sizeof lengths[0];

    set_up(device);
    for (unsigned i = 0; i < ENTRIES; i++) {
        struct virtqueue_descriptor nested = {(uintptr_t)table, sizeof table, INDIRECT | (i % 2 ? NEXT : 0), 0};
        struct virtqueue_descriptor chained = {(uintptr_t)buffer, 16, NEXT, (uint16_t)(i + 1)};
        table[i] = i < ENTRIES / 2 ? nested : chained;
    }
    for (unsigned i = 0; i < count; i++) {
        describe(i, (uintptr_t)table, lengths[i], INDIRECT, 0);
        describe(count + i, (uintptr_t)table, lengths[i], INDIRECT | NEXT, 0);
        describe(2 * count + i, wild_addresses[i], lengths[i], INDIRECT | WRITE, 0);
        describe(3 * count + i, (uintptr_t)&table[ENTRIES / 2], lengths[i], INDIRECT, 0);
    }
    for (uint16_t head = 0; head < 4 * count; head++)
        offer(head);
    strike(device);
}

static void attack_by_random_rings(struct virtio_device *device)
{
    for (unsigned round = 0; round < 20; round++) {
        set_up(device);
        for (unsigned i = 0; i < ENTRIES; i++) {
            uint64_t bits = next_random();
            uint64_t address = bits % 4 ? (uintptr_t)buffer + bits % 4096 : next_random();
            /* Inside the buffer, or more than there is memory: what devices write must not be this program. */
            uint32_t length = bits % 3 ? bits % 4096 : (uint32_t)(bits >> 32) | 0x80000000;
            describe(i, address, length, bits >> 60, bits % 70);
            offer((uint16_t)(bits >> 8) % 66);
        }
        strike(device);
    }
}

static void attack_by_queue_sizes(struct virtio_device *device)
{
    static const uint32_t sizes[] = {0, 1, 3, 63, 257, 1024, 0x8000, 0xffff, 0x10000, 0x80000000, 0xffffffff};

    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t addresses[3];
        virtio_negotiate(device, ~0ull);
        addresses_of(&rings[0], addresses);
        for (unsigned queue = 0; queue < QUEUES; queue++)
            set_queue(device, queue, sizes[i], addresses);
        offer(0);
        strike(device);
    }
}

static void attack_by_ring_addresses(struct virtio_device *device)
{
    for (unsigned i = 0; i < sizeof wild_addresses / sizeof wild_addresses[0]; i++) {
        for (unsigned part = 0; part < 3; part++) {
            uint64_t addresses[3];
            virtio_negotiate(device, ~0ull);
            addresses_of(&rings[0], addresses);
            addresses[part] = wild_addresses[i];
            for (unsigned queue = 0; queue < QUEUES; queue++)
                set_queue(device, queue, ENTRIES, addresses);
            strike(device);
            /* Misaligned, and all three at one place. */
            virtio_negotiate(device, ~0ull);
            addresses[part] = addresses[(part + 1) % 3] + i;
            for (unsigned queue = 0; queue < QUEUES; queue++)
                set_queue(device, queue, ENTRIES, addresses);
            strike(device);
        }
    }
}

static void attack_by_order(struct virtio_device *device)
{
    set_up(device);
    kick_all(device); /* not started */
    for (unsigned i = 0; i < 400; i++) {
        uint64_t bits = next_random();
        static const unsigned registers[] = {STATUS, QUEUE_READY, QUEUE_SELECT, QUEUE_NOTIFY, QUEUE_SIZE, 0x024, 0x020, 0x064};
        uint32_t value = bits & 1 ? (uint32_t)(bits >> 8) % 16 : (uint32_t)(bits >> 32);
        write32(device, registers[(bits >> 4) % 8], value);
        if (i % 40 == 0) {
            set_up(device);
            start(device);
            write32(device, QUEUE_READY, 0); /* while it works */
        }
    }
    virtio_reset(device);
}

static void touch(volatile uint8_t *address, unsigned width, uint64_t value)
{
    switch (width) {
    case 1:
        *address = (uint8_t)(*address + value);
        break;
    case 2:
        *(volatile uint16_t *)address = (uint16_t)(*(volatile uint16_t *)address + value);
        break;
    case 4:
        *(volatile uint32_t *)address = (uint32_t)(*(volatile uint32_t *)address + value);
        break;
    default:
        *(volatile uint64_t *)address = *(volatile uint64_t *)address + value;
    }
}

/* Every offset by every width, aligned or not. */
static void attack_by_storm(struct virtio_device *device)
{
    for (unsigned width = 1; width <= 8; width *= 2) {
        set_up(device);
        start(device);
        for (unsigned offset = 0; offset < CONFIG + 0x40; offset++)
            touch(device->window + offset, width, next_random());
        virtio_reset(device);
    }
}

static void attack_by_configuration(struct virtio_device *device)
{
    set_up(device);
    start(device);
    for (unsigned width = 1; width <= 8; width *= 2) {
        for (unsigned offset = WINDOW_END - 16; offset + width <= WINDOW_END; offset++)
            touch(device->window + offset, width, ~0ull);
        for (unsigned i = 0; i < 100; i++)
            touch(device->window + CONFIG + next_random() % (WINDOW_END - CONFIG - 8), width, next_random());
    }
    virtio_reset(device);
}

static void attack_by_resets(struct virtio_device *device)
{
    for (unsigned round = 0; round < 100; round++) {
        set_up(device);
        for (uint16_t i = 0; i < ENTRIES; i++) {
            describe(i, (uintptr_t)buffer, 64, i % 2 ? WRITE : 0, 0);
            offer(i);
        }
        start(device);
        write32(device, QUEUE_NOTIFY, round % QUEUES);
        virtio_reset(device);
        write32(device, QUEUE_NOTIFY, round % QUEUES);
    }
}

/*
 * Ports that are only read, because a write would end the machine (keyboard controller, system control, debug exit,
 * sleep control), mute the console, or make this guest's own interrupts levels (4d0, 4d1).
 */
static bool is_read_only(unsigned port)
{
    return (port >= 0x61 && port <= 0x64) || (port >= 0x8f && port <= 0x92) || (port >= 0xf1 && port <= 0xf4) ||
           (port >= 0x3ed && port <= 0x3ff) || (port >= 0x4cd && port < 0x608);
}

static void attack_ports(void)
{
    for (unsigned port = 0; port < 0x10000; port += port < 0x1000 ? 1 : 61) {
        uint32_t value;
        __asm__ volatile("inb %w1, %b0" : "=a"(value) : "Nd"(port) : "memory");
        __asm__ volatile("inw %w1, %w0" : "=a"(value) : "Nd"(port) : "memory");
        __asm__ volatile("inl %w1, %0" : "=a"(value) : "Nd"(port) : "memory");
        if (is_read_only(port))
            continue;
        port_write8((uint16_t)port, (uint8_t)next_random());
        port_write16((uint16_t)port, (uint16_t)next_random());
        port_write32((uint16_t)port, (uint32_t)next_random());
    }
}

/* Sleep states that are none: everything but the one that powers off, which has the type 5 and the bit 0x20. */
static void attack_sleep_control(void)
{
    for (unsigned value = 0; value < 256; value++) {
        if ((value & 0x20) == 0)
            port_write8(0x604, (uint8_t)value);
        port_write8(0x605, (uint8_t)value);
    }
}

/* Physical memory that is none: behind the RAM, between the windows, around the interrupt controllers. */
static void attack_holes(void)
{
    static const uint64_t holes[] = {0x3ff00000, 0xbff00000, 0xfeb00000};
    static struct page_table tables[4];
    struct page_table_pool pool = {tables, 4};

    for (unsigned i = 0; i < sizeof holes / sizeof holes[0]; i++) {
        if (!paging_map(holes[i], PAGING_DEVICE, &pool))
            continue;
        for (unsigned round = 0; round < 200; round++) {
            volatile uint8_t *address = (volatile uint8_t *)(uintptr_t)(holes[i] + next_random() % 0xffff8);
            touch(address, 1u << (round % 4), next_random());
        }
    }
}

struct attack {
    const char *name;
    void (*on_device)(struct virtio_device *device); /* for each device */
    void (*on_machine)(void);                        /* once */
};

static const struct attack attacks[] = {
    {"loops", attack_by_loops, NULL},
    {"wild-addresses", attack_by_wild_addresses, NULL},
    {"lengths", attack_by_lengths, NULL},
    {"heads", attack_by_heads, NULL},
    {"index-jumps", attack_by_index_jumps, NULL},
    {"indirect-tables", attack_by_indirect_tables, NULL},
    {"random-rings", attack_by_random_rings, NULL},
    {"queue-sizes", attack_by_queue_sizes, NULL},
    {"ring-addresses", attack_by_ring_addresses, NULL},
    {"order", attack_by_order, NULL},
    {"storm", attack_by_storm, NULL},
    {"configuration", attack_by_configuration, NULL},
    {"resets", attack_by_resets, NULL},
    {"ports", NULL, attack_ports},
    {"sleep-control", NULL, attack_sleep_control},
    {"holes", NULL, attack_holes},
};

static const struct attack *find_attack(void)
{
    const char *name = command_line_value("attack", NULL);

    for (unsigned i = 0; name != NULL && i < sizeof attacks / sizeof attacks[0]; i++) {
        if (text_word_is(name, attacks[i].name))
            return &attacks[i];
    }
    command_line_reject("attack");
}

/* Whether the entropy device serves a driver that keeps the rules. */
static bool entropy_works(void)
{
    struct entropy_source source;
    uint8_t bytes[16] = {0};
    uint8_t any = 0;

    if (!entropy_find(&source) || !entropy_open(&source) || !entropy_read(&source, bytes, sizeof bytes))
        return false;
    for (unsigned i = 0; i < sizeof bytes; i++)
        any |= bytes[i];
    return any != 0;
}

int guest_main(void)
{
    static const enum virtio_type types[] = {
        VIRTIO_TYPE_BLOCK, VIRTIO_TYPE_NETWORK, VIRTIO_TYPE_VSOCK, VIRTIO_TYPE_ENTROPY, VIRTIO_TYPE_BALLOON,
    };
    const struct attack *attack = find_attack();

    if (attack->on_machine != NULL)
        attack->on_machine();
    for (unsigned i = 0; attack->on_device != NULL && i < sizeof types / sizeof types[0]; i++) {
        struct virtio_device device;
        if (!virtio_find(types[i], 0, &device))
            return EXIT_NO_DEVICE;
        attack->on_device(&device);
    }
    if (!entropy_works())
        return EXIT_NOT_RECOVERED;
    console_print("hostile: survived ");
    console_print(attack->name);
    console_print("\n");
    return 0;
}
