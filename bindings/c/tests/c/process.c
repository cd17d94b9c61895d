/* What the library does to the process that it lives in: forks, signals, loading and unloading. Linked without it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define LOOK_UP(name) __typeof__(name) *name##_ = (__typeof__(name) *)dlsym(library, #name)

static atomic_int alarms;

static void on_alarm(int number)
{
    (void)number;
    /* Only the program's own thread gets here. */
    CHECK(getpid() == gettid());
    atomic_fetch_add(&alarms, 1);
}

static void in_a_forked_child(void *library)
{
    LOOK_UP(sandbox_runtime_open);
    LOOK_UP(sandbox_spec_free);
    LOOK_UP(sandbox_abi_version);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        sandbox_runtime_t runtime = 0;
        sandbox_error_t error = 77;
        int forked = sandbox_runtime_open_(NULL, &runtime, &error) == SANDBOX_ERROR_FORKED && error == 0;
        forked &= sandbox_spec_free_(1) == SANDBOX_ERROR_FORKED;
        _exit(forked && sandbox_abi_version_() == SANDBOX_ABI_VERSION ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* A life during which the process gets a storm of signals. */
static void a_life(void *library, const char *guests)
{
    LOOK_UP(sandbox_runtime_open);
    LOOK_UP(sandbox_spec_from_json);
    LOOK_UP(sandbox_create);
    LOOK_UP(sandbox_start);
    LOOK_UP(sandbox_wait);
    LOOK_UP(sandbox_pause);
    LOOK_UP(sandbox_resume);
    LOOK_UP(sandbox_stop);
    LOOK_UP(sandbox_free);
    LOOK_UP(sandbox_spec_free);
    LOOK_UP(sandbox_runtime_free);
    char json[4096];
    int length = snprintf(json, sizeof json,
                          "{\"guest\": {\"unikernel\": {\"image\": \"%s/endings\", \"family\": \"bare\", \"args\": "
                          "[\"end=spin\"]}}, \"memory\": 16777216, \"isolation\": \"in_process\"}",
                          guests);
    sandbox_runtime_t runtime = 0;
    sandbox_spec_t spec = 0;
    sandbox_t sandbox = 0;
    CHECK(sandbox_runtime_open_(NULL, &runtime, NULL) == SANDBOX_OK);
    CHECK(sandbox_spec_from_json_(json, length, &spec, NULL) == SANDBOX_OK);
    CHECK(sandbox_create_(runtime, spec, 0, &sandbox, NULL) == SANDBOX_OK);
    CHECK(sandbox_start_(sandbox, 0, NULL) == SANDBOX_OK);
    CHECK(count_threads() > 3);
    for (int round = 0; round < 100; round++) {
        CHECK(kill(getpid(), SIGALRM) == 0);
        CHECK(sandbox_pause_(sandbox, 0, NULL) == SANDBOX_OK);
        CHECK(sandbox_resume_(sandbox, 0, NULL) == SANDBOX_OK);
    }
    CHECK(atomic_load(&alarms) > 0);
    in_a_forked_child(library);
    CHECK(sandbox_wait_(sandbox, 1, 0, NULL, NULL) == SANDBOX_ERROR_TIMEOUT);
    CHECK(sandbox_stop_(sandbox, 0, 0, NULL, NULL) == SANDBOX_OK);
    CHECK(sandbox_free_(sandbox) == SANDBOX_OK);
    CHECK(sandbox_spec_free_(spec) == SANDBOX_OK);
    CHECK(sandbox_runtime_free_(runtime) == SANDBOX_OK);
}

/* The dispositions of all signals but the kick signal. */
static void read_dispositions(struct sigaction all[65])
{
    for (int number = 1; number <= 64; number++)
        if (sigaction(number, NULL, &all[number]) != 0)
            all[number].sa_handler = SIG_DFL;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    static struct sigaction before[65], after[65];
    struct sigaction action = {.sa_handler = on_alarm};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    read_dispositions(before);
    int threads = count_threads();
    for (int round = 0; round < 3; round++) {
        void *library = dlopen("libsandbox.so.0", RTLD_NOW | RTLD_LOCAL);
        if (library == NULL)
            FAIL("%s", dlerror());
        a_life(library, arguments[1]);
        await_threads(threads);
        CHECK(dlclose(library) == 0);
    }
    read_dispositions(after);
    int changed = 0;
    for (int number = 1; number <= 64; number++)
        if (before[number].sa_handler != after[number].sa_handler) {
            changed++;
            CHECK(number == SIGRTMAX - 1);
            CHECK(after[number].sa_flags & SA_ONSTACK);
        }
    CHECK(changed == 1);
    return 0;
}
