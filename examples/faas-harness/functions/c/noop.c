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
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES_MAXIMUM 16384

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

/* A client's connection. */
struct client {
    int connection;
    /* Bytes of a body that are still to come, and to be forgotten. */
    size_t body;
    /* The beginning of a head. */
    size_t held;
    char head[HEAD_BYTES_MAXIMUM + 1];
};

/* The length of the body that a head announces. */
static size_t body_length(const char *head)
{
    const char *field = strcasestr(head, "\r\ncontent-length:");

    return field != NULL ? strtoul(field + strlen("\r\ncontent-length:"), NULL, 10) : 0;
}

/* Answers every request that is whole; false when one is not understood, or its answer not taken. */
static bool answer_all(struct client *client)
{
    char *end;

    for (;;) {
        size_t skipped = client->body < client->held ? client->body : client->held;

        memmove(client->head, client->head + skipped, client->held - skipped);
        client->held -= skipped;
        client->body -= skipped;
        if (client->body > 0)
            return true;
        client->head[client->held] = '\0';
        end = strstr(client->head, "\r\n\r\n");
        if (end == NULL)
            return client->held < HEAD_BYTES_MAXIMUM;
        /* The answer does not depend on the body, which may come behind it. */
        if (write(client->connection, answer, sizeof answer - 1) != sizeof answer - 1)
            return false;
        end[2] = '\0';
        client->body = (size_t)(end - client->head) + 4 + body_length(client->head);
    }
}

/* Takes what has come on a connection; false when it is over. */
static bool take(struct client *client)
{
    ssize_t got = read(client->connection, client->head + client->held, HEAD_BYTES_MAXIMUM - client->held);

    if (got <= 0)
        return false;
    client->held += (size_t)got;
    return answer_all(client);
}

static void let_in(int listener, int events)
{
    struct epoll_event event = {.events = EPOLLIN};
    struct client *client;
    int yes = 1;
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    /* Most likely no descriptor is free, or the client has gone: the others are served all the same. */
    if (connection < 0)
        return;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    client = calloc(1, sizeof *client);
    event.data.ptr = client;
    if (client == NULL || epoll_ctl(events, EPOLL_CTL_ADD, connection, &event) != 0) {
        free(client);
        close(connection);
        return;
    }
    client->connection = connection;
}

int main(void)
{
    const char *port = getenv("PORT");
    const char *url = getenv("READY_URL");
    struct rlimit descriptors;
    struct epoll_event event = {.events = EPOLLIN};
    int events = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port != NULL ? port : "80");

    if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
        descriptors.rlim_cur = descriptors.rlim_max;
        setrlimit(RLIMIT_NOFILE, &descriptors);
    }
    /* A client that goes while it is answered is no reason to end. */
    signal(SIGPIPE, SIG_IGN);
    event.data.ptr = NULL;
    if (events < 0 || epoll_ctl(events, EPOLL_CTL_ADD, listener, &event) != 0)
        fail("epoll");
    /* Connections queue up from here on, so that nobody who is told can come too early. */
    if (url != NULL && *url != '\0')
        announce(url);
    for (;;) {
        if (epoll_wait(events, &event, 1, -1) < 0)
            continue;
        if (event.data.ptr == NULL) {
            let_in(listener, events);
        } else if (!take(event.data.ptr)) {
            close(((struct client *)event.data.ptr)->connection);
            free(event.data.ptr);
        }
    }
}
