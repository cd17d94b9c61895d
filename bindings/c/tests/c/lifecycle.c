/* The whole life of sandboxes, by every verb that every host has. */
#include <stdbool.h>

#include "check.h"

static void describe(sandbox_runtime_t runtime)
{
    sandbox_text_t report = 0;
    OK(sandbox_runtime_probe(runtime, 0, &report, &error));
    CHECK(strstr(sandbox_text_data(report), "\"backend\":\"kvm\"") != NULL);
    CHECK(sandbox_text_length(report) == strlen(sandbox_text_data(report)));
    CHECK(sandbox_text_free(report) == SANDBOX_OK);
}

static void runs_from_create_to_torn_down(sandbox_runtime_t runtime, const char *guests)
{
    sandbox_t sandbox = create_guest(runtime, guests, "hello", "exit=7");
    CHECK(state_of(sandbox) == SANDBOX_STATE_CREATED);

    uint64_t capabilities = 0;
    OK(sandbox_capabilities(sandbox, &capabilities, &error));
    CHECK(capabilities & SANDBOX_CAPABILITY_PAUSE);

    sandbox_text_t id = 0;
    OK(sandbox_id(sandbox, &id, &error));
    CHECK(sandbox_text_length(id) > 0);
    sandbox_text_free(id);

    sandbox_exit ended = {0, 0};
    OK(sandbox_start(sandbox, 0, &error));
    OK(sandbox_wait(sandbox, PATIENCE, 0, &ended, &error));
    CHECK(ended.kind == SANDBOX_EXIT_CODE && ended.value == 7);
    CHECK(state_of(sandbox) == SANDBOX_STATE_STOPPED);

    sandbox_text_t report = 0;
    OK(sandbox_exit_report(sandbox, &report, &error));
    CHECK(strstr(sandbox_text_data(report), "exit code 7") != NULL);
    sandbox_text_free(report);

    uint8_t output[256];
    sandbox_chunk chunk;
    OK(sandbox_console_read(sandbox, 0, output, sizeof output, 0, 0, &chunk, &error));
    CHECK(chunk.start == 0);
    CHECK(chunk.length > 5 && memcmp(output, "hello", 5) == 0);
    uint64_t end = chunk.length;
    OK(sandbox_console_read(sandbox, 0, output, 3, 0, 0, &chunk, &error));
    CHECK(chunk.length == 3 && chunk.closed == 0);
    OK(sandbox_console_read(sandbox, end, output, sizeof output, SANDBOX_FOREVER, 0, &chunk, &error));
    CHECK(chunk.length == 0 && chunk.closed == 1);

    sandbox_stats stats;
    OK(sandbox_stats_read(sandbox, &stats, sizeof stats, &error));
    CHECK(stats.memory_guest_touched > 0 && stats.cpu_exits > 0 && stats.disk_count == 0);
    sandbox_disk_stats disk;
    EXPECT(SANDBOX_ERROR_INVALID_ARGUMENT, sandbox_disk_stats_read(sandbox, 0, &disk, sizeof disk, &error));
    sandbox_network_stats network;
    EXPECT(SANDBOX_ERROR_INVALID_ARGUMENT, sandbox_network_stats_read(sandbox, 0, &network, sizeof network, &error));
    /* A program that was compiled for an older, shorter structure. */
    memset(&stats, 0x55, sizeof stats);
    OK(sandbox_stats_read(sandbox, &stats, sizeof(uint64_t), &error));
    CHECK(stats.memory_proportional == 0x5555555555555555);
    sandbox_text_t json = 0;
    OK(sandbox_stats_to_json(sandbox, &json, &error));
    CHECK(strstr(sandbox_text_data(json), "guest_touched") != NULL);
    sandbox_text_free(json);

    OK(sandbox_networks_to_json(sandbox, &json, &error));
    CHECK(strcmp(sandbox_text_data(json), "[]") == 0);
    sandbox_text_free(json);

    OK(sandbox_teardown(sandbox, &error));
    OK(sandbox_wait_torn_down(sandbox, PATIENCE, 0, &error));
    CHECK(state_of(sandbox) == SANDBOX_STATE_TORN_DOWN);
    OK(sandbox_wait(sandbox, 0, 0, &ended, &error));
    CHECK(ended.value == 7);

    sandbox_timeline_entry entries[SANDBOX_TIMELINE_CAPACITY];
    size_t count = 0;
    OK(sandbox_timeline_read(sandbox, entries, SANDBOX_TIMELINE_CAPACITY, &count, &error));
    CHECK(count > 10 && count <= SANDBOX_TIMELINE_CAPACITY);
    CHECK(strcmp(sandbox_phase_name(entries[0].phase), "called") == 0);
    /* The last two are that everything is given back, and that teardown returned, in either order. */
    bool torn_down = false;
    for (size_t index = 1; index < count; index++) {
        CHECK(entries[index].real >= entries[index - 1].real && entries[index].cpu == SANDBOX_UNKNOWN);
        torn_down |= index + 2 >= count && strcmp(sandbox_phase_name(entries[index].phase), "torn_down") == 0;
    }
    CHECK(torn_down);
    CHECK(sandbox_phase_name(9999) == NULL);
    CHECK(sandbox_free(sandbox) == SANDBOX_OK);
}

