/*
 * clone-check: tells clones of a running guest apart, and a clone from a guest that was started anew.
 *
 * For each line of console input it prints what it is made of, all of which it keeps in memory alone: a nonce that is
 * drawn once, at the start; how many lines there were; and random numbers, an identifier and the time, which a clone is
 * given anew.
 */
#include "machine/boot.h"
#include "machine/console.h"
#include "machine/identity.h"
#include "machine/interrupts.h"
#include "machine/memory.h"
#include "machine/power.h"
#include "machine/time_stamp.h"

struct random {
    uint64_t state;
};

/* SplitMix64 (Steele, Lea and Flood, 2014). Not fit for secrets; a clone with the same state gives the same numbers. */
static uint64_t random_next(struct random *random)
{
    uint64_t mixed = random->state += 0x9e3779b97f4a7c15;

    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

static struct random generator;
static uint64_t nonce;
static uint64_t lines;
static uint32_t generation;
static uint8_t id[IDENTITY_ID_BYTES];
static uint64_t clock;

static void print_number64(const char *name, uint64_t number)
{
    uint8_t bytes[sizeof number];

    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(number >> (8 * (sizeof bytes - 1 - i)));
    console_print(name);
    console_print_hexadecimal(bytes, sizeof bytes);
}

static void print_decimal(const char *name, uint64_t number)
{
    console_print(name);
    console_print_number(number);
}

static void report(void)
{
    print_number64("clone-check: nonce=", nonce);
    print_decimal(" line=", ++lines);
    print_decimal(" generation=", generation);
    print_number64(" random=", random_next(&generator));
    console_print(" id=");
    console_print_hexadecimal(id, sizeof id);
    print_decimal(" clock=", clock);
    console_print("\n");
}

static void become(const struct identity_record *identity)
{
    uint64_t words[IDENTITY_ENTROPY_BYTES / sizeof(uint64_t)];

    memcpy(words, identity->entropy, sizeof words);
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
        generator.state ^= words[i];
        random_next(&generator);
    }
    memcpy(id, identity->id, sizeof id);
    clock = identity->clock;
    generation = identity->generation;
    identity_confirm();
}

int guest_main(void)
{
    generator.state = time_stamp();
    nonce = random_next(&generator);
    interrupts_start();
    console_enable_input();
    identity_start(IDENTITY_ENTROPY | IDENTITY_ID | IDENTITY_CLOCK);
    power_report_ready();
    for (;;) {
        const struct identity_record *identity = identity_take();
        char byte;
        if (identity != NULL)
            become(identity);
        if (!console_read(&byte))
            interrupts_wait();
        else if (byte == '\n')
            report();
    }
}
