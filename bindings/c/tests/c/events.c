/* Event queues, and the tokens that end waits. */
#include <poll.h>
#include <pthread.h>

#include "check.h"

static sandbox_event next(sandbox_events_t events)
{
    sandbox_event event;
    OK(sandbox_events_next(events, PATIENCE, 0, &event, &error));
    return event;
}

static int is_readable(sandbox_events_t events, int timeout)
{
    int descriptor = -1;
    OK(sandbox_events_descriptor(events, &descriptor, &error));
    struct pollfd place = {.fd = descriptor, .events = POLLIN};
    return poll(&place, 1, timeout) == 1 && (place.revents & POLLIN);
}

static void all_events_of_a_life(sandbox_runtime_t runtime, const char *guests)
{
    const uint32_t all =
        SANDBOX_EVENT_READY | SANDBOX_EVENT_EXIT | SANDBOX_EVENT_CONSOLE | SANDBOX_EVENT_TORN_DOWN;
    sandbox_events_t events = 0;
    OK(sandbox_events_open(&events, &error));
    sandbox_spec_t spec = own_guest(guests, "hello", NULL);
    OK(sandbox_spec_set_json(spec, "ready", "{\"console\": {\"marker\": \"hello\"}}", &error));
    sandbox_t sandbox = 0;
    OK(sandbox_create(runtime, spec, 0, &sandbox, &error));
    sandbox_spec_free(spec);
    OK(sandbox_events_watch(events, sandbox, all, 42, &error));
    CHECK(!is_readable(events, 0));
    EXPECT(SANDBOX_ERROR_TIMEOUT, sandbox_events_next(events, 5, 0, &(sandbox_event){0}, &error));
    OK(sandbox_start(sandbox, 0, &error));
    CHECK(is_readable(events, PATIENCE));
    uint32_t seen = 0;
    while (seen != (SANDBOX_EVENT_READY | SANDBOX_EVENT_EXIT | SANDBOX_EVENT_CONSOLE)) {
        sandbox_event event = next(events);
        CHECK(event.sandbox == sandbox && event.user_data == 42);
        /* Output comes as often as it is taken, the rest once. */
        CHECK(event.kind == SANDBOX_EVENT_CONSOLE || !(seen & event.kind));
        seen |= event.kind;
    }
    OK(sandbox_teardown(sandbox, &error));
    /* The end of the output may be news yet. */
    uint32_t kind = next(events).kind;
    if (kind == SANDBOX_EVENT_CONSOLE)
        kind = next(events).kind;
    CHECK(kind == SANDBOX_EVENT_TORN_DOWN);
    CHECK(!is_readable(events, 0));

    /* Who comes late is told what has happened. */
    sandbox_events_t late = 0;
    OK(sandbox_events_open(&late, &error));
    OK(sandbox_events_watch(late, sandbox, SANDBOX_EVENT_EXIT | SANDBOX_EVENT_TORN_DOWN, 1, &error));
    CHECK(next(late).kind == SANDBOX_EVENT_EXIT);
    CHECK(next(late).kind == SANDBOX_EVENT_TORN_DOWN);
    OK(sandbox_events_watch(late, sandbox, SANDBOX_EVENT_EXIT, 2, &error));
    CHECK(next(late).user_data == 2);
    OK(sandbox_events_unwatch(late, sandbox, &error));
    EXPECT(SANDBOX_ERROR_INVALID_ARGUMENT, sandbox_events_unwatch(late, sandbox, &error));
    CHECK(sandbox_events_free(late) == SANDBOX_OK);
    CHECK(sandbox_free(sandbox) == SANDBOX_OK);
    CHECK(sandbox_events_free(events) == SANDBOX_OK);
}

/* A guest that writes without end puts one event into the queue, not thousands. */
static void a_flood_does_not_fill_the_queue(sandbox_runtime_t runtime, const char *guests)
{
    sandbox_events_t events = 0;
    OK(sandbox_events_open(&events, &error));
    sandbox_t sandbox = create_guest(runtime, guests, "endings", "end=flood");
    OK(sandbox_events_watch(events, sandbox, SANDBOX_EVENT_CONSOLE, 0, &error));
    OK(sandbox_start(sandbox, 0, &error));
    CHECK(next(events).kind == SANDBOX_EVENT_CONSOLE);
    OK(sandbox_stop(sandbox, 0, 0, NULL, &error));
    int left = 0;
    while (sandbox_events_next(events, 0, 0, &(sandbox_event){0}, NULL) == SANDBOX_OK)
        left++;
    /* The last output, and that there is no more. */
    CHECK(left <= 2);
    /* A sandbox that is freed takes its events with it. */
    OK(sandbox_events_watch(events, sandbox, SANDBOX_EVENT_CONSOLE, 0, &error));
    CHECK(is_readable(events, PATIENCE));
    CHECK(sandbox_free(sandbox) == SANDBOX_OK);
    CHECK(!is_readable(events, 0));
    CHECK(sandbox_events_free(events) == SANDBOX_OK);
}

struct waiter {
    sandbox_runtime_t runtime;
    sandbox_t sandbox;
    sandbox_events_t events;
    sandbox_cancel_t cancel;
    int kind;
};

