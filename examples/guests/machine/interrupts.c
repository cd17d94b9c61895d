#include "machine/interrupts.h"

#include <stdint.h>

#include "machine/local_apic.h"
#include "machine/ports.h"

#define MASTER_COMMAND 0x20
#define MASTER_DATA 0x21
#define SLAVE_COMMAND 0xa0
#define SLAVE_DATA 0xa1

/* Initialisation command words of the 8259. */
#define ICW1_INITIALISE_WITH_ICW4 0x11
#define ICW4_8086_AUTOMATIC_END 0x03

#define FIRST_VECTOR 0x20 /* behind the processor's exceptions */
#define CASCADE_LINE 2

_Static_assert(INTERRUPT_VECTOR_TIMER >= FIRST_VECTOR + INTERRUPT_LINES, "each vector has one meaning");

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
static struct gate gates[INTERRUPT_VECTOR_TIMER + 1];

static uint16_t masked_lines = 0xffff;

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

void interrupts_set_entry(unsigned vector, const char *entry)
{
    uint64_t address = (uint64_t)entry;

    gates[vector] = (struct gate){
        .offset_low = (uint16_t)address,
        .selector = code_selector(),
        .attributes = GATE_INTERRUPT,
        .offset_middle = (uint16_t)(address >> 16),
        .offset_high = (uint32_t)(address >> 32),
    };
}

void interrupts_start(void)
{
    struct table_pointer pointer = {sizeof gates - 1, (uint64_t)gates};

    for (unsigned line = 0; line < INTERRUPT_LINES; line++)
        interrupts_set_entry(FIRST_VECTOR + line, interrupt_entry);
    __asm__ volatile("lidt %0" : : "m"(pointer), "m"(gates));
    start_controllers();
    local_apic_start();
}

void interrupts_unmask(unsigned line)
{
    masked_lines &= (uint16_t)~(1u << line | 1u << CASCADE_LINE);
    write_masks();
}
