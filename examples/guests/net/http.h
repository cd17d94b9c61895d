/* HTTP/1.1 (RFC 9112), as far as it takes to answer every request with one small page. */
#ifndef NET_HTTP_H
#define NET_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tcp_connection;

/* What is kept of a line that came in pieces: the headers that matter are shorter. */
#define HTTP_LINE_BYTES 96

/* How far a connection's current request has come; all zero before it. */
struct http_exchange {
    bool started;    /* the request line was read */
    bool head;       /* the method wants no body in the answer */
    bool old;        /* HTTP/1.0 */
    bool close;      /* the connection ends with the answer */
    bool line_cut;   /* the line did not fit */
    uint8_t line_length;
    uint64_t body_of_request; /* bytes announced, or still to be skipped of the one before */
    char line[HTTP_LINE_BYTES];
};

/*
 * Takes bytes of a connection and answers the requests in them. Gives how many it took: fewer than `length` when the
 * connection has no room for another answer; the rest must come again.
 */
size_t http_receive(struct tcp_connection *connection, const char *bytes, size_t length);

#endif
