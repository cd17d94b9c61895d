/* The table of TCP connections. */
#ifndef NET_TCP_CONNECTION_H
#define NET_TCP_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/http.h"
#include "net/tcp_segment.h"

/* Twice what a load generator with 64 connections has open, so that those closing do not push out those at work. */
#define TCP_CONNECTIONS_MAXIMUM 128

/* What a connection may have sent or waiting without acknowledgment: some fifteen pipelined answers. */
#define TCP_SEND_BUFFER_BYTES 2048

/*
 * An open connection. The stream that it still has to deliver is the buffer followed, when `finishing`, by the FIN,
 * which counts as one byte; `send_acknowledged` is the sequence number of the buffer's first byte. What it holds are
 * requests for whose answers there is no room yet: as much as the peer may send, so nothing of that is ever dropped.
 */
struct tcp_connection {
    struct tcp_ends ends;

    uint32_t receive_next;
    uint32_t held_length;
    bool acknowledgment_due;
    bool peer_finished;

    uint32_t send_acknowledged;
    uint32_t send_next;
    uint32_t send_window;
    uint32_t buffered;
    bool finishing;
    bool finished; /* the FIN was acknowledged */
    uint8_t ticks_waited;
    uint8_t attempts;

    struct http_exchange http;

    /* The table's own. */
    struct tcp_connection *bucket_next;
    struct tcp_connection *older;
    struct tcp_connection *newer;

    uint8_t held[TCP_RECEIVE_WINDOW];
    uint8_t send_buffer[TCP_SEND_BUFFER_BYTES];
};

/* The connection with a peer, or NULL. */
struct tcp_connection *tcp_connection_find(const struct tcp_ends *ends);

/*
 * A new connection, all zero but for its ends. When the table is full this is the connection that was quiet for
 * longest, whose peer is told by `evict` before it goes.
 */
struct tcp_connection *tcp_connection_open(const struct tcp_ends *ends, void (*evict)(struct tcp_connection *));

void tcp_connection_close(struct tcp_connection *connection);

/* The open connection last heard of longest ago, or NULL; and the one after it. */
struct tcp_connection *tcp_connection_oldest(void);
struct tcp_connection *tcp_connection_next(const struct tcp_connection *connection);

/* Marks a connection as the one last heard of. */
void tcp_connection_touch(struct tcp_connection *connection);

/* What the service above may do: see how much it may write, write, and end its stream. */
static inline size_t tcp_connection_room(const struct tcp_connection *connection)
{
    return TCP_SEND_BUFFER_BYTES - connection->buffered;
}

/* Appends bytes, no more than there is room for, to what is to be sent. */
void tcp_connection_write(struct tcp_connection *connection, const void *bytes, size_t length);

/* Nothing follows what was written; what still comes from the peer is acknowledged and dropped. */
void tcp_connection_finish(struct tcp_connection *connection);

#endif
