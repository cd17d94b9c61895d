/*
 * What tests ask of a Linux guest that busybox has no name for:
 *     exercise vsock-listen PORT               accepts one stream and echoes it
 *     exercise vsock-connect PORT              opens a stream to the host and echoes it
 *     exercise zero-out DEVICE OFFSET LENGTH   makes a range of a block device zeroes
 *     exercise await-power-button              returns when it is pressed
 *     exercise tcp-send ADDRESS PORT LENGTH    sends so many bytes, in writes of 64 KiB
 *     exercise tcp-receive ADDRESS PORT        takes what comes, in reads of 64 KiB
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "exercise: cannot %s: %s\n", what, strerror(errno));
	return EXIT_FAILURE;
}

static int write_all(int file, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t written = write(file, bytes, length);
		if (written < 0)
			return -1;
		bytes += written;
		length -= (size_t)written;
	}
	return 0;
}

/* What the exercises of TCP hand to one system call. */
static char block[1048576];

/* Gives a stream back what comes from it, until its peer has done. */
static int echo(int stream)
{
	static char buffer[65536];
	ssize_t length;

	while ((length = read(stream, buffer, sizeof(buffer))) > 0)
		if (write_all(stream, buffer, (size_t)length) < 0)
			return fail("write to the stream");
	if (length < 0)
		return fail("read from the stream");
	return EXIT_SUCCESS;
}

static struct sockaddr_vm address_of(unsigned cid, const char *port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = cid,
		.svm_port = (unsigned)strtoul(port, NULL, 10),
	};
	return address;
}

static int vsock_listen(const char *port)
{
	struct sockaddr_vm address = address_of(VMADDR_CID_ANY, port);
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (listener < 0)
		return fail("make a vsock");
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 1) < 0)
		return fail("listen");
	puts("exercise: listening");
	fflush(stdout);
	int stream = accept(listener, NULL, NULL);
	if (stream < 0)
		return fail("accept");
	return echo(stream);
}

static int vsock_connect(const char *port)
{
	struct sockaddr_vm address = address_of(VMADDR_CID_HOST, port);
	int stream = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (stream < 0)
		return fail("make a vsock");
	if (connect(stream, (struct sockaddr *)&address, sizeof(address)) < 0)
		return fail("connect");
	return echo(stream);
}

static int zero_out(const char *path, const char *offset, const char *length)
{
	uint64_t range[2] = {strtoull(offset, NULL, 10), strtoull(length, NULL, 10)};
	int device = open(path, O_WRONLY | O_CLOEXEC);
	if (device < 0)
		return fail("open the device");
	if (ioctl(device, BLKZEROOUT, range) < 0)
		return fail("zero out");
	return EXIT_SUCCESS;
}

static int tcp_connect(const char *text, const char *port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)strtoul(port, NULL, 10)),
	};
	if (inet_pton(AF_INET, text, &address.sin_addr) != 1) {
		errno = EINVAL;
		return -1;
	}
	int stream = socket(AF_INET, SOCK_STREAM, 0);
	if (stream >= 0 && connect(stream, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	return stream;
}

static int tcp_send(const char *address, const char *port, const char *length)
{
	size_t left = strtoull(length, NULL, 10);
	int stream = tcp_connect(address, port);
	if (stream < 0)
		return fail("connect");
	while (left > 0) {
		size_t size = left < sizeof(block) ? left : sizeof(block);
		if (write_all(stream, block, size) < 0)
			return fail("write to the stream");
		left -= size;
	}
	return EXIT_SUCCESS;
}

static int tcp_receive(const char *address, const char *port)
{
	ssize_t length;
	int stream = tcp_connect(address, port);
	if (stream < 0)
		return fail("connect");
	while ((length = read(stream, block, sizeof(block))) > 0)
		;
	return length < 0 ? fail("read from the stream") : EXIT_SUCCESS;
}

/* Finds the button among the input devices. */
static int open_power_button(void)
{
	for (int number = 0; number < 32; number++) {
		char path[32], name[32] = "";
		snprintf(path, sizeof(path), "/dev/input/event%d", number);
		int device = open(path, O_RDONLY | O_CLOEXEC);
		if (device < 0)
			continue;
		if (ioctl(device, EVIOCGNAME(sizeof(name) - 1), name) > 0 && strcmp(name, "Power Button") == 0)
			return device;
		close(device);
	}
	errno = ENODEV;
	return -1;
}

static int await_power_button(void)
{
	struct input_event event;
	int device = open_power_button();
	if (device < 0)
		return fail("find a power button");
	puts("exercise: listening");
	fflush(stdout);
	while (read(device, &event, sizeof(event)) == sizeof(event))
		if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
			return EXIT_SUCCESS;
	return fail("read from the power button");
}

int main(int count, char **words)
{
	if (count == 3 && strcmp(words[1], "vsock-listen") == 0)
		return vsock_listen(words[2]);
	if (count == 3 && strcmp(words[1], "vsock-connect") == 0)
		return vsock_connect(words[2]);
	if (count == 5 && strcmp(words[1], "zero-out") == 0)
		return zero_out(words[2], words[3], words[4]);
	if (count == 2 && strcmp(words[1], "await-power-button") == 0)
		return await_power_button();
	if (count == 5 && strcmp(words[1], "tcp-send") == 0)
		return tcp_send(words[2], words[3], words[4]);
	if (count == 4 && strcmp(words[1], "tcp-receive") == 0)
		return tcp_receive(words[2], words[3]);
	fputs("usage: exercise vsock-listen PORT | vsock-connect PORT | zero-out DEVICE OFFSET LENGTH\n"
	      "       | await-power-button | tcp-send ADDRESS PORT LENGTH | tcp-receive ADDRESS PORT\n", stderr);
	return EXIT_FAILURE;
}
