#include "net/tcp.h"

#include "net/tcp_connection.h"
#include "net/tcp_cookie.h"
#include "net/tcp_receive.h"
#include "net/tcp_segment.h"
#include "net/tcp_send.h"

static bool tick_wanted;

void tcp_start(uint64_t seed)
{
    tcp_cookie_start(seed);
}

void tcp_restart(uint64_t seed)
{
    while (tcp_connection_oldest() != NULL)
        tcp_connection_close(tcp_connection_oldest());
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

/* A lost one is not repeated by itself: the peer asks again. */
static void send_handshake(const struct tcp_segment *segment)
{
    tcp_segment_send(&(struct tcp_segment){
        .ends = segment->ends,
        .sequence = tcp_cookie(&segment->ends, segment->sequence),
        .acknowledgment = segment->sequence + 1,
        .window = TCP_RECEIVE_WINDOW,
        .flags = TCP_SYN | TCP_ACK,
    });
}

/* Opens the connection whose handshake a segment completes; its data, if any, is not yet taken. */
static struct tcp_connection *open_connection(const struct tcp_segment *segment)
{
    struct tcp_connection *connection = tcp_connection_open(&segment->ends, tcp_send_reset);

    connection->receive_next = segment->sequence;
    connection->send_acknowledged = segment->acknowledgment;
    connection->send_next = segment->acknowledgment;
    return connection;
}

/* The connection that a segment of none opens, or NULL: then it was dealt with. */
static struct tcp_connection *accept(const struct tcp_segment *segment)
{
    uint8_t kind = segment->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN);

    if (kind == TCP_SYN) {
        send_handshake(segment);
        return NULL;
    }
    if ((kind & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_ACK) {
        enum tcp_cookie_verdict verdict = tcp_cookie_check(segment);
        if (verdict == TCP_COOKIE_VALID)
            return open_connection(segment);
        if (verdict == TCP_COOKIE_LATER)
            return NULL;
    }
    refuse(segment);
    return NULL;
}

/* Only a reset of exactly the next byte counts; one that was guessed is asked back about (RFC 5961 §3.2). */
static void take_reset(struct tcp_connection *connection, const struct tcp_segment *segment)
{
    if (segment->sequence == connection->receive_next)
        tcp_connection_close(connection);
    else if (!tcp_is_before(segment->sequence, connection->receive_next))
        tcp_send_acknowledgment(connection);
}

static void process(struct tcp_connection *connection, const struct tcp_segment *segment)
{
    if ((segment->flags & TCP_RST) != 0) {
        take_reset(connection, segment);
        return;
    }
    if ((segment->flags & TCP_SYN) != 0) {
        /* Either old, or the peer has forgotten the connection and will reset it (RFC 5961 §4.2). */
        tcp_send_acknowledgment(connection);
        return;
    }
    if ((segment->flags & TCP_ACK) == 0)
        return;
    tcp_connection_touch(connection);
    connection->ends.peer.link = segment->ends.peer.link;
    if (!tcp_take_acknowledgment(connection, segment))
        return;
    tcp_take_held(connection);
    tcp_take_data(connection, segment);
    tcp_send_waiting(connection);
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

bool tcp_wants_tick(void)
{
    if (tcp_take_sent_flag())
        tick_wanted = true;
    return tick_wanted;
}

void tcp_tick(void)
{
    struct tcp_connection *connection = tcp_connection_oldest();

    tick_wanted = false;
    while (connection != NULL) {
        struct tcp_connection *next = tcp_connection_next(connection);
        if (tcp_is_waiting(connection)) {
            tick_wanted = true;
            if (!tcp_send_tick(connection)) {
                tcp_send_reset(connection);
                tcp_connection_close(connection);
            }
        }
        connection = next;
    }
}
