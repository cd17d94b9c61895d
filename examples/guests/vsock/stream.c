#include "vsock/stream.h"

#include "machine/memory.h"
#include "machine/text.h"

#define STREAMS_MAXIMUM 32

/* What a peer may have sent before it was echoed; a power of two. */
#define BUFFER_BYTES 8192

/* The guest's own port of the stream that it opens: the first of those that nobody is given on purpose. */
#define OWN_PORT 49152

/* Resets owed to peers that have no stream. More at once are dropped: such a peer asks again, or gives up. */
#define ORPHANS_MAXIMUM 16

enum stream_state {
    STATE_FREE,
    STATE_CONNECTING, /* the request was sent or is owed */
    STATE_OPEN,
    STATE_CLOSING, /* the shutdown was sent or is owed; only the peer's reset is awaited */
};

/* Operations owed to the peer, as bits. */
#define OWED(operation) (1u << (operation))

struct stream_ends {
    uint64_t peer_cid;
    uint32_t peer_port;
    uint32_t own_port;
};

struct stream {
    enum stream_state state;
    struct stream_ends ends;
    uint32_t owed;
    bool greeting_owed;
    bool peer_sends_no_more;

    /* Credit, all counts modulo 2^32. */
    uint32_t peer_allocated;
    uint32_t peer_forwarded;
    uint32_t sent;
    uint32_t received;
    uint32_t forwarded; /* received and taken out of the buffer */

    uint8_t buffer[BUFFER_BYTES]; /* byte N of the stream stands at N modulo its size */
};

static struct stream_service service;
static struct stream streams[STREAMS_MAXIMUM];

static struct stream_ends orphans[ORPHANS_MAXIMUM];
static unsigned orphan_count;

void streams_start(const struct stream_service *given_service)
{
    service = *given_service;
}

static bool is_own(const struct stream *stream)
{
    return stream->ends.own_port == OWN_PORT;
}

static void end(struct stream *stream, enum stream_end how)
{
    stream->state = STATE_FREE;
    if (is_own(stream))
        service.ended(how);
}

static struct stream *find(const struct stream_ends *ends)
{
    for (unsigned i = 0; i < STREAMS_MAXIMUM; i++) {
        struct stream *stream = &streams[i];
        if (stream->state != STATE_FREE && stream->ends.peer_port == ends->peer_port &&
            stream->ends.own_port == ends->own_port && stream->ends.peer_cid == ends->peer_cid)
            return stream;
    }
    return NULL;
}

/* A new stream, or NULL when there are too many. */
static struct stream *open(const struct stream_ends *ends, enum stream_state state, uint32_t owed)
{
    for (unsigned i = 0; i < STREAMS_MAXIMUM; i++) {
        struct stream *stream = &streams[i];
        if (stream->state != STATE_FREE)
            continue;
        memset(stream, 0, offsetof(struct stream, buffer));
        stream->state = state;
        stream->ends = *ends;
        stream->owed = owed;
        return stream;
    }
    return NULL;
}

void streams_connect(uint32_t port)
{
    const struct stream_ends ends = {VSOCK_HOST_CID, port, OWN_PORT};

    open(&ends, STATE_CONNECTING, OWED(VSOCK_REQUEST));
}

static void refuse(const struct stream_ends *ends)
{
    if (orphan_count < ORPHANS_MAXIMUM)
        orphans[orphan_count++] = *ends;
}

/* A packet for which there is no stream. */
static void accept(const struct vsock_header *header, const struct stream_ends *ends)
{
    struct stream *stream = NULL;

    if (header->operation == VSOCK_RESET)
        return;
    if (header->operation == VSOCK_REQUEST && ends->own_port == service.listen_port)
        stream = open(ends, STATE_OPEN, OWED(VSOCK_RESPONSE));
    if (stream == NULL) {
        refuse(ends);
        return;
    }
    stream->peer_allocated = header->buffer_allocated;
    stream->peer_forwarded = header->bytes_forwarded;
}

/* Forgets what is owed but a reset, and ends the stream with that. */
static void reset(struct stream *stream)
{
    refuse(&stream->ends);
    end(stream, stream->state == STATE_CONNECTING ? STREAM_REFUSED : STREAM_CLOSED);
}

/* More than there is room for, or before the stream is open, is a breach by the peer. */
static void take_data(struct stream *stream, const uint8_t *data, uint32_t length)
{
    uint32_t start = stream->received % BUFFER_BYTES;
    uint32_t before_end = BUFFER_BYTES - start;

    if (stream->state != STATE_OPEN || stream->peer_sends_no_more ||
        length > BUFFER_BYTES - (stream->received - stream->forwarded)) {
        reset(stream);
        return;
    }
    if (before_end > length)
        before_end = length;
    memcpy(stream->buffer + start, data, before_end);
    memcpy(stream->buffer, data + before_end, length - before_end);
    stream->received += length;
}

/*
 * A peer that takes no more gets no more, and the stream is over; one that only sends no more is still owed its echo.
 */
static void take_shutdown(struct stream *stream, uint32_t flags)
{
    if ((flags & VSOCK_SHUTDOWN_RECEIVE) != 0)
        reset(stream);
    else if ((flags & VSOCK_SHUTDOWN_SEND) != 0)
        stream->peer_sends_no_more = true;
}

static void take_response(struct stream *stream)
{
    if (stream->state != STATE_CONNECTING) {
        reset(stream);
        return;
    }
    stream->state = STATE_OPEN;
    stream->greeting_owed = true;
    service.connected();
}

