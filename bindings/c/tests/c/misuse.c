/* Every misuse has a code, and none crashes. */
#include "check.h"

#define INVALID SANDBOX_ERROR_INVALID_ARGUMENT
#define NO_HANDLE SANDBOX_ERROR_INVALID_HANDLE

static void null_where_something_must_be(sandbox_runtime_t runtime, sandbox_spec_t spec, sandbox_t sandbox)
{
    sandbox_events_t events = 0;
    OK(sandbox_events_open(&events, &error));
    EXPECT(INVALID, sandbox_runtime_open(NULL, NULL, &error));
    EXPECT(INVALID, sandbox_runtime_probe(runtime, 0, NULL, &error));
    EXPECT(INVALID, sandbox_spec_new(NULL, &error));
    EXPECT(INVALID, sandbox_spec_from_json(NULL, 5, &(sandbox_spec_t){0}, &error));
    EXPECT(INVALID, sandbox_spec_from_json("{}", 2, NULL, &error));
    EXPECT(INVALID, sandbox_spec_set_string(spec, NULL, "x", &error));
    EXPECT(INVALID, sandbox_spec_set_string(spec, "id", NULL, &error));
    EXPECT(INVALID, sandbox_spec_set_integer(spec, NULL, 1, &error));
    EXPECT(INVALID, sandbox_spec_set_boolean(spec, NULL, 1, &error));
    EXPECT(INVALID, sandbox_spec_set_json(spec, "id", NULL, &error));
    EXPECT(INVALID, sandbox_spec_to_json(spec, NULL, &error));
    EXPECT(INVALID, sandbox_create(runtime, spec, 0, NULL, &error));
    EXPECT(INVALID, sandbox_restore(runtime, "x", NULL, 0, NULL, NULL, &error));
    EXPECT(INVALID, sandbox_restore(runtime, NULL, NULL, 0, &(sandbox_t){0}, NULL, &error));
    EXPECT(INVALID, sandbox_snapshot(sandbox, NULL, NULL, 0, NULL, &error));
    EXPECT(INVALID, sandbox_fork(sandbox, 1, NULL, 0, NULL, NULL, &error));
    EXPECT(INVALID, sandbox_fork(sandbox, 0, NULL, 0, &(sandbox_t){0}, NULL, &error));
    EXPECT(INVALID, sandbox_id(sandbox, NULL, &error));
    EXPECT(INVALID, sandbox_state(sandbox, NULL, &error));
    EXPECT(INVALID, sandbox_capabilities(sandbox, NULL, &error));
    EXPECT(INVALID, sandbox_console_read(sandbox, 0, NULL, 1, 0, 0, &(sandbox_chunk){0}, &error));
    EXPECT(INVALID, sandbox_console_read(sandbox, 0, NULL, 0, 0, 0, NULL, &error));
    EXPECT(INVALID, sandbox_console_write(sandbox, NULL, 1, &(size_t){0}, &error));
    EXPECT(INVALID, sandbox_console_write(sandbox, NULL, 0, NULL, &error));
    EXPECT(INVALID, sandbox_exec(sandbox, NULL, NULL, 0, &(sandbox_exec_t){0}, &error));
    EXPECT(INVALID, sandbox_exit_report(sandbox, NULL, &error));
    EXPECT(INVALID, sandbox_stats_read(sandbox, NULL, sizeof(sandbox_stats), &error));
    EXPECT(INVALID, sandbox_stats_read(sandbox, &(sandbox_stats){0}, 0, &error));
    EXPECT(INVALID, sandbox_stats_to_json(sandbox, NULL, &error));
    EXPECT(INVALID, sandbox_networks_to_json(sandbox, NULL, &error));
    EXPECT(INVALID, sandbox_uniqueness_read(sandbox, NULL, &error));
    EXPECT(INVALID, sandbox_timeline_read(sandbox, NULL, 1, &(size_t){0}, &error));
    EXPECT(INVALID, sandbox_timeline_read(sandbox, NULL, 0, NULL, &error));
    EXPECT(INVALID, sandbox_cancel_new(NULL, &error));
    EXPECT(INVALID, sandbox_events_open(NULL, &error));
    EXPECT(INVALID, sandbox_events_descriptor(events, NULL, &error));
    EXPECT(INVALID, sandbox_events_watch(events, sandbox, 0, 0, &error));
    EXPECT(INVALID, sandbox_events_watch(events, sandbox, 1u << 31, 0, &error));
    EXPECT(INVALID, sandbox_events_unwatch(events, sandbox, &error));
    EXPECT(INVALID, sandbox_events_next(events, 0, 0, NULL, &error));
    EXPECT(INVALID, sandbox_log_level(77, &error));
    EXPECT(INVALID, sandbox_log_next(0, 0, NULL, &error));
    CHECK(sandbox_text_data(0) == NULL && sandbox_text_length(0) == 0);
    CHECK(sandbox_error_code(0) == NO_HANDLE && sandbox_error_field(0) == NULL);
    CHECK(sandbox_error_message(0) != NULL);
    CHECK(sandbox_events_free(events) == SANDBOX_OK);
    /* Nobody wants the error object. */
    CHECK(sandbox_state(sandbox, NULL, NULL) == INVALID);
    CHECK(sandbox_state(12345, &(int32_t){0}, NULL) == NO_HANDLE);
}

