/*
 * identity-agent: makes a clone of a running Linux guest another one than its siblings.
 *
 * Linux repeats its random numbers in every clone unless somebody tells it (kernels with CONFIG_VMGENID are told by the
 * machine). This program, started by init, holds a connection to the machine by a vsock. In a clone that is reset; the
 * program then connects anew and is sent an identity record (the layout is that of machine/identity.h):
 *
 *   random bits   are added to the kernel's, and its generator is re-seeded at once
 *   identifier    becomes the host name, and is written to /run/sandbox-id, a file that anybody can watch
 *   time          becomes the system's, unless that is later
 *   addresses     become those of the first network card
 *
 * It confirms the record when all that it was given is in effect. It needs root, and a kernel with vsocks and virtio.
 *
 *   gcc -O2 -static -o identity-agent identity-agent.c
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IDENTITY_PORT 0x53424944
#define MAGIC 0x44494253
#define VERSION 1

#define PART_ENTROPY 1u
#define PART_ID 2u
#define PART_CLOCK 4u
#define PART_LINK_ADDRESS 8u
#define PART_ADDRESS 16u
#define ALL_PARTS (PART_ENTROPY | PART_ID | PART_CLOCK | PART_LINK_ADDRESS | PART_ADDRESS)
#define SUBSCRIPTION (1u << 31)

/* The card that addresses are given to. */
#define INTERFACE "eth0"
#define ID_FILE "/run/sandbox-id"

struct identity_record {
	uint32_t magic;
	uint32_t version;
	uint32_t generation;
	uint32_t parts;
	uint8_t entropy[32];
	uint8_t id[16];
	uint64_t clock;
	uint8_t link_address[6];
	uint8_t prefix_bits;
	uint8_t reserved;
	struct in_addr address;
	struct in_addr gateway;
};

_Static_assert(sizeof(struct identity_record) == 88, "the record's layout is fixed");

static bool complain(const char *what)
{
	fprintf(stderr, "identity-agent: cannot %s: %s\n", what, strerror(errno));
	return false;
}

static bool take_entropy(const struct identity_record *record)
{
	struct {
		struct rand_pool_info head;
		uint8_t bytes[sizeof(record->entropy)];
	} pool = {.head = {.entropy_count = 8 * sizeof(record->entropy), .buf_size = sizeof(record->entropy)}};
	int device = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	bool done;

	if (device < 0)
		return complain("open /dev/urandom");
	memcpy(pool.bytes, record->entropy, sizeof(pool.bytes));
	done = ioctl(device, RNDADDENTROPY, &pool) == 0 && ioctl(device, RNDRESEEDCRNG) == 0;
	close(device);
	return done || complain("re-seed the kernel");
}

static bool take_id(const struct identity_record *record)
{
	char text[2 * sizeof(record->id) + 2];
	FILE *file = fopen(ID_FILE, "we");
	bool done;

	for (unsigned i = 0; i < sizeof(record->id); i++)
		sprintf(text + 2 * i, "%02x", record->id[i]);
	if (sethostname(text, 2 * sizeof(record->id)) < 0)
		return complain("set the host name");
	/* A root that cannot be written has the host name alone. */
	if (file == NULL)
		return true;
	done = fprintf(file, "%s\n", text) > 0;
	return (fclose(file) == 0 && done) || complain("write " ID_FILE);
}

/*
 * It is at least as late as the record says. A clock that is already later was set by the host (kvm-clock), which knows
 * better: the record is older by as long as it was on its way.
 */
static bool take_clock(const struct identity_record *record)
{
	struct timespec written = {
		.tv_sec = (time_t)(record->clock / 1000000000),
		.tv_nsec = (long)(record->clock % 1000000000),
	};
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (now.tv_sec > written.tv_sec || (now.tv_sec == written.tv_sec && now.tv_nsec >= written.tv_nsec))
		return true;
	return clock_settime(CLOCK_REALTIME, &written) == 0 || complain("set the clock");
}

