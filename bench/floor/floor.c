// The floor of a cold start: the KVM calls that no monitor can leave out, in a bare program. It runs the same image as
// the SDK does, in the same processor state, and answers the exits that the image makes.
//
//   floor IMAGE ROUNDS            in one process
//   floor --jailed IMAGE ROUNDS   in a process per round, started into new namespaces and jailed as a worker is: empty
//                                 root, unprivileged user, no capabilities, Landlock, limits, two filters (needs root)
//
// IMAGE: a static 64-bit ELF that is entered in long mode with the first GiB mapped to itself, writes its console to
// port 0x3f8 and ends by writing its exit code to port 0x501. Prints a line per round with real and processor time in
// nanoseconds from the first call: to the first entry, to the first exit, to the guest's end, to all closed.
#define _GNU_SOURCE
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "guest.h"

enum { CONSOLE_PORT = 0x3f8, DEBUG_EXIT_PORT = 0x501 };

// Answers exits until the guest ends; returns its exit code.
static int serve(int vcpu, struct kvm_run *run, struct stamp *first_exit) {
    static char console[4096];
    size_t used = 0;
    for (int first = 1;; first = 0) {
        call(vcpu, KVM_RUN, 0, "KVM_RUN");
        if (first) *first_exit = now();
        if (run->exit_reason != KVM_EXIT_IO) {
            fprintf(stderr, "unexpected exit %u\n", run->exit_reason);
            exit(1);
        }
        uint8_t *data = (uint8_t *)run + run->io.data_offset;
        size_t size = (size_t)run->io.size * run->io.count;
        if (run->io.direction == KVM_EXIT_IO_IN) memset(data, 0xff, size);
        else if (run->io.port == DEBUG_EXIT_PORT) return data[0];
        else if (run->io.port == CONSOLE_PORT && used + size <= sizeof console) memcpy(console + used, data, size), used += size;
    }
}

