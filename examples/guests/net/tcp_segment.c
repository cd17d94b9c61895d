#include "net/tcp_segment.h"

#include "machine/memory.h"
#include "net/checksum.h"

/* The largest segment it receives: an Ethernet frame less the IPv4 and TCP headers. */
#define RECEIVE_BYTES_MAXIMUM 1460

#define OPTION_MAXIMUM_SEGMENT 2

struct tcp_header {
    struct big_endian16 source_port;
    struct big_endian16 destination_port;
    struct big_endian32 sequence;
    struct big_endian32 acknowledgment;
    uint8_t words; /* the header's length in 32-bit words, in the high four bits */
    uint8_t flags;
    struct big_endian16 window;
    uint16_t checksum;
    struct big_endian16 urgent;
} __attribute__((packed));

struct tcp_segment_size_option {
    uint8_t kind;
    uint8_t length;
    struct big_endian16 bytes;
} __attribute__((packed));

/* The sum over the pseudo-header: both addresses, the protocol, and the segment's length. */
static uint64_t pseudo_header_sum(uint32_t peer_address, size_t length)
{
    return (uint64_t)to_big_endian32(peer_address).raw + to_big_endian32(ipv4_own_address()).raw +
           to_big_endian16(IPV4_PROTOCOL_TCP).raw + to_big_endian16((uint16_t)length).raw;
}

bool tcp_segment_parse(const struct ipv4_packet *packet, struct tcp_segment *segment)
{
    const struct tcp_header *header = (const void *)packet->payload;
    size_t header_length;

    if (packet->length < sizeof *header)
        return false;
    header_length = (size_t)(header->words >> 4) * 4;
    if (header_length < sizeof *header || header_length > packet->length)
        return false;
    if (!packet->checksum_verified) {
        uint64_t sum = pseudo_header_sum(packet->source.address, packet->length);
        if (checksum_fold(checksum_add(sum, header, packet->length)) != CHECKSUM_RIGHT)
            return false;
    }
    *segment = (struct tcp_segment){
        .ends = {packet->source, from_big_endian16(header->source_port), from_big_endian16(header->destination_port)},
        .sequence = from_big_endian32(header->sequence),
        .acknowledgment = from_big_endian32(header->acknowledgment),
        .window = from_big_endian16(header->window),
        .flags = header->flags,
        .data = packet->payload + header_length,
        .length = packet->length - header_length,
    };
    return true;
}

uint32_t tcp_segment_span(const struct tcp_segment *segment)
{
    return (uint32_t)segment->length + ((segment->flags & TCP_SYN) != 0) + ((segment->flags & TCP_FIN) != 0);
}

/* Only a segment that opens a connection has an option; it has no data. */
static size_t write_options(const struct tcp_segment *segment, void *options)
{
    struct tcp_segment_size_option *option = options;

    if ((segment->flags & TCP_SYN) == 0)
        return 0;
    *option = (struct tcp_segment_size_option){
        .kind = OPTION_MAXIMUM_SEGMENT,
        .length = sizeof *option,
        .bytes = to_big_endian16(RECEIVE_BYTES_MAXIMUM),
    };
    return sizeof *option;
}

void tcp_segment_send(const struct tcp_segment *segment)
{
    struct tcp_header *header = ipv4_begin(&segment->ends.peer);
    size_t header_length = sizeof *header;
    size_t length;
    uint64_t sum;

    if (header == NULL)
        return;
    header_length += write_options(segment, header + 1);
    *header = (struct tcp_header){
        .source_port = to_big_endian16(segment->ends.own_port),
        .destination_port = to_big_endian16(segment->ends.peer_port),
        .sequence = to_big_endian32(segment->sequence),
        .acknowledgment = to_big_endian32(segment->acknowledgment),
        .words = (uint8_t)(header_length / 4 << 4),
        .flags = segment->flags,
        .window = to_big_endian16((uint16_t)segment->window),
    };
    if (segment->length != 0)
        memcpy((uint8_t *)header + header_length, segment->data, segment->length);
    length = header_length + segment->length;
    sum = pseudo_header_sum(segment->ends.peer.address, length);
    if (net_completes_checksums()) {
        header->checksum = checksum_fold(sum);
        ipv4_send_partial_checksum(IPV4_PROTOCOL_TCP, length, offsetof(struct tcp_header, checksum));
    } else {
        header->checksum = checksum_finish(checksum_add(sum, header, length));
        ipv4_send(IPV4_PROTOCOL_TCP, length);
    }
}