/* The interface must be down meanwhile. */
static bool take_link_address(int control, struct ifreq *request, const struct identity_record *record)
{
	short flags;

	if (ioctl(control, SIOCGIFFLAGS, request) < 0)
		return complain("look at " INTERFACE);
	flags = request->ifr_flags;
	request->ifr_flags = flags & ~IFF_UP;
	if (ioctl(control, SIOCSIFFLAGS, request) < 0)
		return complain("take " INTERFACE " down");
	request->ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(request->ifr_hwaddr.sa_data, record->link_address, sizeof(record->link_address));
	if (ioctl(control, SIOCSIFHWADDR, request) < 0)
		return complain("set the link address");
	request->ifr_flags = flags | IFF_UP;
	return ioctl(control, SIOCSIFFLAGS, request) == 0 || complain("bring " INTERFACE " up");
}

static struct sockaddr internet(struct in_addr address)
{
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = address};
	struct sockaddr any;

	memcpy(&any, &name, sizeof(any));
	return any;
}

static bool take_address(int control, struct ifreq *request, const struct identity_record *record)
{
	struct in_addr mask = {htonl(record->prefix_bits == 0 ? 0 : UINT32_MAX << (32 - record->prefix_bits))};
	struct in_addr any = {0};

	request->ifr_addr = internet(record->address);
	if (ioctl(control, SIOCSIFADDR, request) < 0)
		return complain("set the address");
	request->ifr_netmask = internet(mask);
	if (ioctl(control, SIOCSIFNETMASK, request) < 0)
		return complain("set the netmask");
	if (record->gateway.s_addr != 0) {
		struct rtentry route = {
			.rt_dst = internet(any),
			.rt_genmask = internet(any),
			.rt_gateway = internet(record->gateway),
			.rt_flags = RTF_UP | RTF_GATEWAY,
		};
		if (ioctl(control, SIOCADDRT, &route) < 0 && errno != EEXIST)
			return complain("set the gateway");
	}
	return true;
}

static bool take_addresses(const struct identity_record *record)
{
	struct ifreq request = {.ifr_name = INTERFACE};
	int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool done = control >= 0 || complain("make a socket");

	if (done && (record->parts & PART_LINK_ADDRESS) != 0)
		done = take_link_address(control, &request, record);
	if (done && (record->parts & PART_ADDRESS) != 0)
		done = take_address(control, &request, record);
	if (control >= 0)
		close(control);
	return done;
}

/* Random bits first: whatever follows may draw some. */
static bool become(const struct identity_record *record)
{
	bool done = true;

	if ((record->parts & PART_ENTROPY) != 0)
		done = take_entropy(record);
	if ((record->parts & PART_CLOCK) != 0)
		done = take_clock(record) && done;
	if ((record->parts & PART_ID) != 0)
		done = take_id(record) && done;
	if ((record->parts & (PART_LINK_ADDRESS | PART_ADDRESS)) != 0)
		done = take_addresses(record) && done;
	return done;
}

/* Connects to the machine and says what this program uses; -1 on failure. */
static int subscribe(void)
{
	struct sockaddr_vm machine = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = IDENTITY_PORT};
	uint32_t parts = SUBSCRIPTION | ALL_PARTS;
	int stream = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (stream < 0)
		return -1;
	if (connect(stream, (struct sockaddr *)&machine, sizeof(machine)) == 0 &&
	    write(stream, &parts, sizeof(parts)) == sizeof(parts))
		return stream;
	close(stream);
	return -1;
}

/* Reads a whole record; false when the connection ends first, as it does in a clone. */
static bool receive(int stream, struct identity_record *record)
{
	size_t length = 0;

	while (length < sizeof(*record)) {
		ssize_t got = read(stream, (char *)record + length, sizeof(*record) - length);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		length += (size_t)got;
	}
	return true;
}

/* Serves one connection to its end. */
static void serve(int stream)
{
	struct identity_record record;

	while (receive(stream, &record)) {
		if (record.magic != MAGIC || record.version != VERSION)
			continue;
		if (become(&record) && write(stream, &record.generation, sizeof(record.generation)) < 0)
			complain("confirm");
	}
}

int main(void)
{
	for (;;) {
		int stream = subscribe();
		if (stream < 0) {
			complain("reach the machine");
			return EXIT_FAILURE;
		}
		serve(stream);
		close(stream);
	}
}
