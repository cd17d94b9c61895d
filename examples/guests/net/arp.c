#include "net/arp.h"

#include "net/ethernet.h"
#include "net/ipv4.h"

#define HARDWARE_ETHERNET 1
#define OPERATION_REQUEST 1
#define OPERATION_REPLY 2

struct arp_packet {
    struct big_endian16 hardware_type;
    struct big_endian16 protocol_type;
    uint8_t hardware_length;
    uint8_t protocol_length;
    struct big_endian16 operation;
    struct ethernet_address sender;
    struct big_endian32 sender_ipv4;
    struct ethernet_address target;
    struct big_endian32 target_ipv4;
} __attribute__((packed));

static void send(uint16_t operation, const struct ethernet_address *target, uint32_t target_ipv4)
{
    struct arp_packet *packet =
        ethernet_begin(operation == OPERATION_REPLY ? target : &ethernet_broadcast, ETHERNET_TYPE_ARP);

    if (packet == NULL)
        return;
    *packet = (struct arp_packet){
        .hardware_type = to_big_endian16(HARDWARE_ETHERNET),
        .protocol_type = to_big_endian16(ETHERNET_TYPE_IPV4),
        .hardware_length = sizeof(struct ethernet_address),
        .protocol_length = sizeof(struct big_endian32),
        .operation = to_big_endian16(operation),
        .sender = *ethernet_own_address(),
        .sender_ipv4 = to_big_endian32(ipv4_own_address()),
        .target = *target,
        .target_ipv4 = to_big_endian32(target_ipv4),
    };
    ethernet_send(sizeof *packet);
}

void arp_input(const uint8_t *packet, size_t length)
{
    const struct arp_packet *request = (const void *)packet;

    if (length < sizeof *request)
        return;
    if (from_big_endian16(request->hardware_type) != HARDWARE_ETHERNET ||
        from_big_endian16(request->protocol_type) != ETHERNET_TYPE_IPV4 ||
        request->hardware_length != sizeof(struct ethernet_address) ||
        request->protocol_length != sizeof(struct big_endian32))
        return;
    if (from_big_endian16(request->operation) != OPERATION_REQUEST ||
        from_big_endian32(request->target_ipv4) != ipv4_own_address())
        return;
    send(OPERATION_REPLY, &request->sender, from_big_endian32(request->sender_ipv4));
}

void arp_announce(void)
{
    static const struct ethernet_address nobody;

    send(OPERATION_REQUEST, &nobody, ipv4_own_address());
}