static void filter(void) {
    // As many calls as a worker's threads have, the one that counts first.
    static const int calls[] = {SYS_ioctl, 0, 1, 3, 7, 9, 10, 11, 12, 14, 15, 17, 18, 19, 20, 24, 25, 28, 35, 39, 44, 45,
                                46, 47, 48, 53, 60, 72, 74, 75, 131, 186, 202, 219, 228, 230, 231, 232, 233, 234, 271,
                                281, 285, 286, 288, 295, 296, 318, 327, 328, 262, 5, 317};
    enum { COUNT = sizeof calls / sizeof *calls };
    struct sock_filter code[COUNT * 2 + 3] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    int used = 1;
    for (int i = 0; i < COUNT; i++) {
        code[used++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
        code[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    code[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog program = {.len = (unsigned short)used, .filter = code};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) die("seccomp");
}

static void enter_jail(void) {
    if (mount(0, "/", 0, MS_REC | MS_PRIVATE, 0)) die("private mounts");
    if (mount("tmpfs", "/tmp", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=1")) die("tmpfs");
    if (chdir("/tmp")) die("chdir");
    if (syscall(SYS_pivot_root, ".", ".") == 0) umount2(".", MNT_DETACH);
    else if (mount(".", "/", 0, MS_MOVE, 0) || chroot(".")) die("root");
    if (chdir("/") || setgroups(0, 0) || setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)) die("user");
    if (unshare(CLONE_NEWUSER)) die("user namespace");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    if (syscall(SYS_capset, &header, none)) die("capset");
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0);
    uint64_t files = 0x1fff;
    int rules = (int)syscall(SYS_landlock_create_ruleset, &files, sizeof files, 0);
    if (rules >= 0) syscall(SYS_landlock_restrict_self, rules, 0), close(rules);
    int limits[] = {RLIMIT_CORE, RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_FSIZE};
    for (int i = 0; i < 4; i++) setrlimit(limits[i], &(struct rlimit){4096, 4096});
}

static int jailed;
static struct stamp jailed_from;

static void round_trip(const uint8_t *image, const struct kvm_cpuid2 *cpuid, int kvm, size_t run_size) {
    struct stamp start = jailed ? jailed_from : now(), entry, first_exit, end, closed;
    int vm = call(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
    uint8_t *memory = mmap(0, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) die("mmap");
    madvise(memory, MEMORY, MADV_NOHUGEPAGE);
    struct kvm_userspace_memory_region slot = {.memory_size = MEMORY, .userspace_addr = (uint64_t)memory};
    call(vm, KVM_SET_USER_MEMORY_REGION, &slot, "KVM_SET_USER_MEMORY_REGION");
    call(vm, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
    int vcpu = call(vm, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
    struct kvm_run *run = mmap(0, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED) die("mmap of the vCPU");
    call(vcpu, KVM_SET_CPUID2, (void *)cpuid, "KVM_SET_CPUID2");
    boot_data(memory);
    long_mode(vcpu, load(memory, image));
    if (jailed) filter(), filter();
    entry = now();
    int code = serve(vcpu, run, &first_exit);
    end = now();
    munmap(run, run_size), close(vcpu), close(vm), munmap(memory, MEMORY);
    closed = now();
#define SINCE(s) (unsigned long)((s).real - start.real), (unsigned long)((s).cpu - start.cpu)
    printf("code %d entry %lu %lu exit %lu %lu end %lu %lu closed %lu %lu\n", code, SINCE(entry), SINCE(first_exit),
           SINCE(end), SINCE(closed));
}

enum { KVM_FD = 20, CPUID_FD, IMAGE_FD };

// What the child of a round needs on its way; it shares its parent's memory until it executes the program.
static int execute(void *program) {
    char *arguments[] = {program, "--child", 0}, *environment[] = {0};
    execve(program, arguments, environment);
    _exit(127);
}

static int child(void) {
    size_t size;
    // The time of its birth is its parent's to add.
    jailed = 1;
    const struct kvm_cpuid2 *cpuid = (const void *)map(CPUID_FD, &size);
    const uint8_t *image = map(IMAGE_FD, &size);
    enter_jail();
    round_trip(image, cpuid, KVM_FD, (size_t)call(KVM_FD, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE"));
    fflush(stdout);
    return 0;
}

static void jailed_round(void) {
    static char stack[65536] __attribute__((aligned(16)));
    int output[2];
    if (pipe(output)) die("pipe");
    int saved = dup(1);
    dup2(output[1], 1), close(output[1]);
    struct stamp start = now();
    int flags = CLONE_VM | CLONE_VFORK | SIGCHLD | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
    pid_t pid = clone(execute, stack + sizeof stack, flags, "/proc/self/exe");
    uint64_t parent = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start.cpu;
    if (pid < 0) die("clone");
    dup2(saved, 1), close(saved);
    char line[512] = {0};
    if (read(output[0], line, sizeof line - 1) <= 0) die("read of the child's line");
    close(output[0]);
    waitpid(pid, 0, 0);
    int code;
    uint64_t r[4], c[4];
    if (sscanf(line, "code %d entry %lu %lu exit %lu %lu end %lu %lu closed %lu %lu", &code, &r[0], &c[0], &r[1], &c[1],
               &r[2], &c[2], &r[3], &c[3]) != 9) die("the child's line");
#define FROM(n) r[n] - start.real, c[n] + parent
    printf("code %d entry %lu %lu exit %lu %lu end %lu %lu closed %lu %lu\n", code, FROM(0), FROM(1), FROM(2), FROM(3));
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "--child")) return child();
    int in_jail = argc == 4 && !strcmp(argv[1], "--jailed");
    if (argc != 3 + in_jail) return fprintf(stderr, "usage: %s [--jailed] IMAGE ROUNDS\n", argv[0]), 2;
    const char *path = argv[1 + in_jail];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) die(path);
    size_t size;
    uint8_t *image = map(file, &size);
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) die("/dev/kvm");
    size_t cpuid_size = sizeof(struct kvm_cpuid2) + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2);
    int cpuid_file = memfd_create("cpuid", MFD_CLOEXEC);
    if (cpuid_file < 0 || ftruncate(cpuid_file, (off_t)cpuid_size)) die("memfd");
    struct kvm_cpuid2 *cpuid = mmap(0, cpuid_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpuid_file, 0);
    if (cpuid == MAP_FAILED) die("mmap");
    cpuid->nent = CPUID_ENTRIES;
    call(kvm, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
    if (in_jail) dup2(kvm, KVM_FD), dup2(cpuid_file, CPUID_FD), dup2(file, IMAGE_FD);
    int run_size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    for (int round = 0; round < atoi(argv[2 + in_jail]); round++) {
        if (in_jail) jailed_round();
        else round_trip(image, cpuid, kvm, (size_t)run_size);
        fflush(stdout);
    }
}
