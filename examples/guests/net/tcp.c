#include "net/tcp.h"

#include "machine/memory.h"
#include "net/http.h"
#include "net/tcp_connection.h"
#include "net/tcp_cookie.h"
#include "net/tcp_segment.h"

/* Whether sequence number `left` lies before `right`, on their circle. */
static bool is_before(uint32_t left, uint32_t right)
{
    return (int32_t)(left - right) < 0;
}

void tcp_start(uint64_t seed)
{
    tcp_cookie_start(seed);
}

/* Answers a segment that belongs to no connection (RFC 9293 §3.10.7.1). */
static void refuse(const struct tcp_segment *segment)
{
    struct tcp_segment reset = {.ends = segment->ends};

    if ((segment->flags & TCP_RST) != 0)
        return;
    if ((segment->flags & TCP_ACK) != 0) {
        reset.sequence = segment->acknowledgment;
        reset.flags = TCP_RST;
    } else {
        reset.acknowledgment = segment->sequence + tcp_segment_span(segment);
        reset.flags = TCP_RST | TCP_ACK;
    }
    tcp_segment_send(&reset);
}

static void send_handshake(const struct tcp_segment *segment)
{
    tcp_segment_send(&(struct tcp_segment){
        .ends = segment->ends,
        .sequence = tcp_cookie(&segment->ends, segment->sequence),
        .acknowledgment = segment->sequence + 1,
        .flags = TCP_SYN | TCP_ACK,
    });
}

static void send_acknowledgment(struct tcp_connection *connection)
{
    connection->acknowledgment_due = false;
    tcp_segment_send(&(struct tcp_segment){
        .ends = connection->ends,
        .sequence = connection->send_next,
        .acknowledgment = connection->receive_next,
        .flags = TCP_ACK,
    });
}

/* Tells the peer of a connection that it is gone. */
static void send_reset(struct tcp_connection *connection)
{
    tcp_segment_send(&(struct tcp_segment){
        .ends = connection->ends,
        .sequence = connection->send_next,
        .acknowledgment = connection->receive_next,
        .flags = TCP_RST | TCP_ACK,
    });
}

/*
 * Sends one segment of the stream from `offset` on, as far as the peer's window goes. Gives how much of the stream it
 * holds: 0 when nothing may be sent.
 */
static uint32_t send_stream(struct tcp_connection *connection, uint32_t offset)
{
    uint32_t window = connection->send_window > offset ? connection->send_window - offset : 0;
    uint32_t left = connection->buffered > offset ? connection->buffered - offset : 0;
    uint32_t length = left;
    bool with_finish;

    if (length > TCP_SEND_BYTES_MAXIMUM)
        length = TCP_SEND_BYTES_MAXIMUM;
    if (length > window)
        length = window;
    with_finish = connection->finishing && length == left && length < window;
    if (length == 0 && !with_finish)
        return 0;
    connection->acknowledgment_due = false;
    tcp_segment_send(&(struct tcp_segment){
        .ends = connection->ends,
        .sequence = connection->send_acknowledged + offset,
        .acknowledgment = connection->receive_next,
        .flags = TCP_ACK | TCP_PSH | (with_finish ? TCP_FIN : 0),
        .data = connection->send_buffer + offset,
        .length = length,
    });
    return length + with_finish;
}

/*
 * Repeats the first segment that is not acknowledged. Only one for each segment of the peer: were it more, the peer's
 * acknowledgments of them would call for more again, without end.
 */
static void send_again(struct tcp_connection *connection)
{
    connection->send_recover = connection->send_next;
    send_stream(connection, 0);
}

/*
 * Sends what waits, and otherwise the acknowledgment that is due. While the peer's window keeps an answer back, the
 * request stays unacknowledged, so that the peer asks again should its opening of the window be lost.
 */
static void send_waiting(struct tcp_connection *connection)
{
    uint32_t stream = connection->buffered + connection->finishing;
    uint32_t sent = connection->send_next - connection->send_acknowledged;

    while (sent < stream) {
        uint32_t length = send_stream(connection, sent);
        if (length == 0)
            return;
        sent += length;
        connection->send_next += length;
    }
    if (connection->acknowledgment_due)
        send_acknowledgment(connection);
}

/*
 * The connection that a segment of an unknown one opens: the last step of a handshake, with data or without. All others
 * are answered at once.
 */
