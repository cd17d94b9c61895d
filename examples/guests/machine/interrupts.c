#include "machine/interrupts.h"

#include <stdint.h>

#include "machine/paging.h"
#include "machine/ports.h"

#define MASTER_COMMAND 0x20
#define MASTER_DATA 0x21
#define SLAVE_COMMAND 0xa0
#define SLAVE_DATA 0xa1

/* Initialisation command words of the 8259. */
#define ICW1_INITIALISE_WITH_ICW4 0x11
#define ICW4_8086_AUTOMATIC_END 0x03

#define FIRST_VECTOR 0x20 /* after the processor's exceptions */
#define CASCADE_LINE 2

/* The local APIC (Intel SDM volume 3, chapter 11), which stands between the 8259 and the processor. */
#define LOCAL_APIC 0xfee00000
#define LOCAL_APIC_SPURIOUS_VECTOR 0x0f0
#define LOCAL_APIC_LINT0 0x350
#define SPURIOUS_VECTOR_ENABLED 0x1ff /* software-enabled; vector 255, which nothing here can raise */
#define LINT0_EXTERNAL 0x700         /* the vector is asked of the 8259; not masked */
#define LINT0_MASKED 0x10000
#define LINT0_MODE 0x700

#define GATE_INTERRUPT 0x8e00 /* present, ring 0, 64-bit interrupt gate */

struct gate {
    uint16_t offset_low;
    uint16_t selector;
    uint16_t attributes;
    uint16_t offset_middle;
    uint32_t offset_high;
    uint32_t reserved;
};

struct table_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

/*
 * The exceptions' gates stay empty on purpose: a guest that faults ends in a triple fault, which the host sees with the
 * registers of the faulting instruction.
 */
static struct gate gates[FIRST_VECTOR + INTERRUPT_LINES];

static uint16_t masked_lines = 0xffff;

static struct page_table local_apic_table;

/* In interrupt_entry.S. */
extern const char interrupt_entry[];

static uint16_t code_selector(void)
{
    uint16_t selector;
    __asm__("mov %%cs, %0" : "=r"(selector));
    return selector;
}

static void write_masks(void)
{
    port_write8(MASTER_DATA, (uint8_t)masked_lines);
    port_write8(SLAVE_DATA, (uint8_t)(masked_lines >> 8));
}

static void start_controllers(void)
{
    port_write8(MASTER_COMMAND, ICW1_INITIALISE_WITH_ICW4);
    port_write8(MASTER_DATA, FIRST_VECTOR);
    port_write8(MASTER_DATA, 1 << CASCADE_LINE);
    port_write8(MASTER_DATA, ICW4_8086_AUTOMATIC_END);
    port_write8(SLAVE_COMMAND, ICW1_INITIALISE_WITH_ICW4);
    port_write8(SLAVE_DATA, FIRST_VECTOR + 8);
    port_write8(SLAVE_DATA, CASCADE_LINE);
    port_write8(SLAVE_DATA, ICW4_8086_AUTOMATIC_END);
    write_masks();
}

static volatile uint32_t *local_apic(unsigned offset)
{
    return (volatile uint32_t *)(uintptr_t)(LOCAL_APIC + offset);
}

/*
 * Lets the 8259 through the local APIC. Some machines have done so before the guest begins, others leave it to a
 * firmware that bare guests do not have. While an APIC is disabled by software its entries cannot be unmasked.
 */
static void connect_controllers(void)
{
    struct page_table_pool pool = {&local_apic_table, 1};

    if (!paging_map(LOCAL_APIC, PAGING_DEVICE, &pool))
        return;
    if ((*local_apic(LOCAL_APIC_LINT0) & (LINT0_MASKED | LINT0_MODE)) == LINT0_EXTERNAL)
        return;
    *local_apic(LOCAL_APIC_SPURIOUS_VECTOR) = SPURIOUS_VECTOR_ENABLED;
    *local_apic(LOCAL_APIC_LINT0) = LINT0_EXTERNAL;
}

void interrupts_start(void)
{
    uint64_t entry = (uint64_t)interrupt_entry;
    struct table_pointer pointer = {sizeof gates - 1, (uint64_t)gates};
    struct gate gate = {
        .offset_low = (uint16_t)entry,
        .selector = code_selector(),
        .attributes = GATE_INTERRUPT,
        .offset_middle = (uint16_t)(entry >> 16),
        .offset_high = (uint32_t)(entry >> 32),
    };

    for (unsigned line = 0; line < INTERRUPT_LINES; line++)
        gates[FIRST_VECTOR + line] = gate;
    __asm__ volatile("lidt %0" : : "m"(pointer), "m"(gates));
    start_controllers();
    connect_controllers();
}

void interrupts_unmask(unsigned line)
{
    masked_lines &= (uint16_t)~(1u << line | 1u << CASCADE_LINE);
    write_masks();
}
