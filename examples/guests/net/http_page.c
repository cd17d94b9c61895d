/*
 * The page is kept written out, and only the digits of its counter change from one request to the next: to write it
 * anew each time would be most of what the guest does for a request.
 */
#include "net/http_page.h"

#include "machine/memory.h"
#include "machine/text.h"

static const char status_and_type[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ";
static const char connection_close[] = "\r\nConnection: close";
static const char end_of_head[] = "\r\n\r\n";
static const char body_before_counter[] = "hello from http-reply\nrequest ";
static const char body_after_counter[] = "\n";

struct page {
    size_t counter_length; /* the page is written for a counter of so many digits; 0 before it is written at all */
    size_t head_length;
    size_t length;
    size_t counter_offset;
    char text[HTTP_PAGE_BYTES_MAXIMUM];
};

_Static_assert(sizeof status_and_type + 2 + sizeof connection_close + sizeof end_of_head + sizeof body_before_counter +
                       TEXT_NUMBER_BYTES + sizeof body_after_counter <=
                   HTTP_PAGE_BYTES_MAXIMUM,
               "the longest page must fit");

/* Indexed by whether the connection closes. */
static struct page pages[2];

/* The count of requests in decimal, at the end of its array. */
static char counter[TEXT_NUMBER_BYTES];
static size_t counter_length;

static void count_request(void)
{
    size_t position = sizeof counter;

    for (;;) {
        position--;
        if (sizeof counter - position > counter_length) {
            counter[position] = '1';
            counter_length++;
            return;
        }
        if (counter[position] != '9') {
            counter[position]++;
            return;
        }
        counter[position] = '0';
    }
}

static void append(struct page *page, const char *text, size_t length)
{
    memcpy(page->text + page->length, text, length);
    page->length += length;
}

static void write_page(struct page *page, bool close)
{
    char digits[TEXT_NUMBER_BYTES];
    size_t body_length = sizeof body_before_counter - 1 + counter_length + sizeof body_after_counter - 1;

    page->length = 0;
    append(page, status_and_type, sizeof status_and_type - 1);
    append(page, digits, text_format_number(digits, body_length));
    if (close)
        append(page, connection_close, sizeof connection_close - 1);
    append(page, end_of_head, sizeof end_of_head - 1);
    page->head_length = page->length;
    append(page, body_before_counter, sizeof body_before_counter - 1);
    page->counter_offset = page->length;
    page->length += counter_length;
    append(page, body_after_counter, sizeof body_after_counter - 1);
    page->counter_length = counter_length;
}

const char *http_page(const struct http_exchange *exchange, size_t *length)
{
    struct page *page = &pages[exchange->close];

    count_request();
    if (page->counter_length != counter_length)
        write_page(page, exchange->close);
    memcpy(page->text + page->counter_offset, counter + sizeof counter - counter_length, counter_length);
    *length = exchange->head ? page->head_length : page->length;
    return page->text;
}