static void *wait_until_cancelled(void *argument)
{
    struct waiter *waiter = argument;
    uint8_t byte;
    switch (waiter->kind) {
    case 0:
        EXPECT(SANDBOX_ERROR_CANCELLED, sandbox_wait(waiter->sandbox, SANDBOX_FOREVER, waiter->cancel, NULL, &error));
        break;
    case 1:
        EXPECT(SANDBOX_ERROR_CANCELLED,
               sandbox_wait_ready(waiter->sandbox, SANDBOX_FOREVER, waiter->cancel, &error));
        break;
    case 2:
        EXPECT(SANDBOX_ERROR_CANCELLED,
               sandbox_console_read(waiter->sandbox, 1 << 20, &byte, 1, SANDBOX_FOREVER, waiter->cancel,
                                    &(sandbox_chunk){0}, &error));
        break;
    case 3:
        EXPECT(SANDBOX_ERROR_CANCELLED, sandbox_events_next(waiter->events, SANDBOX_FOREVER, waiter->cancel,
                                                            &(sandbox_event){0}, &error));
        break;
    default:
        EXPECT(SANDBOX_ERROR_CANCELLED,
               sandbox_log_next(SANDBOX_FOREVER, waiter->cancel, &(sandbox_text_t){0}, &error));
    }
    return NULL;
}

static void tokens_end_waits(sandbox_runtime_t runtime, const char *guests)
{
    sandbox_spec_t spec = own_guest(guests, "endings", "end=halt");
    OK(sandbox_spec_set_json(spec, "ready", "{\"console\": {\"marker\": \"never said\"}}", &error));
    struct waiter waiter = {.runtime = runtime};
    OK(sandbox_create(runtime, spec, 0, &waiter.sandbox, &error));
    OK(sandbox_events_open(&waiter.events, &error));
    OK(sandbox_start(waiter.sandbox, 0, &error));
    for (int turn = 0; turn < 2; turn++) {
        pthread_t threads[5];
        struct waiter waiters[5];
        OK(sandbox_cancel_new(&waiter.cancel, &error));
        /* The second time the token is triggered before anybody waits. */
        if (turn == 1)
            CHECK(sandbox_cancel_trigger(waiter.cancel) == SANDBOX_OK);
        for (int kind = 0; kind < 5; kind++) {
            waiters[kind] = waiter;
            waiters[kind].kind = kind;
            CHECK(pthread_create(&threads[kind], NULL, wait_until_cancelled, &waiters[kind]) == 0);
        }
        CHECK(sandbox_cancel_trigger(waiter.cancel) == SANDBOX_OK);
        for (int kind = 0; kind < 5; kind++)
            CHECK(pthread_join(threads[kind], NULL) == 0);
        EXPECT(SANDBOX_ERROR_CANCELLED, sandbox_create(runtime, spec, waiter.cancel, &(sandbox_t){0}, &error));
        EXPECT(SANDBOX_ERROR_CANCELLED, sandbox_pause(waiter.sandbox, waiter.cancel, &error));
        EXPECT(SANDBOX_ERROR_CANCELLED, sandbox_resume(waiter.sandbox, waiter.cancel, &error));
        EXPECT(SANDBOX_ERROR_CANCELLED, sandbox_start(waiter.sandbox, waiter.cancel, &error));
        EXPECT(SANDBOX_ERROR_CANCELLED, sandbox_runtime_probe(runtime, waiter.cancel, &(sandbox_text_t){0}, &error));
        EXPECT(SANDBOX_ERROR_CANCELLED, sandbox_stop(waiter.sandbox, 0, waiter.cancel, NULL, &error));
        CHECK(state_of(waiter.sandbox) == SANDBOX_STATE_RUNNING);
        CHECK(sandbox_cancel_free(waiter.cancel) == SANDBOX_OK);
        CHECK(sandbox_cancel_trigger(waiter.cancel) == SANDBOX_ERROR_INVALID_HANDLE);
    }
    /* A token that nobody triggers changes nothing. */
    sandbox_cancel_t idle = 0;
    sandbox_t other = 0;
    OK(sandbox_cancel_new(&idle, &error));
    OK(sandbox_create(runtime, spec, idle, &other, &error));
    OK(sandbox_start(other, idle, &error));
    OK(sandbox_pause(other, idle, &error));
    OK(sandbox_resume(other, idle, &error));
    EXPECT(SANDBOX_ERROR_WRONG_STATE, sandbox_resume(other, idle, &error));
    sandbox_text_t report = 0;
    OK(sandbox_runtime_probe(runtime, idle, &report, &error));
    CHECK(sandbox_text_free(report) == SANDBOX_OK);
    EXPECT(SANDBOX_ERROR_TIMEOUT, sandbox_wait(waiter.sandbox, 5, idle, NULL, &error));
    EXPECT(SANDBOX_ERROR_TIMEOUT, sandbox_wait_ready(waiter.sandbox, 5, idle, &error));
    sandbox_exit ended;
    OK(sandbox_stop(waiter.sandbox, 0, idle, &ended, &error));
    CHECK(ended.kind == SANDBOX_EXIT_KILLED);
    OK(sandbox_wait(waiter.sandbox, PATIENCE, idle, &ended, &error));
    EXPECT(SANDBOX_ERROR_GUEST_ENDED, sandbox_wait_ready(waiter.sandbox, PATIENCE, idle, &error));
    OK(sandbox_wait_torn_down(waiter.sandbox, PATIENCE, idle, &error));
    CHECK(sandbox_free(other) == SANDBOX_OK);
    CHECK(sandbox_free(waiter.sandbox) == SANDBOX_OK);
    CHECK(sandbox_events_free(waiter.events) == SANDBOX_OK);
    CHECK(sandbox_cancel_free(idle) == SANDBOX_OK);
    sandbox_spec_free(spec);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    int threads = count_threads();
    sandbox_runtime_t runtime = open_runtime();
    all_events_of_a_life(runtime, arguments[1]);
    a_flood_does_not_fill_the_queue(runtime, arguments[1]);
    tokens_end_waits(runtime, arguments[1]);
    CHECK(sandbox_runtime_free(runtime) == SANDBOX_OK);
    await_threads(threads);
    return 0;
}