void streams_input(const struct vsock_header *header, const uint8_t *data)
{
    const struct stream_ends ends = {header->source_cid, header->source_port, header->destination_port};
    struct stream *stream = find(&ends);

    if (header->type != VSOCK_TYPE_STREAM || header->destination_cid != vsock_own_cid())
        return;
    if (stream == NULL) {
        accept(header, &ends);
        return;
    }
    stream->peer_allocated = header->buffer_allocated;
    stream->peer_forwarded = header->bytes_forwarded;
    switch (header->operation) {
    case VSOCK_RESPONSE:
        take_response(stream);
        break;
    case VSOCK_RESET:
        end(stream, stream->state == STATE_CONNECTING ? STREAM_REFUSED : STREAM_CLOSED);
        break;
    case VSOCK_SHUTDOWN:
        take_shutdown(stream, header->flags);
        break;
    case VSOCK_DATA:
        take_data(stream, data, header->length);
        break;
    case VSOCK_CREDIT_UPDATE:
        break;
    case VSOCK_CREDIT_REQUEST:
        stream->owed |= OWED(VSOCK_CREDIT_UPDATE);
        break;
    default:
        reset(stream);
        break;
    }
}

void streams_drop_all(void)
{
    orphan_count = 0;
    for (unsigned i = 0; i < STREAMS_MAXIMUM; i++) {
        if (streams[i].state != STATE_FREE)
            end(&streams[i], STREAM_CLOSED);
    }
}

/* What the peer has room for. */
static uint32_t credit(const struct stream *stream)
{
    uint32_t in_flight = stream->sent - stream->peer_forwarded;

    return in_flight < stream->peer_allocated ? stream->peer_allocated - in_flight : 0;
}

static struct vsock_header header_to(const struct stream_ends *ends, enum vsock_operation operation)
{
    return (struct vsock_header){
        .source_cid = vsock_own_cid(),
        .destination_cid = ends->peer_cid,
        .source_port = ends->own_port,
        .destination_port = ends->peer_port,
        .type = VSOCK_TYPE_STREAM,
        .operation = operation,
    };
}

/* Sends prepared data of a stream, or a packet without any; every packet tells the credit anew. */
static void send(struct stream *stream, enum vsock_operation operation, uint32_t length)
{
    struct vsock_header header = header_to(&stream->ends, operation);

    header.length = length;
    header.buffer_allocated = BUFFER_BYTES;
    header.bytes_forwarded = stream->forwarded;
    if (operation == VSOCK_SHUTDOWN)
        header.flags = VSOCK_SHUTDOWN_RECEIVE | VSOCK_SHUTDOWN_SEND;
    stream->sent += length;
    vsock_send(&header);
}

/* The next operations return false when the device has no room for a packet. */

static bool send_owed(struct stream *stream)
{
    while (stream->owed != 0) {
        enum vsock_operation operation = (enum vsock_operation)__builtin_ctz(stream->owed);
        if (vsock_prepare() == NULL)
            return false;
        stream->owed &= ~OWED(operation);
        send(stream, operation, 0);
    }
    return true;
}

static bool send_greeting(struct stream *stream)
{
    uint32_t length = (uint32_t)text_length(service.greeting);
    uint8_t *data;

    if (!stream->greeting_owed || credit(stream) < length)
        return true;
    data = vsock_prepare();
    if (data == NULL)
        return false;
    memcpy(data, service.greeting, length);
    stream->greeting_owed = false;
    send(stream, VSOCK_DATA, length);
    return true;
}

/* The next piece of the buffer that lies in one part, fits a packet, and has credit; 0 when there is none. */
static uint32_t next_piece(const struct stream *stream)
{
    uint32_t length = stream->received - stream->forwarded;
    uint32_t before_end = BUFFER_BYTES - stream->forwarded % BUFFER_BYTES;
    uint32_t allowed = credit(stream);

    if (length > before_end)
        length = before_end;
    if (length > VSOCK_DATA_BYTES_MAXIMUM)
        length = VSOCK_DATA_BYTES_MAXIMUM;
    return length < allowed ? length : allowed;
}

static bool send_echo(struct stream *stream)
{
    uint32_t length;

    if (stream->greeting_owed)
        return true;
    while ((length = next_piece(stream)) != 0) {
        uint8_t *data = vsock_prepare();
        if (data == NULL)
            return false;
        memcpy(data, stream->buffer + stream->forwarded % BUFFER_BYTES, length);
        stream->forwarded += length;
        send(stream, VSOCK_DATA, length);
    }
    return true;
}

static bool send_shutdown(struct stream *stream)
{
    if (!stream->peer_sends_no_more || stream->greeting_owed || stream->received != stream->forwarded)
        return true;
    stream->state = STATE_CLOSING;
    stream->owed |= OWED(VSOCK_SHUTDOWN);
    return send_owed(stream);
}

static bool send_of_stream(struct stream *stream)
{
    if (!send_owed(stream))
        return false;
    if (stream->state != STATE_OPEN)
        return true;
    return send_greeting(stream) && send_echo(stream) && send_shutdown(stream);
}

static bool send_orphans(void)
{
    while (orphan_count != 0) {
        struct vsock_header header;
        if (vsock_prepare() == NULL)
            return false;
        header = header_to(&orphans[--orphan_count], VSOCK_RESET);
        vsock_send(&header);
    }
    return true;
}

bool streams_send(void)
{
    bool all = send_orphans();

    for (unsigned i = 0; i < STREAMS_MAXIMUM && all; i++) {
        if (streams[i].state != STATE_FREE)
            all = send_of_stream(&streams[i]);
    }
    return !all;
}
