/*
 * The no-op function in C. PORT: where it serves HTTP [80]; READY_URL: where it POSTs once that it serves, of the form
 * http://A.B.C.D:PORT/PATH.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_BYTES_MAXIMUM 65536

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n\n";

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int listen_on(const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int yes = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, SOMAXCONN) != 0)
        fail("listen");
    return listener;
}

static void announce(const char *url)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[16], path[256] = "", request[512];
    unsigned short port;
    int connection, length;

    if (sscanf(url, "http://%15[0-9.]:%hu/%255s", host, &port, path) < 2 || inet_aton(host, &address.sin_addr) == 0) {
        fprintf(stderr, "READY_URL is not http://A.B.C.D:PORT/PATH\n");
        exit(1);
    }
    address.sin_port = htons(port);
    connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof address) != 0)
        fail("announce");
    length = snprintf(request, sizeof request,
                      "POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", path, host);
    if (write(connection, request, (size_t)length) != length)
        fail("announce");
    while (read(connection, request, sizeof request) > 0)
        ;
    close(connection);
}

/* The length of the body that a head announces. */
static size_t body_length(const char *head)
{
    const char *field = strcasestr(head, "\r\ncontent-length:");

    return field != NULL ? strtoul(field + strlen("\r\ncontent-length:"), NULL, 10) : 0;
}

/* Reads one request; false when there is none left, or none that is understood. */
static bool take_request(int connection, char *buffer, size_t *held)
{
    size_t whole = 0;

    for (;;) {
        char *end;
        ssize_t got;

        buffer[*held] = '\0';
        end = strstr(buffer, "\r\n\r\n");
        if (end != NULL) {
            size_t head = (size_t)(end - buffer) + 4;

            whole = head + body_length(buffer);
            if (whole <= *held) {
                memmove(buffer, buffer + whole, *held - whole);
                *held -= whole;
                return true;
            }
        }
        if (*held == REQUEST_BYTES_MAXIMUM)
            return false;
        got = read(connection, buffer + *held, REQUEST_BYTES_MAXIMUM - *held);
        if (got <= 0)
            return false;
        *held += (size_t)got;
    }
}

static void serve(int connection)
{
    static char buffer[REQUEST_BYTES_MAXIMUM + 1];
    size_t held = 0;
    int yes = 1;

    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    while (take_request(connection, buffer, &held))
        if (write(connection, answer, sizeof answer - 1) != sizeof answer - 1)
            break;
    close(connection);
}

int main(void)
{
    const char *port = getenv("PORT");
    const char *url = getenv("READY_URL");
    int listener = listen_on(port != NULL ? port : "80");

    /* Nobody asks how a connection's process ended. */
    signal(SIGCHLD, SIG_IGN);
    /* Connections queue up from here on, so that nobody who is told can come too early. */
    if (url != NULL && *url != '\0')
        announce(url);
    for (;;) {
        int connection = accept(listener, NULL, NULL);

        if (connection < 0)
            fail("accept");
        /* The platform sends one request at a time; a process for each connection lets a second client in. */
        switch (fork()) {
        case 0:
            close(listener);
            serve(connection);
            _exit(0);
        case -1:
            fail("fork");
        default:
            close(connection);
        }
    }
}
