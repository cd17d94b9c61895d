#include "net/tcp_send.h"

#include "machine/memory.h"

/* The first repetition comes after one or two ticks, each next after twice as many; this many, and the peer is gone. */
#define FIRST_WAIT_TICKS 2
#define ATTEMPTS_MAXIMUM 6

static bool sent_flag;

bool tcp_take_sent_flag(void)
{
    bool sent = sent_flag;

    sent_flag = false;
    return sent;
}

/* A segment with everything but what it carries of the stream. */
static struct tcp_segment segment_of(const struct tcp_connection *connection, uint8_t flags)
{
    return (struct tcp_segment){
        .ends = connection->ends,
        .sequence = connection->send_next,
        .acknowledgment = connection->receive_next,
        .window = TCP_RECEIVE_WINDOW - connection->held_length,
        .flags = flags,
    };
}

void tcp_send_acknowledgment(struct tcp_connection *connection)
{
    struct tcp_segment segment = segment_of(connection, TCP_ACK);

    connection->acknowledgment_due = false;
    tcp_segment_send(&segment);
}

void tcp_send_reset(struct tcp_connection *connection)
{
    struct tcp_segment segment = segment_of(connection, TCP_RST | TCP_ACK);

    tcp_segment_send(&segment);
}

/* The bytes of the stream that are not acknowledged, and of these those that were sent. */
static uint32_t stream_length(const struct tcp_connection *connection)
{
    return connection->buffered + connection->finishing;
}

static uint32_t sent_length(const struct tcp_connection *connection)
{
    return connection->send_next - connection->send_acknowledged;
}

bool tcp_is_waiting(const struct tcp_connection *connection)
{
    return stream_length(connection) != 0;
}

/* Sends the next segment of the stream within `window`; false when there is none. */
static bool send_next_segment(struct tcp_connection *connection, uint32_t window)
{
    uint32_t offset = sent_length(connection);
    uint32_t left = connection->buffered > offset ? connection->buffered - offset : 0;
    uint32_t allowed = window > offset ? window - offset : 0;
    struct tcp_segment segment;
    uint32_t length = left;
    bool with_finish;

    if (length > allowed)
        length = allowed;
    if (length > TCP_SEND_BYTES_MAXIMUM)
        length = TCP_SEND_BYTES_MAXIMUM;
    with_finish = connection->finishing && length == left && length < allowed;
    if (length == 0 && !with_finish)
        return false;
    segment = segment_of(connection, with_finish ? TCP_ACK | TCP_PSH | TCP_FIN : TCP_ACK | TCP_PSH);
    segment.data = connection->send_buffer + offset;
    segment.length = length;
    tcp_segment_send(&segment);
    connection->send_next += length + with_finish;
    connection->acknowledgment_due = false;
    sent_flag = true;
    return true;
}

void tcp_send_waiting(struct tcp_connection *connection)
{
    while (sent_length(connection) < stream_length(connection)) {
        if (!send_next_segment(connection, connection->send_window))
            break;
    }
    if (connection->acknowledgment_due)
        tcp_send_acknowledgment(connection);
}

/* Drops acknowledged bytes from the stream; the byte behind the buffer is the FIN. */
static void drop_acknowledged(struct tcp_connection *connection, uint32_t length)
{
    uint32_t bytes = length < connection->buffered ? length : connection->buffered;

    connection->send_acknowledged += length;
    connection->buffered -= bytes;
    if (connection->buffered != 0)
        memmove(connection->send_buffer, connection->send_buffer + bytes, connection->buffered);
    if (length > bytes) {
        connection->finishing = false;
        connection->finished = true;
    }
    connection->ticks_waited = 0;
    connection->attempts = 0;
}

/*
 * After a step back to repeat, the peer may acknowledge more than was sent again since, so the stream is the limit and
 * not what was sent of it.
 */
bool tcp_take_acknowledgment(struct tcp_connection *connection, const struct tcp_segment *segment)
{
    uint32_t acknowledged = segment->acknowledgment - connection->send_acknowledged;
    uint32_t sent = sent_length(connection);

    if (tcp_is_before(segment->acknowledgment, connection->send_acknowledged))
        return true;
    if (acknowledged > stream_length(connection)) {
        tcp_send_acknowledgment(connection);
        return false;
    }
    connection->send_window = segment->window;
    if (acknowledged != 0)
        drop_acknowledged(connection, acknowledged);
    if (acknowledged > sent)
        connection->send_next = connection->send_acknowledged;
    return true;
}

/* A closed window is probed with one byte (RFC 9293 §3.8.6.1). */
bool tcp_send_tick(struct tcp_connection *connection)
{
    uint32_t window = connection->send_window != 0 ? connection->send_window : 1;

    if (++connection->ticks_waited < FIRST_WAIT_TICKS << connection->attempts)
        return true;
    if (connection->attempts == ATTEMPTS_MAXIMUM)
        return false;
    connection->ticks_waited = 0;
    connection->attempts++;
    connection->send_next = connection->send_acknowledged;
    while (sent_length(connection) < stream_length(connection)) {
        if (!send_next_segment(connection, window))
            break;
    }
    return true;
}
