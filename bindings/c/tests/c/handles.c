/* 10,000 handles of each kind that costs no virtual machine, made and freed: for valgrind, which finds no leak. */
#include "check.h"

enum { COUNT = 10000 };

int main(int count, char **arguments)
{
    CHECK(count == 2);
    sandbox_runtime_t first = open_runtime();
    for (int index = 0; index < COUNT; index++) {
        sandbox_runtime_t runtime = open_runtime();
        sandbox_spec_t spec = 0;
        sandbox_cancel_t cancel = 0;
        sandbox_text_t json = 0;
        sandbox_error_t error = 0;
        CHECK(sandbox_spec_new(&spec, NULL) == SANDBOX_OK);
        CHECK(sandbox_spec_set_string(spec, "guest.linux.kernel", arguments[1], NULL) == SANDBOX_OK);
        CHECK(sandbox_spec_to_json(spec, &json, NULL) == SANDBOX_OK);
        CHECK(sandbox_cancel_new(&cancel, NULL) == SANDBOX_OK);
        CHECK(sandbox_spec_set_string(spec, "", "", &error) == SANDBOX_ERROR_INVALID_ARGUMENT);
        CHECK(sandbox_error_free(error) == SANDBOX_OK);
        CHECK(sandbox_text_free(json) == SANDBOX_OK);
        CHECK(sandbox_cancel_free(cancel) == SANDBOX_OK);
        CHECK(sandbox_spec_free(spec) == SANDBOX_OK);
        CHECK(sandbox_runtime_free(runtime) == SANDBOX_OK);
    }
    /* Event queues have a descriptor each. */
    int descriptors = count_entries("/proc/self/fd");
    for (int index = 0; index < COUNT; index++) {
        sandbox_events_t events = 0;
        CHECK(sandbox_events_open(&events, NULL) == SANDBOX_OK);
        CHECK(sandbox_events_free(events) == SANDBOX_OK);
    }
    CHECK(count_entries("/proc/self/fd") == descriptors);
    CHECK(sandbox_runtime_free(first) == SANDBOX_OK);
    return 0;
}
