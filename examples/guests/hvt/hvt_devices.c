/*
 * hvt-devices: a guest of Solo5's hvt interface that demands a block device "storage" and a card "service".
 *
 * Checks the block device, errors included, then answers ARP for ip=A (a number) and sends every UDP datagram back, until
 * one says "quit".
 */
#include "hvt/hvt.h"

#include "machine/memory.h"
#include "machine/text.h"

HVT_MANIFEST(3, {.name = "storage", .type = HVT_BLOCK}, {.name = "service", .type = HVT_NET});

#define FOR_EVER UINT64_MAX

static int failed(const char *what)
{
    hvt_print("hvt-devices: wrong: ");
    hvt_print(what);
    hvt_print("\n");
    return 3;
}

static int check_block(const struct hvt_boot_info *info, uint64_t handle)
{
    static uint8_t written[512];
    static uint8_t seen[512];
    const struct hvt_device *device = &info->manifest->devices[handle];
    uint64_t last = device->properties.block.capacity - sizeof written;
    size_t length = sizeof seen;

    if (handle == 0 || device->properties.block.block_size != 512)
        return failed("no block device");
    for (size_t i = 0; i < sizeof written; i++)
        written[i] = (uint8_t)(i * 7 + 1);
    if (hvt_block_write(handle, last, written, sizeof written) != HVT_OK)
        return failed("write");
    if (hvt_block_read(handle, last, seen, &length) != HVT_OK || length != sizeof seen)
        return failed("read");
    if (memcmp(written, seen, sizeof seen) != 0)
        return failed("data");
    if (hvt_block_write(handle, last + sizeof written, written, sizeof written) != HVT_INVALID)
        return failed("beyond the end");
    if (hvt_block_write(handle, UINT64_MAX - 511, written, sizeof written) != HVT_INVALID)
        return failed("overflow");
    if (hvt_block_read(handle, 1, seen, &length) != HVT_INVALID)
        return failed("alignment");
    if (hvt_block_write(handle + 1, 0, written, sizeof written) != HVT_INVALID)
        return failed("a card for a disk");
    if (hvt_block_write(99, 0, written, sizeof written) != HVT_INVALID)
        return failed("handle");
    hvt_print("hvt-devices: block ok\n");
    return 0;
}

static uint16_t word_at(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static void put_word(uint8_t *bytes, uint16_t word)
{
    bytes[0] = (uint8_t)(word >> 8);
    bytes[1] = (uint8_t)word;
}

static uint32_t address_at(const uint8_t *bytes)
{
    return (uint32_t)word_at(bytes) << 16 | word_at(bytes + 2);
}

static void swap(uint8_t *one, uint8_t *other, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = one[i];
        one[i] = other[i];
        other[i] = byte;
    }
}

enum { ETHERNET = 14, ARP_LENGTH = 28, IP_HEADER = 20, UDP_HEADER = 8 };

/* Makes an ARP request for us its own answer; gives its length, 0 for others (RFC 826). */
static size_t answer_arp(uint8_t *frame, size_t length, const uint8_t *mac, uint32_t own)
{
    uint8_t *arp = frame + ETHERNET;

    if (length < ETHERNET + ARP_LENGTH || word_at(arp + 6) != 1 || address_at(arp + 24) != own)
        return 0;
    put_word(arp + 6, 2);
    memcpy(arp + 18, arp + 8, 6); /* the asker becomes the target */
    swap(arp + 14, arp + 24, 4);
    memcpy(arp + 8, mac, 6);
    memcpy(frame, arp + 18, 6);
    memcpy(frame + 6, mac, 6);
    return ETHERNET + ARP_LENGTH;
}

/* Turns a datagram for us round: addresses and ports change places, so both checksums stay what they were (RFC 768). */
static size_t answer_udp(uint8_t *frame, size_t length, uint32_t own)
{
    uint8_t *ip = frame + ETHERNET;

    if (length < ETHERNET + IP_HEADER + UDP_HEADER || ip[0] != 0x45 || ip[9] != 17 || address_at(ip + 16) != own)
        return 0;
    swap(frame, frame + 6, 6);
    swap(ip + 12, ip + 16, 4);
    swap(ip + IP_HEADER, ip + IP_HEADER + 2, 2);
    return length;
}

static int serve(const struct hvt_boot_info *info, uint64_t handle, uint32_t own)
{
    static uint8_t frame[2048];
    const uint8_t *mac = info->manifest->devices[handle].properties.net.mac;

    for (;;) {
        size_t length = sizeof frame;
        size_t answer = 0;

        if (hvt_net_read(handle, frame, &length) == HVT_AGAIN) {
            if (hvt_poll(FOR_EVER) != 1ull << handle)
                return failed("woken by something else");
            continue;
        }
        if (length < ETHERNET)
            continue;
        if (word_at(frame + 12) == 0x0806)
            answer = answer_arp(frame, length, mac, own);
        else if (word_at(frame + 12) == 0x0800)
            answer = answer_udp(frame, length, own);
        if (answer != 0 && hvt_net_write(handle, frame, answer) != HVT_OK)
            return failed("send");
        if (answer > ETHERNET + IP_HEADER + UDP_HEADER && frame[ETHERNET + IP_HEADER + UDP_HEADER] == 'q')
            return 0;
    }
}

int hvt_main(const struct hvt_boot_info *info)
{
    uint64_t disk = hvt_find(info, "storage");
    uint64_t card = hvt_find(info, "service");
    const char *address = hvt_argument(info, "ip");
    uint64_t own;
    int result = check_block(info, disk);

    if (result != 0)
        return result;
    if (card == 0 || info->manifest->devices[card].properties.net.mtu != 1500)
        return failed("no card");
    if (hvt_net_write(card, "", 4000) != HVT_INVALID)
        return failed("a frame that is too long");
    if (address == NULL || !text_parse_number(&address, &own))
        return failed("ip=");
    hvt_print("hvt-devices: serving\n");
    __asm__ volatile("outb %%al, %%dx" : : "a"(123), "d"(0x3f0));
    return serve(info, card, (uint32_t)own);
}
