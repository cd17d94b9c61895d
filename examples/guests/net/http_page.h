/* The one page. */
#ifndef NET_HTTP_PAGE_H
#define NET_HTTP_PAGE_H

#include <stddef.h>

#include "net/http.h"

/* No answer is longer, that to a bad request included. */
#define HTTP_PAGE_BYTES_MAXIMUM 192

/*
 * Counts a request, and gives the answer to it: the page, or its head alone, with the header that closes the connection
 * where the exchange does. It stands until the next call.
 */
const char *http_page(const struct http_exchange *exchange, size_t *length);

#endif
