/*
 * The smallest init that a Linux guest of the tests and benchmarks can run:
 * it prints a marker line and ends the machine the way the kernel command
 * line word `sandbox.end=power-off|reset|halt` says, by default power-off.
 * With `sandbox.end=tick` it does not end, and prints a line every 5 ms.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

static const char marker[] = "SANDBOX-INIT\n";
static const char tick[] = "SANDBOX-TICK\n";

/* Mounts a file system, unless it stands there already. */
static void mount_at(const char *type, const char *path)
{
	mkdir(path, 0755);
	mount(type, path, type, 0, NULL);
}

/* Writes the marker to one file; a machine without that console goes without. */
static void print_to(const char *path)
{
	int file = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	if (file < 0)
		return;
	const char *rest = marker;
	size_t length = sizeof(marker) - 1;
	while (length > 0) {
		ssize_t written = write(file, rest, length);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			break;
		rest += written;
		length -= (size_t)written;
	}
	close(file);
}

/* The last value that the command line gives to `name` (which ends in `=`). */
static const char *command_line_word(char *line, const char *name)
{
	const char *value = NULL;
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		if (strncmp(word, name, strlen(name)) == 0)
			value = word + strlen(name);
	return value;
}

/* Prints for ever. */
static void tick_on(void)
{
	int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	while (console >= 0 && write(console, tick, sizeof(tick) - 1) > 0)
		usleep(5000);
}

static int requested_end(void)
{
	static char line[4096];
	int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t length = file < 0 ? -1 : read(file, line, sizeof(line) - 1);
	if (length < 0)
		return RB_POWER_OFF;
	const char *end = command_line_word(line, "sandbox.end=");
	if (end && strcmp(end, "reset") == 0)
		return RB_AUTOBOOT;
	if (end && strcmp(end, "halt") == 0)
		return RB_HALT_SYSTEM;
	if (end && strcmp(end, "tick") == 0)
		tick_on();
	return RB_POWER_OFF;
}

int main(void)
{
	mount_at("devtmpfs", "/dev");
	print_to("/dev/console");
	print_to("/dev/kmsg");
	mount_at("proc", "/proc");
	reboot(requested_end());
	/* Only a refused reboot comes here, and an init must not return. */
	for (;;)
		pause();
}
