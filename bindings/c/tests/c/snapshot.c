/* Snapshot, restore and fork: clones go on where the original stood, and each for itself. */
#include "check.h"

/* The guest answers each line of input by a line that has the nonce drawn at its start, and counts them. */
static void ask(sandbox_t sandbox, char nonce[64], unsigned *line)
{
    static char output[65536];
    sandbox_chunk before, chunk;
    size_t taken = 0, length = 0;
    OK(sandbox_console_read(sandbox, 0, (uint8_t *)output, sizeof output, 0, 0, &before, &error));
    uint64_t start = before.start + before.length;
    OK(sandbox_console_write(sandbox, (const uint8_t *)"\n", 1, &taken, &error));
    CHECK(taken == 1);
    do {
        OK(sandbox_console_read(sandbox, start + length, (uint8_t *)output + length, sizeof output - 1 - length, PATIENCE,
                                0, &chunk, &error));
        CHECK(chunk.length > 0);
        length += chunk.length;
    } while (output[length - 1] != '\n');
    output[length] = 0;
    if (sscanf(output, "clone-check: nonce=%63s line=%u", nonce, line) != 2)
        FAIL("the guest said: %s", output);
}

static sandbox_t running(sandbox_runtime_t runtime, const char *guests)
{
    sandbox_spec_t spec = own_guest(guests, "clone-check", NULL);
    sandbox_t sandbox = 0;
    OK(sandbox_spec_set_string(spec, "ready", "boot_port", &error));
    OK(sandbox_create(runtime, spec, 0, &sandbox, &error));
    CHECK(sandbox_spec_free(spec) == SANDBOX_OK);
    OK(sandbox_start(sandbox, 0, &error));
    OK(sandbox_wait_ready(sandbox, PATIENCE, 0, &error));
    return sandbox;
}

static void goes_on(sandbox_t sandbox, const char *nonce, unsigned line)
{
    char its_nonce[64];
    unsigned its_line = 0;
    ask(sandbox, its_nonce, &its_line);
    CHECK(strcmp(its_nonce, nonce) == 0);
    CHECK(its_line == line);
}

static void is_brought_back(sandbox_runtime_t runtime, sandbox_t sandbox, const char *folder)
{
    char nonce[64];
    unsigned line = 0;
    sandbox_text_t manifest = 0;
    ask(sandbox, nonce, &line);
    OK(sandbox_snapshot(sandbox, folder, "{\"digest\": true}", 0, &manifest, &error));
    CHECK(strstr(sandbox_text_data(manifest), "\"backend\":\"kvm\"") != NULL);
    CHECK(sandbox_text_free(manifest) == SANDBOX_OK);
    EXPECT(SANDBOX_ERROR_ALREADY_EXISTS, sandbox_snapshot(sandbox, folder, NULL, 0, NULL, &error));
    EXPECT(SANDBOX_ERROR_UNSUPPORTED, sandbox_uniqueness_read(sandbox, &(sandbox_uniqueness){0}, &error));
    EXPECT(SANDBOX_ERROR_UNSUPPORTED, sandbox_wait_confirmed(sandbox, 0, 0, NULL, &error));
    goes_on(sandbox, nonce, line + 1);

    sandbox_t first = 0, second = 0;
    sandbox_uniqueness given = {-1, -1, -1, -1}, later;
    OK(sandbox_restore(runtime, folder, NULL, 0, &first, &given, &error));
    CHECK(given.entropy >= SANDBOX_GIVEN_NOTHING && given.address >= SANDBOX_GIVEN_NOTHING);
    CHECK(state_of(first) == SANDBOX_STATE_PAUSED);
    OK(sandbox_resume(first, 0, &error));
    OK(sandbox_restore(runtime, folder, "{\"memory\": \"eager\", \"verify\": \"full\", \"start\": true}", 0, &second,
                       NULL, &error));
    for (unsigned turn = 1; turn < 3; turn++) {
        goes_on(first, nonce, line + turn);
        goes_on(second, nonce, line + turn);
    }
    OK(sandbox_uniqueness_read(first, &later, &error));
    CHECK(sandbox_free(first) == SANDBOX_OK && sandbox_free(second) == SANDBOX_OK);
    EXPECT(SANDBOX_ERROR_NOT_FOUND, sandbox_restore(runtime, "/nowhere", NULL, 0, &first, NULL, &error));
}

static void is_forked(sandbox_t sandbox)
{
    enum { CLONES = 4 };
    sandbox_t clones[CLONES] = {0};
    sandbox_uniqueness given[CLONES];
    char nonce[64];
    unsigned line = 0;
    ask(sandbox, nonce, &line);
    memset(given, -1, sizeof given);
    OK(sandbox_fork(sandbox, CLONES, "{\"start\": true}", 0, clones, given, &error));
    for (unsigned index = 0; index < CLONES; index++) {
        CHECK(given[index].entropy >= SANDBOX_GIVEN_NOTHING);
        for (unsigned turn = 0; turn <= index; turn++)
            goes_on(clones[index], nonce, line + 1 + turn);
    }
    goes_on(sandbox, nonce, line + 1);
    for (unsigned index = 0; index < CLONES; index++)
        CHECK(sandbox_free(clones[index]) == SANDBOX_OK);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    int threads = count_threads();
    char folder[] = "/tmp/sandbox-c-XXXXXX", snapshot[64];
    CHECK(mkdtemp(folder) != NULL);
    snprintf(snapshot, sizeof snapshot, "%s/snapshot", folder);
    sandbox_runtime_t runtime = open_runtime();
    sandbox_t sandbox = running(runtime, arguments[1]);
    is_brought_back(runtime, sandbox, snapshot);
    is_forked(sandbox);
    CHECK(sandbox_free(sandbox) == SANDBOX_OK);
    CHECK(sandbox_runtime_free(runtime) == SANDBOX_OK);
    await_threads(threads);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0);
    return 0;
}
