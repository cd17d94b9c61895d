#include "net/ipv4.h"

#include "net/checksum.h"
#include "net/icmp.h"
#include "net/tcp.h"

#define VERSION_4_NO_OPTIONS 0x45
#define TIME_TO_LIVE 64

#define FRAGMENT_DONT 0x4000
#define FRAGMENT_MORE_OR_OFFSET 0x3fff

struct ipv4_header {
    uint8_t version_and_words;
    uint8_t service;
    struct big_endian16 total_length;
    struct big_endian16 identification;
    struct big_endian16 fragment;
    uint8_t time_to_live;
    uint8_t protocol;
    uint16_t checksum;
    struct big_endian32 source;
    struct big_endian32 destination;
} __attribute__((packed));

static uint32_t own_address;
static uint32_t host_mask; /* the bits that tell hosts of the subnet apart */

/* The packet begun. */
static struct ipv4_header *outgoing;

bool ipv4_configure(uint32_t address, unsigned prefix_bits)
{
    if (prefix_bits > 32)
        return false;
    own_address = address;
    host_mask = prefix_bits == 32 ? 0 : UINT32_MAX >> prefix_bits;
    return true;
}

uint32_t ipv4_own_address(void)
{
    return own_address;
}

/* Nothing may be answered that would make the guest flood a subnet, a group or itself (RFC 1122 §3.2.1.3). */
static bool may_be_answered(uint32_t source)
{
    uint32_t first_byte = source >> 24;
    bool is_subnet_broadcast = host_mask > 1 && source == (own_address | host_mask);

    return first_byte != 0 && first_byte != 127 && first_byte < 224 && source != own_address && !is_subnet_broadcast;
}

/* The header's length when the whole packet is there and in order, otherwise 0. */
static size_t check_header(const struct ipv4_header *header, size_t length)
{
    size_t header_length;
    size_t total_length;

    if (length < sizeof *header || header->version_and_words >> 4 != 4)
        return 0;
    header_length = (header->version_and_words & 0xfu) * 4;
    total_length = from_big_endian16(header->total_length);
    if (header_length < sizeof *header || total_length < header_length || total_length > length)
        return 0;
    if ((from_big_endian16(header->fragment) & FRAGMENT_MORE_OR_OFFSET) != 0)
        return 0;
    if (checksum_fold(checksum_add(0, header, header_length)) != CHECKSUM_RIGHT)
        return 0;
    return header_length;
}

void ipv4_input(const struct ethernet_address *link, const uint8_t *packet, size_t length, bool checksum_verified)
{
    const struct ipv4_header *header = (const void *)packet;
    size_t header_length = check_header(header, length);
    struct ipv4_packet input;

    if (header_length == 0 || from_big_endian32(header->destination) != own_address)
        return;
    input = (struct ipv4_packet){
        .source = {*link, from_big_endian32(header->source)},
        .payload = packet + header_length,
        .length = from_big_endian16(header->total_length) - header_length,
        .checksum_verified = checksum_verified,
    };
    if (!may_be_answered(input.source.address))
        return;
    switch (header->protocol) {
    case IPV4_PROTOCOL_ICMP:
        icmp_input(&input);
        break;
    case IPV4_PROTOCOL_TCP:
        tcp_input(&input);
        break;
    }
}

void *ipv4_begin(const struct ipv4_peer *destination)
{
    outgoing = ethernet_begin(&destination->link, ETHERNET_TYPE_IPV4);
    if (outgoing == NULL)
        return NULL;
    outgoing->destination = to_big_endian32(destination->address);
    return outgoing + 1;
}

/* The identification stays 0: it has no meaning in a packet that is never fragmented (RFC 6864 §4.1). */
static void finish_header(uint8_t protocol, size_t length)
{
    outgoing->version_and_words = VERSION_4_NO_OPTIONS;
    outgoing->service = 0;
    outgoing->total_length = to_big_endian16((uint16_t)(sizeof *outgoing + length));
    outgoing->identification = to_big_endian16(0);
    outgoing->fragment = to_big_endian16(FRAGMENT_DONT);
    outgoing->time_to_live = TIME_TO_LIVE;
    outgoing->protocol = protocol;
    outgoing->checksum = 0;
    outgoing->source = to_big_endian32(own_address);
    outgoing->checksum = checksum_finish(checksum_add(0, outgoing, sizeof *outgoing));
}

void ipv4_send(uint8_t protocol, size_t length)
{
    finish_header(protocol, length);
    ethernet_send(sizeof *outgoing + length);
}

void ipv4_send_partial_checksum(uint8_t protocol, size_t length, uint16_t field)
{
    finish_header(protocol, length);
    ethernet_send_partial_checksum(sizeof *outgoing + length, sizeof *outgoing, field);
}
