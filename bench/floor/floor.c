// The floor of a cold start: the KVM calls that no monitor can leave out, in a bare program. It runs the same image as
// the SDK does, in the same processor state, and answers the exits that the image makes.
//
//   floor IMAGE ROUNDS
//
// IMAGE: a static 64-bit ELF that is entered in long mode with the first GiB mapped to itself, writes its console to
// port 0x3f8 and ends by writing its exit code to port 0x501. Prints a line per round with real and processor time in
// nanoseconds from the first call: to the first entry, to the first exit, to the guest's end, to all closed.
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY = 128 << 20, CPUID_ENTRIES = 256 };
enum { GDT = 0x500, BOOT_PARAMS = 0x7000, STACK = 0x8ff0, PML4 = 0x9000, PDPT = 0xa000, PD = 0xb000, CMDLINE = 0x20000 };
enum { CONSOLE_PORT = 0x3f8, DEBUG_EXIT_PORT = 0x501 };

struct stamp {
    uint64_t real, cpu;
};

static uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static struct stamp now(void) {
    return (struct stamp){clock_ns(CLOCK_MONOTONIC), clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int call(int fd, unsigned long request, void *argument, const char *what) {
    int result = ioctl(fd, request, argument);
    if (result < 0) die(what);
    return result;
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, uint8_t l, uint8_t db) {
    return (struct kvm_segment){.base = 0, .limit = 0xffffffff, .selector = selector, .type = type, .present = 1,
                                .s = 1, .l = l, .db = db, .g = 1};
}

static uint64_t load(uint8_t *memory, const uint8_t *image) {
    const Elf64_Ehdr *header = (const void *)image;
    const Elf64_Phdr *segments = (const void *)(image + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD)
            memcpy(memory + segments[i].p_paddr, image + segments[i].p_offset, segments[i].p_filesz);
    return header->e_entry;
}

static void boot_data(uint8_t *memory) {
    uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x008f8b000000ffff};
    memcpy(memory + GDT, gdt, sizeof gdt);
    *(uint64_t *)(memory + PML4) = PDPT | 3;
    *(uint64_t *)(memory + PDPT) = PD | 3;
    for (uint64_t i = 0; i < 512; i++) ((uint64_t *)(memory + PD))[i] = (i << 21) | 0x83;
    *(uint32_t *)(memory + BOOT_PARAMS + 0x228) = CMDLINE;
}

static void long_mode(int vcpu, uint64_t entry) {
    struct kvm_sregs s;
    call(vcpu, KVM_GET_SREGS, &s, "KVM_GET_SREGS");
    s.cs = segment(0x10, 11, 1, 0);
    s.ds = s.es = s.fs = s.gs = s.ss = segment(0x18, 3, 0, 1);
    s.tr = segment(0x20, 11, 0, 0);
    s.tr.s = 0;
    s.gdt.base = GDT, s.gdt.limit = 39;
    s.cr3 = PML4, s.cr4 |= 1 << 5, s.cr0 |= 0x80000001, s.efer |= 0x500;
    call(vcpu, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
    struct kvm_regs r = {.rip = entry, .rsp = STACK, .rbp = STACK, .rsi = BOOT_PARAMS, .rflags = 2};
    call(vcpu, KVM_SET_REGS, &r, "KVM_SET_REGS");
}

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

static void round_trip(const uint8_t *image, const struct kvm_cpuid2 *cpuid, int kvm, size_t run_size) {
    struct stamp start = now(), entry, first_exit, end, closed;
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
    entry = now();
    int code = serve(vcpu, run, &first_exit);
    end = now();
    munmap(run, run_size), close(vcpu), close(vm), munmap(memory, MEMORY);
    closed = now();
#define SINCE(s) (unsigned long)((s).real - start.real), (unsigned long)((s).cpu - start.cpu)
    printf("code %d entry %lu %lu exit %lu %lu end %lu %lu closed %lu %lu\n", code, SINCE(entry), SINCE(first_exit),
           SINCE(end), SINCE(closed));
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: %s IMAGE ROUNDS\n", argv[0]), 2;
    int file = open(argv[1], O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) < 0) die(argv[1]);
    uint8_t *image = mmap(0, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (image == MAP_FAILED || kvm < 0) die("/dev/kvm");
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    cpuid->nent = CPUID_ENTRIES;
    call(kvm, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
    int run_size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    for (int round = 0; round < atoi(argv[2]); round++) {
        round_trip(image, cpuid, kvm, (size_t)run_size);
        fflush(stdout);
    }
}
