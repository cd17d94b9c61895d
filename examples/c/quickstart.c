/*
 * A web server in a micro-VM, without an operating system: booted, asked for its page, written to a snapshot, brought
 * back beside itself, cloned in memory, taken apart.
 *
 *     quickstart GUEST
 *
 * GUEST is the image of http-reply, one of the project's own guests. Needs root, for the network interfaces.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <sandbox.h>

enum { PATIENCE_MS = 30000 };

static sandbox_error_t error;

/* Ends the program, with what went wrong. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if ((call) != SANDBOX_OK) {                                                                                    \
            fprintf(stderr, "%s\n", sandbox_error_message(error));                                                     \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Addresses of a network of two for each sandbox, in the range that is set aside for benchmarks (RFC 2544). */
static const char *address(int number, int is_guest)
{
    static char texts[2][32];
    snprintf(texts[is_guest], sizeof texts[0], "198.18.%d.%d", (int)getpid() % 250, 4 * number + 1 + is_guest);
    return texts[is_guest];
}

/* Described once, by one JSON document, whose fields sandbox-spec.json lists. */
static const char *description(const char *image)
{
    static char json[8192];
    snprintf(json, sizeof json,
             "{\"guest\": {\"unikernel\": {\"image\": \"%s\", \"family\": \"bare\"}},"
             " \"memory\": 16777216, \"ready\": \"boot_port\", \"isolation\": \"in_process\","
             " \"networks\": [{\"id\": \"net\", \"guest_address\": \"%s/30\","
             "                \"tap\": {\"create\": {\"host_address\": \"%s/30\"}}}]}",
             image, address(0, 1), address(0, 0));
    return json;
}

/* A network of its own for the clone of this number, which runs at once. */
static const char *own_network(int number)
{
    static char json[1024];
    snprintf(json, sizeof json,
             "{\"start\": true, \"overrides\": {\"networks\": {\"net\": {\"address\": \"%s/30\","
             " \"tap\": {\"create\": {\"host_address\": \"%s/30\"}}}}}}",
             address(number, 1), address(number, 0));
    return json;
}

/* Fetches the page of a sandbox, and shows its last line, which counts the requests. */
static void show_page(const char *who, int number)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n";
    char page[4096];
    size_t length = 0;
    ssize_t got;
    struct sockaddr_in guest = {.sin_family = AF_INET, .sin_port = htons(80)};
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, address(number, 1), &guest.sin_addr);
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(connection, (struct sockaddr *)&guest, sizeof guest) != 0 ||
        write(connection, request, sizeof request - 1) != sizeof request - 1) {
        perror(address(number, 1));
        exit(1);
    }
    while ((got = read(connection, page + length, sizeof page - 1 - length)) > 0)
        length += got;
    close(connection);
    page[length] = 0;
    char *line = strstr(page, "request ");
    if (line == NULL) {
        fprintf(stderr, "no page from %s: %s\n", address(number, 1), page);
        exit(1);
    }
    printf("%s: %.*s\n", who, (int)strcspn(line, "\r\n"), line);
}

int main(int count, char **arguments)
{
    sandbox_runtime_t runtime;
    sandbox_spec_t spec;
    sandbox_t box, restored, clone;
    char folder[] = "/tmp/quickstart-XXXXXX", snapshot[64];
    if (count != 2 || mkdtemp(folder) == NULL) {
        fprintf(stderr, "usage: %s GUEST\n", arguments[0]);
        return 1;
    }
    snprintf(snapshot, sizeof snapshot, "%s/snapshot", folder);
    const char *json = description(arguments[1]);

    TRY(sandbox_runtime_open(NULL, &runtime, &error));
    TRY(sandbox_spec_from_json(json, strlen(json), &spec, &error));
    TRY(sandbox_create(runtime, spec, SANDBOX_NONE, &box, &error));
    TRY(sandbox_start(box, SANDBOX_NONE, &error));
    TRY(sandbox_wait_ready(box, PATIENCE_MS, SANDBOX_NONE, &error));
    show_page("original", 0);
    TRY(sandbox_snapshot(box, snapshot, NULL, SANDBOX_NONE, NULL, &error));
    TRY(sandbox_restore(runtime, snapshot, own_network(1), SANDBOX_NONE, &restored, NULL, &error));
    TRY(sandbox_fork(box, 1, own_network(2), SANDBOX_NONE, &clone, NULL, &error));

    TRY(sandbox_wait_confirmed(restored, PATIENCE_MS, SANDBOX_NONE, NULL, &error));
    TRY(sandbox_wait_confirmed(clone, PATIENCE_MS, SANDBOX_NONE, NULL, &error));
    show_page("restored", 1);
    show_page("clone", 2);
    show_page("original", 0);

    /* Each returns when every thread, descriptor and page of its sandbox is gone. */
    sandbox_free(clone);
    sandbox_free(restored);
    sandbox_free(box);
    sandbox_spec_free(spec);
    sandbox_runtime_free(runtime);

    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) == 0 ? 0 : 1;
}