static void text_that_is_no_text(sandbox_runtime_t runtime, sandbox_spec_t spec, sandbox_t sandbox)
{
    const char *latin = "caf\xe9";
    const char *words[] = {latin, NULL};
    EXPECT(INVALID, sandbox_runtime_open(latin, &(sandbox_runtime_t){0}, &error));
    EXPECT(INVALID, sandbox_spec_set_string(spec, latin, "x", &error));
    EXPECT(INVALID, sandbox_spec_set_string(spec, "id", latin, &error));
    EXPECT(INVALID, sandbox_spec_set_json(spec, "id", latin, &error));
    EXPECT(INVALID, sandbox_spec_set_json(spec, "id", "{", &error));
    EXPECT(INVALID, sandbox_spec_set_string(spec, "disks[9].id", "x", &error));
    EXPECT(SANDBOX_ERROR_INVALID_SPEC, sandbox_spec_from_json(latin, strlen(latin), &(sandbox_spec_t){0}, &error));
    EXPECT(INVALID, sandbox_restore(runtime, latin, NULL, 0, &(sandbox_t){0}, NULL, &error));
    EXPECT(INVALID, sandbox_snapshot(sandbox, latin, NULL, 0, NULL, &error));
    EXPECT(INVALID, sandbox_exec(sandbox, words, NULL, 0, &(sandbox_exec_t){0}, &error));
    CHECK(sandbox_has_feature(latin) == 0);
}

static void documents_with_mistakes(sandbox_runtime_t runtime, sandbox_t sandbox)
{
    const char *json = "{\"guest\": {\"linux\": {\"kernel\": \"k\"}}, \"memroy\": 1}";
    sandbox_error_t error = 0;
    CHECK(sandbox_spec_from_json(json, strlen(json), &(sandbox_spec_t){0}, &error) == SANDBOX_ERROR_INVALID_SPEC);
    CHECK(strcmp(sandbox_error_field(error), "memroy") == 0);
    CHECK(strstr(sandbox_error_message(error), "memroy") != NULL);
    sandbox_error_free(error);
    sandbox_spec_t empty = 0;
    OK(sandbox_spec_new(&empty, &error));
    EXPECT(SANDBOX_ERROR_INVALID_SPEC, sandbox_spec_check(empty, &error));
    EXPECT(SANDBOX_ERROR_INVALID_SPEC, sandbox_create(runtime, empty, 0, &(sandbox_t){0}, &error));
    sandbox_spec_free(empty);
    EXPECT(SANDBOX_ERROR_INVALID_SPEC, sandbox_runtime_open("{\"kick\": 1}", &(sandbox_runtime_t){0}, &error));
    EXPECT(SANDBOX_ERROR_INVALID_SPEC,
           sandbox_restore(runtime, "x", "{\"memory\": \"lazy\"}", 0, &(sandbox_t){0}, NULL, &error));
    EXPECT(SANDBOX_ERROR_INVALID_SPEC, sandbox_snapshot(sandbox, "x", "[]", 0, NULL, &error));
    EXPECT(SANDBOX_ERROR_INVALID_SPEC, sandbox_fork(sandbox, 1, "{", 0, &(sandbox_t){0}, NULL, &error));
}