static void pauses_resumes_and_stops(sandbox_runtime_t runtime, const char *guests)
{
    sandbox_t sandbox = start_guest(runtime, guests, "endings", "end=flood");
    OK(sandbox_pause(sandbox, 0, &error));
    CHECK(state_of(sandbox) == SANDBOX_STATE_PAUSED);
    EXPECT(SANDBOX_ERROR_WRONG_STATE, sandbox_pause(sandbox, 0, &error));
    OK(sandbox_resume(sandbox, 0, &error));
    EXPECT(SANDBOX_ERROR_WRONG_STATE, sandbox_resume(sandbox, 0, &error));
    EXPECT(SANDBOX_ERROR_TIMEOUT, sandbox_wait(sandbox, 5, 0, NULL, &error));
    EXPECT(SANDBOX_ERROR_TIMEOUT, sandbox_exit_report(sandbox, &(sandbox_text_t){0}, &error));
    sandbox_exit ended;
    OK(sandbox_stop(sandbox, 0, 0, &ended, &error));
    CHECK(ended.kind == SANDBOX_EXIT_KILLED);
    EXPECT(SANDBOX_ERROR_WRONG_STATE, sandbox_start(sandbox, 0, &error));
    CHECK(sandbox_free(sandbox) == SANDBOX_OK);
}

static void talks_to_the_console(sandbox_runtime_t runtime, const char *guests)
{
    const char *words = "good morning\nquit\n";
    sandbox_spec_t spec = own_guest(guests, "endings", "end=echo");
    OK(sandbox_spec_set_json(spec, "ready", "\"boot_port\"", &error));
    sandbox_t sandbox = 0;
    OK(sandbox_create(runtime, spec, 0, &sandbox, &error));
    sandbox_spec_free(spec);
    OK(sandbox_start(sandbox, 0, &error));
    OK(sandbox_wait_ready(sandbox, PATIENCE, 0, &error));
    size_t taken = 0;
    OK(sandbox_console_write(sandbox, (const uint8_t *)words, strlen(words), &taken, &error));
    CHECK(taken == strlen(words));
    char all[4096] = "";
    sandbox_chunk chunk = {0, 0, 0, 0};
    while (!chunk.closed) {
        uint64_t position = chunk.start + chunk.length;
        uint8_t *place = (uint8_t *)all + position;
        OK(sandbox_console_read(sandbox, position, place, sizeof all - 1 - position, PATIENCE, 0, &chunk, &error));
        CHECK(chunk.length > 0 || chunk.closed);
    }
    CHECK(strstr(all, "GOOD MORNING") != NULL);
    OK(sandbox_wait(sandbox, PATIENCE, 0, NULL, &error));
    CHECK(sandbox_free(sandbox) == SANDBOX_OK);
}

static void ends_are_told_apart(sandbox_runtime_t runtime, const char *guests)
{
    const struct {
        const char *end;
        int32_t kind;
    } ends[] = {
        {"end=power-off", SANDBOX_EXIT_POWER_OFF},
        {"end=reset", SANDBOX_EXIT_RESET},
        {"end=triple-fault", SANDBOX_EXIT_TRIPLE_FAULT},
    };
    for (size_t index = 0; index < sizeof ends / sizeof ends[0]; index++) {
        sandbox_t sandbox = start_guest(runtime, guests, "endings", ends[index].end);
        sandbox_exit ended;
        OK(sandbox_wait(sandbox, PATIENCE, 0, &ended, &error));
        CHECK(ended.kind == ends[index].kind);
        CHECK(sandbox_free(sandbox) == SANDBOX_OK);
    }
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    CHECK(sandbox_abi_version() == SANDBOX_ABI_VERSION);
    CHECK(sandbox_has_feature("kvm") == 1 && sandbox_has_feature("time travel") == 0 && !sandbox_has_feature(NULL));
    CHECK(strchr(sandbox_version(), '.') != NULL);
    int threads = count_threads();
    int descriptors = count_entries("/proc/self/fd");
    sandbox_runtime_t runtime = open_runtime();
    describe(runtime);
    runs_from_create_to_torn_down(runtime, arguments[1]);
    pauses_resumes_and_stops(runtime, arguments[1]);
    talks_to_the_console(runtime, arguments[1]);
    ends_are_told_apart(runtime, arguments[1]);
    CHECK(sandbox_runtime_free(runtime) == SANDBOX_OK);
    await_threads(threads);
    CHECK(count_entries("/proc/self/fd") == descriptors);
    return 0;
}
