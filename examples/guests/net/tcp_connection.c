#include "net/tcp_connection.h"

#include "machine/memory.h"

#define BUCKETS 256

static struct tcp_connection connections[TCP_CONNECTIONS_MAXIMUM];
static unsigned connections_ever_used;

static struct tcp_connection *buckets[BUCKETS];

/* Closed connections, by bucket_next. */
static struct tcp_connection *closed;

/* The ends of the list of open connections, in the order in which they were last heard of. */
static struct tcp_connection *oldest;
static struct tcp_connection *newest;

static struct tcp_connection **bucket_of(const struct tcp_ends *ends)
{
    uint32_t mixed = ends->peer.address ^ ends->peer_port ^ ends->peer_port >> 8;

    return &buckets[mixed % BUCKETS];
}

struct tcp_connection *tcp_connection_find(const struct tcp_ends *ends)
{
    struct tcp_connection *connection = *bucket_of(ends);

    while (connection != NULL && (connection->ends.peer_port != ends->peer_port ||
                                  connection->ends.peer.address != ends->peer.address))
        connection = connection->bucket_next;
    return connection;
}

static void append_as_newest(struct tcp_connection *connection)
{
    connection->newer = NULL;
    connection->older = newest;
    if (newest != NULL)
        newest->newer = connection;
    else
        oldest = connection;
    newest = connection;
}

static void remove_from_order(struct tcp_connection *connection)
{
    if (connection->older != NULL)
        connection->older->newer = connection->newer;
    else
        oldest = connection->newer;
    if (connection->newer != NULL)
        connection->newer->older = connection->older;
    else
        newest = connection->older;
}

struct tcp_connection *tcp_connection_oldest(void)
{
    return oldest;
}

struct tcp_connection *tcp_connection_next(const struct tcp_connection *connection)
{
    return connection->newer;
}

void tcp_connection_touch(struct tcp_connection *connection)
{
    if (connection == newest)
        return;
    remove_from_order(connection);
    append_as_newest(connection);
}

void tcp_connection_close(struct tcp_connection *connection)
{
    struct tcp_connection **link = bucket_of(&connection->ends);

    while (*link != connection)
        link = &(*link)->bucket_next;
    *link = connection->bucket_next;
    remove_from_order(connection);
    connection->bucket_next = closed;
    closed = connection;
}

/* A closed or never used place, or NULL. */
static struct tcp_connection *take_free_place(void)
{
    struct tcp_connection *place = closed;

    if (place != NULL) {
        closed = place->bucket_next;
        return place;
    }
    if (connections_ever_used < TCP_CONNECTIONS_MAXIMUM)
        return &connections[connections_ever_used++];
    return NULL;
}

struct tcp_connection *tcp_connection_open(const struct tcp_ends *ends, void (*evict)(struct tcp_connection *))
{
    struct tcp_connection *connection = take_free_place();
    struct tcp_connection **bucket = bucket_of(ends);

    if (connection == NULL) {
        evict(oldest);
        tcp_connection_close(oldest);
        connection = take_free_place();
    }
    memset(connection, 0, offsetof(struct tcp_connection, held));
    connection->ends = *ends;
    connection->bucket_next = *bucket;
    *bucket = connection;
    append_as_newest(connection);
    return connection;
}

void tcp_connection_write(struct tcp_connection *connection, const void *bytes, size_t length)
{
    memcpy(connection->send_buffer + connection->buffered, bytes, length);
    connection->buffered += (uint32_t)length;
}

void tcp_connection_finish(struct tcp_connection *connection)
{
    connection->finishing = !connection->finished;
}
