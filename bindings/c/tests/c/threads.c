/* Eight threads use the same objects, and free them under each other's hands. */
#include <pthread.h>

#include "check.h"

enum { THREADS = 8, ROUNDS = 4 };

struct shared {
    const char *guests;
    sandbox_runtime_t runtime;
    sandbox_t sandbox;
    sandbox_spec_t spec;
    pthread_barrier_t barrier;
};

/* What a call comes to that meets a sandbox which others pause, stop and free at the same time. */
#define ANY_OF(call)                                                                                                   \
    do {                                                                                                               \
        sandbox_error_t error = 0;                                                                                     \
        int32_t answer = (call);                                                                                       \
        if (answer != SANDBOX_OK && answer != SANDBOX_ERROR_WRONG_STATE && answer != SANDBOX_ERROR_INVALID_HANDLE &&   \
            answer != SANDBOX_ERROR_TIMEOUT && answer != SANDBOX_ERROR_GUEST_ENDED)                                    \
            FAIL("%s: %d: %s", #call, answer, sandbox_error_message(error));                                           \
        CHECK(sandbox_error_free(error) == SANDBOX_OK);                                                                \
    } while (0)

static void *own_lives(void *argument)
{
    struct shared *shared = argument;
    for (int round = 0; round < ROUNDS; round++) {
        sandbox_t sandbox = start_guest(shared->runtime, shared->guests, "hello", "exit=3");
        sandbox_exit ended;
        OK(sandbox_wait(sandbox, PATIENCE, 0, &ended, &error));
        CHECK(ended.kind == SANDBOX_EXIT_CODE && ended.value == 3);
        CHECK(sandbox_free(sandbox) == SANDBOX_OK);
    }
    return NULL;
}

static void *one_life(void *argument)
{
    struct shared *shared = argument;
    sandbox_t sandbox = shared->sandbox;
    sandbox_stats stats;
    uint8_t output[64];
    pthread_barrier_wait(&shared->barrier);
    ANY_OF(sandbox_start(sandbox, 0, &error));
    ANY_OF(sandbox_pause(sandbox, 0, &error));
    ANY_OF(sandbox_resume(sandbox, 0, &error));
    ANY_OF(sandbox_stats_read(sandbox, &stats, sizeof stats, &error));
    ANY_OF(sandbox_console_read(sandbox, 0, output, sizeof output, 0, 0, &(sandbox_chunk){0}, &error));
    ANY_OF(sandbox_wait_ready(sandbox, 1, 0, &error));
    ANY_OF(sandbox_wait(sandbox, 1, 0, NULL, &error));
    ANY_OF(sandbox_stop(sandbox, 0, 0, NULL, &error));
    ANY_OF(sandbox_teardown(sandbox, &error));
    ANY_OF(sandbox_wait_torn_down(sandbox, PATIENCE, 0, &error));
    ANY_OF(sandbox_free(sandbox));
    return NULL;
}

static void *one_spec(void *argument)
{
    struct shared *shared = argument;
    for (int round = 0; round < 100; round++) {
        OK(sandbox_spec_set_integer(shared->spec, "vcpus", 1 + round % 4, &error));
        OK(sandbox_spec_check(shared->spec, &error));
    }
    return NULL;
}

static void *wait_for_end(void *argument)
{
    struct shared *shared = argument;
    pthread_barrier_wait(&shared->barrier);
    int32_t answer = sandbox_wait(shared->sandbox, SANDBOX_FOREVER, 0, NULL, NULL);
    CHECK(answer == SANDBOX_OK || answer == SANDBOX_ERROR_INVALID_HANDLE);
    return NULL;
}

static void together(void *(*work)(void *), struct shared *shared, int threads)
{
    pthread_t all[THREADS];
    for (int index = 0; index < threads; index++)
        CHECK(pthread_create(&all[index], NULL, work, shared) == 0);
    for (int index = 0; index < threads; index++)
        CHECK(pthread_join(all[index], NULL) == 0);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    int threads = count_threads();
    struct shared shared = {.guests = arguments[1], .runtime = open_runtime()};
    pthread_barrier_init(&shared.barrier, NULL, THREADS);
    together(own_lives, &shared, THREADS);
    for (int round = 0; round < ROUNDS; round++) {
        shared.sandbox = create_guest(shared.runtime, arguments[1], "endings", "end=spin");
        together(one_life, &shared, THREADS);
        CHECK(sandbox_free(shared.sandbox) == SANDBOX_ERROR_INVALID_HANDLE);
    }
    shared.spec = own_guest(arguments[1], "hello", NULL);
    together(one_spec, &shared, THREADS);
    CHECK(sandbox_spec_free(shared.spec) == SANDBOX_OK);

    /* Whoever waits for a sandbox that another thread frees hears of its end. */
    shared.sandbox = start_guest(shared.runtime, arguments[1], "endings", "end=halt");
    pthread_t waiting[THREADS - 1];
    for (int index = 0; index < THREADS - 1; index++)
        CHECK(pthread_create(&waiting[index], NULL, wait_for_end, &shared) == 0);
    pthread_barrier_wait(&shared.barrier);
    CHECK(sandbox_free(shared.sandbox) == SANDBOX_OK);
    for (int index = 0; index < THREADS - 1; index++)
        CHECK(pthread_join(waiting[index], NULL) == 0);

    pthread_barrier_destroy(&shared.barrier);
    CHECK(sandbox_runtime_free(shared.runtime) == SANDBOX_OK);
    await_threads(threads);
    return 0;
}
