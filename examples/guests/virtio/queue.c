#include "virtio/queue.h"

#define AVAILABLE_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

/* Orders earlier writes before later reads; x86 keeps every other order that a queue needs by itself. */
static inline void full_barrier(void)
{
    __asm__ volatile("lock; addq $0, (%%rsp)" : : : "memory", "cc");
}

static inline void compiler_barrier(void)
{
    __asm__ volatile("" : : : "memory");
}

/* The index at which the driver wants an interrupt, behind the available ring (§2.7.6). */
static volatile uint16_t *used_event(struct virtqueue *queue)
{
    return &queue->memory->available.ring[queue->size];
}

/* The index at which the device wants a notification, in the first two bytes behind the used ring (§2.7.8). */
static uint16_t available_event(struct virtqueue *queue)
{
    return (uint16_t)queue->memory->used.ring[queue->size].id;
}

void virtqueue_prepare(struct virtqueue *queue, struct virtqueue_memory *memory, uint16_t size, bool event_index)
{
    *queue = (struct virtqueue){.memory = memory, .size = size, .event_index = event_index};
    /* What the device of an earlier use left here must not speak for the next one. */
    memory->available.index = 0;
    memory->used.flags = 0;
    memory->used.index = 0;
    memory->used.ring[size].id = 0;
    virtqueue_disable_interrupts(queue);
}

void virtqueue_describe(struct virtqueue *queue, uint16_t id, struct virtqueue_descriptor descriptor)
{
    volatile struct virtqueue_descriptor *entry = &queue->memory->descriptors[id];

    entry->address = descriptor.address;
    entry->length = descriptor.length;
    entry->flags = descriptor.flags;
    entry->next = descriptor.next;
}

void virtqueue_offer(struct virtqueue *queue, uint16_t head)
{
    queue->memory->available.ring[queue->available_index & (queue->size - 1)] = head;
    compiler_barrier();
    queue->memory->available.index = ++queue->available_index;
}

void virtqueue_offer_all(struct virtqueue *queue)
{
    for (uint16_t id = 0; id < queue->size; id++)
        queue->memory->available.ring[id] = id;
    compiler_barrier();
    queue->available_index = queue->size;
    queue->memory->available.index = queue->size;
}

bool virtqueue_take(struct virtqueue *queue, struct virtqueue_used_element *element)
{
    while (queue->memory->used.index != queue->used_index) {
        const volatile struct virtqueue_used_element *entry;

        compiler_barrier();
        entry = &queue->memory->used.ring[queue->used_index & (queue->size - 1)];
        element->id = entry->id;
        element->length = entry->length;
        queue->used_index++;
        if (element->id < queue->size)
            return true;
    }
    return false;
}

bool virtqueue_needs_notification(struct virtqueue *queue)
{
    uint16_t offered = queue->available_index - queue->notified_index;

    if (offered == 0)
        return false;
    queue->notified_index = queue->available_index;
    full_barrier();
    if (!queue->event_index)
        return (queue->memory->used.flags & USED_NO_NOTIFY) == 0;
    return (uint16_t)(queue->available_index - available_event(queue) - 1) < offered;
}

bool virtqueue_enable_interrupts(struct virtqueue *queue)
{
    queue->memory->available.flags = 0;
    *used_event(queue) = queue->used_index;
    full_barrier();
    return queue->memory->used.index == queue->used_index;
}

/* With event indices the device asks for the index alone; the one just passed comes again after 65,535 chains. */
void virtqueue_disable_interrupts(struct virtqueue *queue)
{
    if (queue->event_index)
        *used_event(queue) = queue->used_index - 1;
    else
        queue->memory->available.flags = AVAILABLE_NO_INTERRUPT;
}