/* Each function with a handle that is freed, of another kind, or invented. */
static void handles_that_name_nothing(sandbox_t dead, sandbox_spec_t other_kind)
{
    const char *words[] = {"true", NULL};
    const uint64_t bad[] = {dead, other_kind, 1, UINT64_MAX, dead ^ 0x1000000};
    for (size_t index = 0; index < sizeof bad / sizeof bad[0]; index++) {
        uint64_t handle = bad[index];
        EXPECT(NO_HANDLE, sandbox_runtime_probe(handle, 0, &(sandbox_text_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_runtime_preload(handle, other_kind, 0, &error));
        EXPECT(NO_HANDLE, sandbox_create(handle, other_kind, 0, &(sandbox_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_restore(handle, "x", NULL, 0, &(sandbox_t){0}, NULL, &error));
        EXPECT(NO_HANDLE, sandbox_id(handle, &(sandbox_text_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_state(handle, &(int32_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_capabilities(handle, &(uint64_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_start(handle, 0, &error));
        EXPECT(NO_HANDLE, sandbox_wait_ready(handle, 0, 0, &error));
        EXPECT(NO_HANDLE, sandbox_pause(handle, 0, &error));
        EXPECT(NO_HANDLE, sandbox_resume(handle, 0, &error));
        EXPECT(NO_HANDLE, sandbox_snapshot(handle, "x", NULL, 0, NULL, &error));
        EXPECT(NO_HANDLE, sandbox_fork(handle, 1, NULL, 0, &(sandbox_t){0}, NULL, &error));
        EXPECT(NO_HANDLE, sandbox_wait(handle, 0, 0, NULL, &error));
        EXPECT(NO_HANDLE, sandbox_stop(handle, 0, 0, NULL, &error));
        EXPECT(NO_HANDLE, sandbox_teardown(handle, &error));
        EXPECT(NO_HANDLE, sandbox_wait_torn_down(handle, 0, 0, &error));
        EXPECT(NO_HANDLE, sandbox_console_read(handle, 0, NULL, 0, 0, 0, &(sandbox_chunk){0}, &error));
        EXPECT(NO_HANDLE, sandbox_console_write(handle, NULL, 0, &(size_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_exec(handle, words, NULL, 0, &(sandbox_exec_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_exec_read(handle, 0, NULL, 0, 0, 0, &(sandbox_chunk){0}, &error));
        EXPECT(NO_HANDLE, sandbox_exec_write(handle, NULL, 0, &(size_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_exec_wait(handle, 0, 0, NULL, &error));
        EXPECT(NO_HANDLE, sandbox_exit_report(handle, &(sandbox_text_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_stats_read(handle, &(sandbox_stats){0}, sizeof(sandbox_stats), &error));
        EXPECT(NO_HANDLE, sandbox_disk_stats_read(handle, 0, &(sandbox_disk_stats){0}, 8, &error));
        EXPECT(NO_HANDLE, sandbox_network_stats_read(handle, 0, &(sandbox_network_stats){0}, 8, &error));
        EXPECT(NO_HANDLE, sandbox_stats_to_json(handle, &(sandbox_text_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_networks_to_json(handle, &(sandbox_text_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_uniqueness_read(handle, &(sandbox_uniqueness){0}, &error));
        EXPECT(NO_HANDLE, sandbox_wait_confirmed(handle, 0, 0, NULL, &error));
        EXPECT(NO_HANDLE, sandbox_timeline_read(handle, NULL, 0, &(size_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_events_descriptor(handle, &(int32_t){0}, &error));
        EXPECT(NO_HANDLE, sandbox_events_watch(handle, handle, SANDBOX_EVENT_EXIT, 0, &error));
        EXPECT(NO_HANDLE, sandbox_events_unwatch(handle, handle, &error));
        EXPECT(NO_HANDLE, sandbox_events_next(handle, 0, 0, &(sandbox_event){0}, &error));
        EXPECT(NO_HANDLE, sandbox_log_next(0, handle, &(sandbox_text_t){0}, &error));
        CHECK(sandbox_cancel_trigger(handle) == NO_HANDLE);
        CHECK(sandbox_cancel_free(handle) == NO_HANDLE);
        CHECK(sandbox_runtime_free(handle) == NO_HANDLE);
        CHECK(sandbox_free(handle) == NO_HANDLE);
        CHECK(sandbox_exec_free(handle) == NO_HANDLE);
        CHECK(sandbox_events_free(handle) == NO_HANDLE);
        CHECK(sandbox_error_free(handle) == NO_HANDLE);
        CHECK(sandbox_text_free(handle) == NO_HANDLE);
        CHECK(sandbox_error_code(handle) == NO_HANDLE);
        CHECK(sandbox_text_data(handle) == NULL);
        if (handle != other_kind) {
            EXPECT(NO_HANDLE, sandbox_spec_check(handle, &error));
            EXPECT(NO_HANDLE, sandbox_spec_set_string(handle, "id", "x", &error));
            EXPECT(NO_HANDLE, sandbox_spec_set_integer(handle, "memory", 1, &error));
            EXPECT(NO_HANDLE, sandbox_spec_set_boolean(handle, "rng", 1, &error));
            EXPECT(NO_HANDLE, sandbox_spec_set_json(handle, "id", "1", &error));
            EXPECT(NO_HANDLE, sandbox_spec_to_json(handle, &(sandbox_text_t){0}, &error));
            CHECK(sandbox_spec_free(handle) == NO_HANDLE);
        }
    }
}

static void nothing_can_be_freed(void)
{
    CHECK(sandbox_runtime_free(SANDBOX_NONE) == SANDBOX_OK);
    CHECK(sandbox_spec_free(SANDBOX_NONE) == SANDBOX_OK);
    CHECK(sandbox_free(SANDBOX_NONE) == SANDBOX_OK);
    CHECK(sandbox_exec_free(SANDBOX_NONE) == SANDBOX_OK);
    CHECK(sandbox_events_free(SANDBOX_NONE) == SANDBOX_OK);
    CHECK(sandbox_cancel_free(SANDBOX_NONE) == SANDBOX_OK);
    CHECK(sandbox_text_free(SANDBOX_NONE) == SANDBOX_OK);
    CHECK(sandbox_error_free(SANDBOX_NONE) == SANDBOX_OK);
}

static void freeing_twice(sandbox_runtime_t runtime, const char *guests)
{
    sandbox_error_t first = 0;
    CHECK(sandbox_state(0, &(int32_t){0}, &first) == NO_HANDLE);
    CHECK(sandbox_error_free(first) == SANDBOX_OK && sandbox_error_free(first) == NO_HANDLE);
    CHECK(sandbox_error_message(first) != NULL);
    sandbox_text_t text = 0;
    OK(sandbox_runtime_probe(runtime, 0, &text, &error));
    CHECK(sandbox_text_free(text) == SANDBOX_OK && sandbox_text_free(text) == NO_HANDLE);
    sandbox_spec_t spec = own_guest(guests, "hello", NULL);
    CHECK(sandbox_spec_free(spec) == SANDBOX_OK && sandbox_spec_free(spec) == NO_HANDLE);
    sandbox_t sandbox = create_guest(runtime, guests, "hello", NULL);
    CHECK(sandbox_free(sandbox) == SANDBOX_OK && sandbox_free(sandbox) == NO_HANDLE);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    sandbox_runtime_t runtime = open_runtime();
    sandbox_spec_t spec = own_guest(arguments[1], "hello", NULL);
    sandbox_t sandbox = create_guest(runtime, arguments[1], "hello", NULL);
    null_where_something_must_be(runtime, spec, sandbox);
    text_that_is_no_text(runtime, spec, sandbox);
    documents_with_mistakes(runtime, sandbox);
    CHECK(state_of(sandbox) == SANDBOX_STATE_CREATED);
    EXPECT(SANDBOX_ERROR_WRONG_STATE, sandbox_wait_ready(sandbox, 0, 0, &error));
    EXPECT(SANDBOX_ERROR_WRONG_STATE, sandbox_pause(sandbox, 0, &error));
    EXPECT(SANDBOX_ERROR_WRONG_STATE, sandbox_console_write(sandbox, (const uint8_t *)"x", 1, &(size_t){0}, &error));
    CHECK(sandbox_free(sandbox) == SANDBOX_OK);
    handles_that_name_nothing(sandbox, spec);
    nothing_can_be_freed();
    freeing_twice(runtime, arguments[1]);
    CHECK(sandbox_spec_free(spec) == SANDBOX_OK);
    CHECK(sandbox_runtime_free(runtime) == SANDBOX_OK);
    return 0;
}
