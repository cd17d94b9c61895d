#include "virtio/mmio.h"

#include <stddef.h>

#include "machine/command_line.h"
#include "machine/interrupts.h"
#include "machine/paging.h"
#include "machine/text.h"

/* Registers, virtio 1.3 §4.2.2. */
enum mmio_register {
    MAGIC = 0x000,
    VERSION = 0x004,
    DEVICE_ID = 0x008,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SELECT = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SELECT = 0x024,
    QUEUE_SELECT = 0x030,
    QUEUE_SIZE_MAXIMUM = 0x034,
    QUEUE_SIZE = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    INTERRUPT_ACKNOWLEDGE = 0x064,
    STATUS = 0x070,
    QUEUE_DESCRIPTORS = 0x080,
    QUEUE_AVAILABLE = 0x090,
    QUEUE_USED = 0x0a0,
    CONFIG_GENERATION = 0x0fc,
    CONFIG = 0x100,
};

#define MAGIC_VALUE 0x74726976 /* "virt" */
#define MODERN_VERSION 2
#define WINDOW_BYTES_MINIMUM 0x200

/* Device status bits, virtio 1.3 §2.1. */
#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8

/* Interrupt causes, virtio 1.3 §4.2.2: used buffers and a changed configuration. */
#define INTERRUPT_ALL_CAUSES 3

/* Enough for windows in four different GiB. */
static struct page_table tables[4];
static struct page_table_pool table_pool = {tables, 4};

static uint32_t read_register(const struct virtio_device *device, enum mmio_register offset)
{
    return *(const volatile uint32_t *)(device->window + offset);
}

static void write_register(struct virtio_device *device, enum mmio_register offset, uint32_t value)
{
    *(volatile uint32_t *)(device->window + offset) = value;
}

static void write_address(struct virtio_device *device, enum mmio_register offset, const volatile void *address)
{
    write_register(device, offset, (uint32_t)(uintptr_t)address);
    write_register(device, offset + 4, (uint32_t)((uintptr_t)address >> 32));
}

/* Reads SIZE@ADDRESS:INTERRUPT; false when the words are not that, or no driver here could use the device. */
static bool parse_announcement(const char *words, struct virtio_device *device)
{
    uint64_t bytes;
    uint64_t address;
    uint64_t interrupt;

    if (!text_parse_size(&words, &bytes) || *words++ != '@')
        return false;
    if (!text_parse_number(&words, &address) || *words++ != ':')
        return false;
    if (!text_parse_number(&words, &interrupt) || interrupt >= INTERRUPT_LINES || bytes < WINDOW_BYTES_MINIMUM)
        return false;
    device->window = (volatile uint8_t *)address;
    device->interrupt = (unsigned)interrupt;
    return paging_map(address, PAGING_DEVICE, &table_pool);
}

bool virtio_find(enum virtio_type type, unsigned position, struct virtio_device *device)
{
    const char *words = NULL;

    while ((words = command_line_value("virtio_mmio.device", words)) != NULL) {
        if (!parse_announcement(words, device) || read_register(device, DEVICE_ID) != type)
            continue;
        if (position-- == 0)
            return true;
    }
    return false;
}

void virtio_reset(struct virtio_device *device)
{
    write_register(device, STATUS, 0);
    while (read_register(device, STATUS) != 0)
        ;
}

static uint64_t read_offered_features(struct virtio_device *device)
{
    uint64_t low;

    write_register(device, DEVICE_FEATURES_SELECT, 0);
    low = read_register(device, DEVICE_FEATURES);
    write_register(device, DEVICE_FEATURES_SELECT, 1);
    return (uint64_t)read_register(device, DEVICE_FEATURES) << 32 | low;
}

static void write_accepted_features(struct virtio_device *device)
{
    write_register(device, DRIVER_FEATURES_SELECT, 0);
    write_register(device, DRIVER_FEATURES, (uint32_t)device->features);
    write_register(device, DRIVER_FEATURES_SELECT, 1);
    write_register(device, DRIVER_FEATURES, (uint32_t)(device->features >> 32));
}

bool virtio_negotiate(struct virtio_device *device, uint64_t wanted_features)
{
    if (read_register(device, MAGIC) != MAGIC_VALUE || read_register(device, VERSION) != MODERN_VERSION)
        return false;
    virtio_reset(device);
    write_register(device, STATUS, STATUS_ACKNOWLEDGE);
    write_register(device, STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    device->features = read_offered_features(device) & (wanted_features | VIRTIO_F_VERSION_1);
    if ((device->features & VIRTIO_F_VERSION_1) == 0)
        return false;
    write_accepted_features(device);
    write_register(device, STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    return (read_register(device, STATUS) & STATUS_FEATURES_OK) != 0;
}

bool virtio_add_queue(struct virtio_device *device, unsigned index, struct virtqueue *queue,
                      struct virtqueue_memory *memory)
{
    uint32_t size;

    write_register(device, QUEUE_SELECT, index);
    size = read_register(device, QUEUE_SIZE_MAXIMUM);
    if (size == 0)
        return false;
    if (size > VIRTQUEUE_SIZE_MAXIMUM)
        size = VIRTQUEUE_SIZE_MAXIMUM;
    while ((size & (size - 1)) != 0)
        size &= size - 1;
    virtqueue_prepare(queue, memory, (uint16_t)size, (device->features & VIRTIO_F_EVENT_IDX) != 0);
    write_register(device, QUEUE_SIZE, size);
    write_address(device, QUEUE_DESCRIPTORS, &memory->descriptors);
    write_address(device, QUEUE_AVAILABLE, &memory->available);
    write_address(device, QUEUE_USED, &memory->used);
    write_register(device, QUEUE_READY, 1);
    return true;
}

void virtio_start(struct virtio_device *device)
{
    interrupts_unmask(device->interrupt);
    write_register(device, STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

/* All causes at once, without reading which: no driver here acts on a changed configuration, and a read is an exit. */
void virtio_acknowledge_interrupt(struct virtio_device *device)
{
    write_register(device, INTERRUPT_ACKNOWLEDGE, INTERRUPT_ALL_CAUSES);
}

void virtio_notify(struct virtio_device *device, unsigned index)
{
    write_register(device, QUEUE_NOTIFY, index);
}

struct virtqueue_used_element virtio_execute(struct virtio_device *device, unsigned index, struct virtqueue *queue)
{
    struct virtqueue_used_element used;

    if (virtqueue_needs_notification(queue))
        virtio_notify(device, index);
    while (!virtqueue_take(queue, &used)) {
        if (!virtqueue_enable_interrupts(queue))
            continue;
        interrupts_wait();
        virtio_acknowledge_interrupt(device);
    }
    virtqueue_disable_interrupts(queue);
    return used;
}

uint8_t virtio_config_read8(const struct virtio_device *device, unsigned offset)
{
    return *(device->window + CONFIG + offset);
}

uint32_t virtio_config_read32(const struct virtio_device *device, unsigned offset)
{
    return *(const volatile uint32_t *)(device->window + CONFIG + offset);
}

/* Two accesses, so the halves may belong to different configurations until the generation holds still (§2.5.4). */
uint64_t virtio_config_read64(const struct virtio_device *device, unsigned offset)
{
    uint32_t generation;
    uint64_t low;
    uint64_t high;

    do {
        generation = read_register(device, CONFIG_GENERATION);
        low = virtio_config_read32(device, offset);
        high = virtio_config_read32(device, offset + 4);
    } while (read_register(device, CONFIG_GENERATION) != generation);
    return high << 32 | low;
}
