/* The receiving half of a TCP connection. */
#ifndef NET_TCP_RECEIVE_H
#define NET_TCP_RECEIVE_H

#include "net/tcp_connection.h"
#include "net/tcp_segment.h"

/* Takes the data and the FIN of a segment, as far as they are new and in order; notes the acknowledgment due. */
void tcp_take_data(struct tcp_connection *connection, const struct tcp_segment *segment);

/* Gives the service what was held for it, when there may be room for its answers again. */
void tcp_take_held(struct tcp_connection *connection);

#endif
