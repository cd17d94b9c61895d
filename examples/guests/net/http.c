#include "net/http.h"

#include "machine/memory.h"
#include "machine/text.h"
#include "net/http_page.h"
#include "net/tcp_connection.h"

static const char bad_request[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/* A line without its end. */
struct line {
    const char *start;
    const char *end;
};

static size_t line_length(struct line line)
{
    return (size_t)(line.end - line.start);
}

/* Whether a line begins with `prefix`, of lower-case letters and signs, in any case. */
static bool begins_with(struct line line, const char *prefix)
{
    for (; *prefix != '\0'; prefix++, line.start++) {
        char character = line.start < line.end ? *line.start : '\0';
        if (character >= 'A' && character <= 'Z')
            character |= 0x20;
        if (character != *prefix)
            return false;
    }
    return true;
}

/* The value behind a header's name, when the line is that header. */
static bool header_value(struct line line, const char *name, struct line *value)
{
    if (!begins_with(line, name))
        return false;
    value->start = line.start + text_length(name);
    value->end = line.end;
    while (value->start < value->end && (*value->start == ' ' || *value->start == '\t'))
        value->start++;
    return true;
}

/* The longest decimal number taken; no body is nearly as long. */
#define CONTENT_LENGTH_DIGITS_MAXIMUM 15

static bool parse_content_length(struct line value, uint64_t *length)
{
    uint64_t number = 0;

    if (value.start == value.end || line_length(value) > CONTENT_LENGTH_DIGITS_MAXIMUM)
        return false;
    for (; value.start < value.end; value.start++) {
        if (*value.start < '0' || *value.start > '9')
            return false;
        number = number * 10 + (uint64_t)(*value.start - '0');
    }
    *length = number;
    return true;
}

/* Reads "METHOD TARGET HTTP/1.x". A line that was cut has lost its version; its connection ends with the answer. */
static bool take_request_line(struct http_exchange *exchange, struct line line)
{
    static const char version[] = " HTTP/1.";
    const size_t version_length = sizeof version - 1;
    const char *minor = line.end - 1;

    exchange->started = true;
    exchange->head = text_starts_with(line.start, "HEAD ");
    if (exchange->line_cut) {
        exchange->close = true;
        return true;
    }
    if (line_length(line) < sizeof "X / HTTP/1.1" - 1 ||
        memcmp(minor - version_length, version, version_length) != 0)
        return false;
    if (*minor < '0' || *minor > '9')
        return false;
    exchange->old = *minor == '0';
    exchange->close = exchange->old;
    return true;
}

/*
 * Reads a header. Where the length of a request's body is not simply announced, the connection ends with the answer, so
 * that no body is mistaken for a request.
 */
static bool take_header(struct http_exchange *exchange, struct line line)
{
    struct line value;

    switch (*line.start | 0x20) {
    case 'c':
        if (header_value(line, "content-length:", &value))
            return parse_content_length(value, &exchange->body_of_request);
        if (header_value(line, "connection:", &value)) {
            if (begins_with(value, "close"))
                exchange->close = true;
            else if (exchange->old && begins_with(value, "keep-alive"))
                exchange->close = false;
        }
        break;
    case 'e':
        if (begins_with(line, "expect:"))
            exchange->close = true;
        break;
    case 't':
        if (begins_with(line, "transfer-encoding:"))
            exchange->close = true;
        break;
    }
    return true;
}

/* Writes the page, and begins with the next request. */
static void answer(struct tcp_connection *connection)
{
    struct http_exchange *exchange = &connection->http;
    size_t length;
    const char *page = http_page(exchange, &length);

    tcp_connection_write(connection, page, length);
    if (exchange->close)
        tcp_connection_finish(connection);
    exchange->started = false;
}

static void refuse(struct tcp_connection *connection)
{
    tcp_connection_write(connection, bad_request, sizeof bad_request - 1);
    tcp_connection_finish(connection);
}

/* Takes a whole line, of which `exchange->line` holds the first part when it came in pieces. */
static void take_line(struct tcp_connection *connection, struct line line)
{
    struct http_exchange *exchange = &connection->http;
    bool understood = true;

    if (line.end > line.start && line.end[-1] == '\r')
        line.end--;
    if (line.end == line.start) {
        if (exchange->started)
            answer(connection);
    } else if (exchange->started) {
        understood = take_header(exchange, line);
    } else {
        understood = take_request_line(exchange, line);
    }
    exchange->line_cut = false;
    if (!understood)
        refuse(connection);
}

/* Adds a piece to the line kept. */
static void keep_piece(struct http_exchange *exchange, struct line piece)
{
    size_t room = HTTP_LINE_BYTES - exchange->line_length;
    size_t length = line_length(piece);

    if (length > room) {
        exchange->line_cut = true;
        length = room;
    }
    memcpy(exchange->line + exchange->line_length, piece.start, length);
    exchange->line_length += (uint8_t)length;
}

/* Takes the next line or piece of a line. Gives the first byte not taken: `bytes` when there is no room to answer. */
static const char *take_piece(struct tcp_connection *connection, const char *bytes, const char *end)
{
    struct http_exchange *exchange = &connection->http;
    const char *line_end = text_find(bytes, end, '\n');
    struct line line = {bytes, line_end};

    if (line_end == end) {
        keep_piece(exchange, line);
        return end;
    }
    if (tcp_connection_room(connection) < HTTP_PAGE_BYTES_MAXIMUM)
        return bytes;
    if (exchange->line_length != 0) {
        keep_piece(exchange, line);
        line = (struct line){exchange->line, exchange->line + exchange->line_length};
        exchange->line_length = 0;
    }
    take_line(connection, line);
    return line_end + 1;
}

/* Skips the body of the request before, if there is one. */
static const char *skip_body(struct http_exchange *exchange, const char *bytes, const char *end)
{
    uint64_t length = (uint64_t)(end - bytes);

    if (exchange->started || exchange->body_of_request == 0)
        return bytes;
    if (length > exchange->body_of_request)
        length = exchange->body_of_request;
    exchange->body_of_request -= length;
    return bytes + length;
}

size_t http_receive(struct tcp_connection *connection, const char *bytes, size_t length)
{
    const char *start = bytes;
    const char *end = bytes + length;

    while (bytes < end) {
        const char *before = bytes;
        bytes = skip_body(&connection->http, bytes, end);
        if (bytes < end)
            bytes = take_piece(connection, bytes, end);
        if (connection->finishing)
            return length;
        if (bytes == before)
            break;
    }
    return (size_t)(bytes - start);
}
