#include "net/icmp.h"

#include "machine/memory.h"
#include "net/checksum.h"

#define TYPE_ECHO_REPLY 0
#define TYPE_ECHO_REQUEST 8

struct icmp_header {
    uint8_t type;
    uint8_t code;
    uint16_t checksum;
    uint32_t identifier_and_sequence;
} __attribute__((packed));

/* The longest message that fits an Ethernet frame behind an IPv4 header. */
#define MESSAGE_BYTES_MAXIMUM 1480

/*
 * The reply is the request but for its type, so its checksum follows from the request's (RFC 1624) and need not be
 * summed; a wrong one stays wrong, and the peer drops it.
 */
void icmp_input(const struct ipv4_packet *packet)
{
    const struct icmp_header *request = (const void *)packet->payload;
    struct icmp_header *reply;

    if (packet->length < sizeof *request || packet->length > MESSAGE_BYTES_MAXIMUM)
        return;
    if (request->type != TYPE_ECHO_REQUEST || request->code != 0)
        return;
    reply = ipv4_begin(&packet->source);
    if (reply == NULL)
        return;
    memcpy(reply, request, packet->length);
    reply->type = TYPE_ECHO_REPLY;
    reply->checksum = checksum_fold((uint64_t)request->checksum + TYPE_ECHO_REQUEST);
    ipv4_send(IPV4_PROTOCOL_ICMP, packet->length);
}
