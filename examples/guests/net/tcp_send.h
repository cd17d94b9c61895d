/* The sending half of a TCP connection. */
#ifndef NET_TCP_SEND_H
#define NET_TCP_SEND_H

#include <stdbool.h>

#include "net/tcp_connection.h"
#include "net/tcp_segment.h"

/* Sends as much of what waits as the peer's window takes, and otherwise the acknowledgment that is due. */
void tcp_send_waiting(struct tcp_connection *connection);

/* Sends an acknowledgment, due or not. */
void tcp_send_acknowledgment(struct tcp_connection *connection);

/* Tells the peer that the connection is gone. */
void tcp_send_reset(struct tcp_connection *connection);

/*
 * Takes the acknowledgment and the window of a segment. False when it acknowledges what the connection does not have,
 * and nothing in it can be believed.
 */
bool tcp_take_acknowledgment(struct tcp_connection *connection, const struct tcp_segment *segment);

/* Whether something waits for the peer: to be acknowledged, or for its window to open. */
bool tcp_is_waiting(const struct tcp_connection *connection);

/*
 * Tells a connection that is waiting that a tick has passed; it repeats when that is due. False when it has repeated
 * often enough and is to be given up.
 */
bool tcp_send_tick(struct tcp_connection *connection);

/* Whether anything was sent since the last call that waits for the peer. */
bool tcp_take_sent_flag(void);

#endif
