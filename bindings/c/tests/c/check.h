/* What the test programs share. Each takes the folder of the project's own guests as its argument. */
#ifndef CHECK_H
#define CHECK_H

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sandbox.h>

/* Longer than anything here takes, under valgrind on a busy machine. */
#define PATIENCE 120000

#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                                \
        fprintf(stderr, __VA_ARGS__);                                                                                  \
        fprintf(stderr, "\n");                                                                                         \
        exit(1);                                                                                                       \
    } while (0)

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            FAIL("not so: %s", #condition);                                                                            \
    } while (0)

/* The call is made with an error place named `error` in it, and answers with this code; so does the error object. */
#define EXPECT(code, call)                                                                                             \
    do {                                                                                                               \
        sandbox_error_t error = 77;                                                                                    \
        int32_t answer = (call);                                                                                       \
        if (answer != (code))                                                                                          \
            FAIL("%s: %d instead of %d: %s", #call, answer, (code), answer ? sandbox_error_message(error) : "");       \
        if (answer == SANDBOX_OK) {                                                                                    \
            CHECK(error == 0);                                                                                         \
        } else {                                                                                                       \
            CHECK(sandbox_error_code(error) == (code));                                                                \
            CHECK(strlen(sandbox_error_message(error)) > 0);                                                           \
            CHECK(sandbox_error_free(error) == SANDBOX_OK);                                                            \
        }                                                                                                              \
    } while (0)

#define OK(call) EXPECT(SANDBOX_OK, call)

static inline sandbox_runtime_t open_runtime(void)
{
    sandbox_runtime_t runtime = 0;
    OK(sandbox_runtime_open(NULL, &runtime, &error));
    return runtime;
}

/* A spec for one of the own guests, in the home that the environment names. `argument` may be NULL. */
static inline sandbox_spec_t own_guest(const char *folder, const char *name, const char *argument)
{
    char path[4096];
    sandbox_spec_t spec = 0;
    const char *isolation = getenv("SANDBOX_TEST_ISOLATION");
    snprintf(path, sizeof path, "%s/%s", folder, name);
    OK(sandbox_spec_new(&spec, &error));
    OK(sandbox_spec_set_string(spec, "guest.unikernel.image", path, &error));
    OK(sandbox_spec_set_string(spec, "guest.unikernel.family", "bare", &error));
    if (argument != NULL)
        OK(sandbox_spec_set_string(spec, "guest.unikernel.args[0]", argument, &error));
    OK(sandbox_spec_set_integer(spec, "memory", 16 << 20, &error));
    OK(sandbox_spec_set_string(spec, "isolation", isolation ? isolation : "in_process", &error));
    return spec;
}

static inline sandbox_t create_guest(sandbox_runtime_t runtime, const char *folder, const char *name, const char *argument)
{
    sandbox_t sandbox = 0;
    sandbox_spec_t spec = own_guest(folder, name, argument);
    OK(sandbox_create(runtime, spec, 0, &sandbox, &error));
    CHECK(sandbox_spec_free(spec) == SANDBOX_OK);
    return sandbox;
}

static inline sandbox_t start_guest(sandbox_runtime_t runtime, const char *folder, const char *name, const char *argument)
{
    sandbox_t sandbox = create_guest(runtime, folder, name, argument);
    OK(sandbox_start(sandbox, 0, &error));
    return sandbox;
}

static inline int32_t state_of(sandbox_t sandbox)
{
    int32_t state = 0;
    OK(sandbox_state(sandbox, &state, &error));
    return state;
}

static inline int count_entries(const char *folder)
{
    int count = 0;
    DIR *directory = opendir(folder);
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

static inline int count_threads(void)
{
    return count_entries("/proc/self/task");
}

/* A joined thread has left the process for us, but the kernel lists it for a moment yet. */
static inline void await_threads(int count)
{
    const struct timespec moment = {0, 1000000};
    for (int turn = 0; turn < 60000 && count_threads() > count; turn++)
        nanosleep(&moment, NULL);
    CHECK(count_threads() == count);
}

#endif
