#include "net/tcp_receive.h"

#include "machine/memory.h"
#include "net/http.h"

/* Gives bytes to the service; gives how many it took. Behind the service's own end of the stream nobody reads them. */
static size_t serve(struct tcp_connection *connection, const uint8_t *bytes, size_t length)
{
    if (connection->finishing || connection->finished)
        return length;
    return http_receive(connection, (const char *)bytes, length);
}

/* The peer has ended its stream and all of it was served: the service ends its own. */
static void finish_if_served(struct tcp_connection *connection)
{
    if (connection->peer_finished && connection->held_length == 0)
        tcp_connection_finish(connection);
}

void tcp_take_held(struct tcp_connection *connection)
{
    size_t taken;

    if (connection->held_length == 0)
        return;
    taken = serve(connection, connection->held, connection->held_length);
    connection->held_length -= (uint32_t)taken;
    memmove(connection->held, connection->held + taken, connection->held_length);
    if (taken != 0)
        connection->acknowledgment_due = true; /* which tells the peer that its window is open again */
    finish_if_served(connection);
}

/* Serves new bytes, or holds them; gives how many it took. */
static uint32_t take_bytes(struct tcp_connection *connection, const uint8_t *bytes, size_t length)
{
    size_t served = connection->held_length == 0 ? serve(connection, bytes, length) : 0;
    size_t rest = length - served;
    size_t room = TCP_RECEIVE_WINDOW - connection->held_length;

    if (rest > room)
        rest = room;
    if (rest != 0) {
        memcpy(connection->held + connection->held_length, bytes + served, rest);
        connection->held_length += (uint32_t)rest;
    }
    return (uint32_t)(served + rest);
}

void tcp_take_data(struct tcp_connection *connection, const struct tcp_segment *segment)
{
    uint32_t span = tcp_segment_span(segment);
    uint32_t known = connection->receive_next - segment->sequence;
    uint32_t length;
    uint32_t taken;

    if (span == 0 && known == 0)
        return;
    connection->acknowledgment_due = true;
    if (tcp_is_before(connection->receive_next, segment->sequence) || known >= span || connection->peer_finished)
        return;
    length = (uint32_t)segment->length - known;
    taken = take_bytes(connection, segment->data + known, length);
    connection->receive_next += taken;
    if ((segment->flags & TCP_FIN) != 0 && taken == length) {
        connection->receive_next++;
        connection->peer_finished = true;
        finish_if_served(connection);
    }
}
