/*
 * What makes a clone of a running guest another one than its siblings: random bits, an identifier, the time, addresses.
 *
 * "identity=ADDRESS@PORT" on the command line names a record in memory and a port. A guest that looks at the record
 * writes to the port which parts of it it can use, and, when the record has changed and has been used, the record's
 * generation. The record changes only while the guest does not run; every device raises its interrupt afterwards.
 */
#ifndef MACHINE_IDENTITY_H
#define MACHINE_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

/* The parts of a record, as bits. */
#define IDENTITY_ENTROPY 1u
#define IDENTITY_ID 2u
#define IDENTITY_CLOCK 4u
#define IDENTITY_LINK_ADDRESS 8u
#define IDENTITY_ADDRESS 16u

#define IDENTITY_ENTROPY_BYTES 32
#define IDENTITY_ID_BYTES 16

struct identity_record {
    uint32_t magic;
    uint32_t version;
    uint32_t generation; /* 0: this is the original */
    uint32_t parts;      /* those that are given */
    uint8_t entropy[IDENTITY_ENTROPY_BYTES];
    uint8_t id[IDENTITY_ID_BYTES];
    uint64_t clock; /* nanoseconds since 1970-01-01 UTC, when the record was written */
    uint8_t link_address[6];
    uint8_t prefix_bits;
    uint8_t reserved;
    uint8_t address[4]; /* IPv4, in the order in which it is sent */
    uint8_t gateway[4]; /* 0.0.0.0: none */
};

_Static_assert(sizeof(struct identity_record) == 88, "the record's layout is fixed");

/* Says which parts this guest can use. Nothing happens on a machine that names no record. */
void identity_start(uint32_t parts);

/* The record, if it was changed since the last call and its parts are to be used now, otherwise NULL. */
const struct identity_record *identity_take(void);

/* Says that what identity_take() gave is in use. */
void identity_confirm(void);

#endif