static struct tcp_connection *accept(const struct tcp_segment *segment)
{
    uint8_t kind = segment->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN);
    struct tcp_connection *connection;

    if (kind == TCP_SYN) {
        send_handshake(segment);
        return NULL;
    }
    if ((kind & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_ACK ||
        segment->acknowledgment != tcp_cookie(&segment->ends, segment->sequence - 1) + 1) {
        refuse(segment);
        return NULL;
    }
    connection = tcp_connection_open(&segment->ends, send_reset);
    connection->receive_next = segment->sequence;
    connection->send_acknowledged = segment->acknowledgment;
    connection->send_next = segment->acknowledgment;
    connection->send_recover = segment->acknowledgment;
    return connection;
}

/* Only a reset of exactly the next byte counts; one that was guessed is asked back about (RFC 5961 §3.2). */
static void take_reset(struct tcp_connection *connection, const struct tcp_segment *segment)
{
    if (segment->sequence == connection->receive_next)
        tcp_connection_close(connection);
    else if (!is_before(segment->sequence, connection->receive_next))
        send_acknowledgment(connection);
}

/* Drops acknowledged bytes from the stream. */
static void drop_acknowledged(struct tcp_connection *connection, uint32_t length)
{
    uint32_t bytes = length < connection->buffered ? length : connection->buffered;

    connection->send_acknowledged += length;
    connection->buffered -= bytes;
    if (connection->buffered != 0)
        memmove(connection->send_buffer, connection->send_buffer + bytes, connection->buffered);
    if (length > bytes) {
        /* The FIN too. */
        connection->finishing = false;
        connection->finished = true;
    }
    if (is_before(connection->send_acknowledged, connection->send_recover))
        send_stream(connection, 0);
    else
        connection->send_recover = connection->send_acknowledged;
}

/* False when the segment acknowledges what was never sent, and nothing in it can be believed. */
static bool take_acknowledgment(struct tcp_connection *connection, const struct tcp_segment *segment)
{
    uint32_t in_flight = connection->send_next - connection->send_acknowledged;
    uint32_t acknowledged = segment->acknowledgment - connection->send_acknowledged;
    uint32_t earlier_window = connection->send_window;

    if (is_before(segment->acknowledgment, connection->send_acknowledged))
        return true;
    if (acknowledged > in_flight) {
        send_acknowledgment(connection);
        return false;
    }
    connection->send_window = segment->window;
    if (acknowledged != 0)
        drop_acknowledged(connection, acknowledged);
    else if (in_flight != 0 && tcp_segment_span(segment) == 0 && segment->window == earlier_window)
        send_again(connection);
    return true;
}

/* Takes the data and the FIN of a segment, as far as they are new and the service has room for their answers. */
static void take_data(struct tcp_connection *connection, const struct tcp_segment *segment)
{
    uint32_t known = connection->receive_next - segment->sequence;
    size_t length;
    size_t taken;

    if (known == 0 && tcp_segment_span(segment) == 0)
        return;
    connection->acknowledgment_due = true;
    if (is_before(connection->receive_next, segment->sequence))
        return;
    if (known >= tcp_segment_span(segment)) {
        /* All of it a second time, so its answer was lost. */
        if (connection->send_next != connection->send_acknowledged)
            send_again(connection);
        return;
    }
    if (connection->peer_finished)
        return;
    length = segment->length - known;
    if (connection->finishing || connection->finished)
        taken = length;
    else
        taken = http_receive(connection, (const char *)segment->data + known, length);
    connection->receive_next += (uint32_t)taken;
    if ((segment->flags & TCP_FIN) != 0 && taken == length) {
        connection->receive_next++;
        connection->peer_finished = true;
        tcp_connection_finish(connection);
    }
}

static void process(struct tcp_connection *connection, const struct tcp_segment *segment)
{
    if ((segment->flags & TCP_RST) != 0) {
        take_reset(connection, segment);
        return;
    }
    if ((segment->flags & TCP_SYN) != 0) {
        send_acknowledgment(connection);
        return;
    }
    if ((segment->flags & TCP_ACK) == 0)
        return;
    tcp_connection_touch(connection);
    connection->ends.peer.link = segment->ends.peer.link;
    if (!take_acknowledgment(connection, segment))
        return;
    take_data(connection, segment);
    send_waiting(connection);
    if (connection->finished && connection->peer_finished)
        tcp_connection_close(connection);
}

void tcp_input(const struct ipv4_packet *packet)
{
    struct tcp_segment segment;
    struct tcp_connection *connection;

    if (!tcp_segment_parse(packet, &segment))
        return;
    if (segment.ends.own_port != TCP_SERVICE_PORT) {
        refuse(&segment);
        return;
    }
    connection = tcp_connection_find(&segment.ends);
    if (connection == NULL)
        connection = accept(&segment);
    if (connection != NULL)
        process(connection, &segment);
}
