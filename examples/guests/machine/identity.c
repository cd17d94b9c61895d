#include "machine/identity.h"

#include <stddef.h>

#include "machine/command_line.h"
#include "machine/ports.h"
#include "machine/text.h"

#define MAGIC 0x44494253 /* "SBID" */
#define VERSION 1

/* Written to the port with the parts that are used; a generation has this bit clear. */
#define SUBSCRIPTION (1u << 31)

static const volatile struct identity_record *record;
static uint16_t port;
static uint32_t known_generation;

void identity_start(uint32_t parts)
{
    const char *value = command_line_value("identity", NULL);
    uint64_t address;
    uint64_t port_number;

    if (value == NULL)
        return;
    if (!text_parse_number(&value, &address) || *value++ != '@' || !text_parse_number(&value, &port_number) ||
        port_number > UINT16_MAX || !text_is_end_of_word(*value))
        command_line_reject("identity");
    record = (const volatile struct identity_record *)address;
    port = (uint16_t)port_number;
    known_generation = record->generation;
    port_write32(port, SUBSCRIPTION | parts);
}

const struct identity_record *identity_take(void)
{
    if (record == NULL || record->generation == known_generation)
        return NULL;
    if (record->magic != MAGIC || record->version != VERSION)
        return NULL;
    known_generation = record->generation;
    return (const struct identity_record *)record;
}

void identity_confirm(void)
{
    port_write32(port, known_generation);
}
