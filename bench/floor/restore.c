// The floor of a restore: the KVM calls that no monitor can leave out, in a bare program. It runs an image to its first
// exit, reads the state that KVM has of it, and then puts that into new VMs over a private mapping of the same memory.
//
//   restore IMAGE ROUNDS
//
// IMAGE: as for floor.c. Prints a line per round with real and processor time in nanoseconds from the first call: to the
// first entry, to the first exit, to all closed.
#define _GNU_SOURCE
#include "guest.h"

enum { MSRS_MAXIMUM = 512, CHIPS = 3 };

// All that KVM knows of a VM with one vCPU.
struct state {
    struct kvm_cpuid2 *cpuid;
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    struct kvm_xcrs xcrs;
    struct kvm_xsave xsave;
    struct kvm_lapic_state lapic;
    struct kvm_msrs *msrs;
    struct kvm_vcpu_events events;
    struct kvm_mp_state running;
    struct kvm_irqchip chips[CHIPS];
    struct kvm_clock_data clock;
};

struct machine {
    int vm, vcpu;
    struct kvm_run *run;
    uint8_t *memory;
};

static struct machine make(int kvm, int memory, size_t run_size) {
    struct machine m = {.vm = call(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM")};
    m.memory = mmap(0, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, memory, 0);
    if (m.memory == MAP_FAILED) die("mmap");
    struct kvm_userspace_memory_region slot = {.memory_size = MEMORY, .userspace_addr = (uint64_t)m.memory};
    call(m.vm, KVM_SET_USER_MEMORY_REGION, &slot, "KVM_SET_USER_MEMORY_REGION");
    call(m.vm, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
    m.vcpu = call(m.vm, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
    m.run = mmap(0, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
    if (m.run == MAP_FAILED) die("mmap of the vCPU");
    return m;
}

static void give_back(struct machine *m, size_t run_size) {
    munmap(m->run, run_size), close(m->vcpu), close(m->vm), munmap(m->memory, MEMORY);
}

// Boots the image as far as its first exit.
static void boot(struct machine *m, const uint8_t *image) {
    boot_data(m->memory);
    long_mode(m->vcpu, load(m->memory, image));
    call(m->vcpu, KVM_RUN, 0, "KVM_RUN");
    m->run->immediate_exit = 1;
    ioctl(m->vcpu, KVM_RUN, 0); // Completes the exit; it ends with EINTR.
    m->run->immediate_exit = 0;
}

static void read_state(int kvm, const struct machine *m, struct state *s) {
    struct kvm_msr_list *list = calloc(1, sizeof *list + MSRS_MAXIMUM * sizeof(uint32_t));
    list->nmsrs = MSRS_MAXIMUM;
    call(kvm, KVM_GET_MSR_INDEX_LIST, list, "KVM_GET_MSR_INDEX_LIST");
    s->msrs = calloc(1, sizeof *s->msrs + MSRS_MAXIMUM * sizeof(struct kvm_msr_entry));
    // One at a time: KVM lists some that it does not let be read, or written, here.
    for (uint32_t i = 0; i < list->nmsrs; i++) {
        struct {
            struct kvm_msrs head;
            struct kvm_msr_entry entry;
        } one = {.head.nmsrs = 1, .entry.index = list->indices[i]};
        if (ioctl(m->vcpu, KVM_GET_MSRS, &one) == 1 && ioctl(m->vcpu, KVM_SET_MSRS, &one) == 1)
            s->msrs->entries[s->msrs->nmsrs++] = one.entry;
    }
    free(list);
    call(m->vcpu, KVM_GET_SREGS, &s->sregs, "KVM_GET_SREGS");
    call(m->vcpu, KVM_GET_REGS, &s->regs, "KVM_GET_REGS");
    call(m->vcpu, KVM_GET_XCRS, &s->xcrs, "KVM_GET_XCRS");
    call(m->vcpu, KVM_GET_XSAVE, &s->xsave, "KVM_GET_XSAVE");
    call(m->vcpu, KVM_GET_LAPIC, &s->lapic, "KVM_GET_LAPIC");
    call(m->vcpu, KVM_GET_VCPU_EVENTS, &s->events, "KVM_GET_VCPU_EVENTS");
    call(m->vcpu, KVM_GET_MP_STATE, &s->running, "KVM_GET_MP_STATE");
    for (unsigned chip = 0; chip < CHIPS; chip++) {
        s->chips[chip].chip_id = chip;
        call(m->vm, KVM_GET_IRQCHIP, &s->chips[chip], "KVM_GET_IRQCHIP");
    }
    call(m->vm, KVM_GET_CLOCK, &s->clock, "KVM_GET_CLOCK");
    s->clock.flags = 0;
}

static void write_state(const struct machine *m, struct state *s) {
    call(m->vm, KVM_SET_CLOCK, &s->clock, "KVM_SET_CLOCK");
    call(m->vcpu, KVM_SET_CPUID2, s->cpuid, "KVM_SET_CPUID2");
    call(m->vcpu, KVM_SET_SREGS, &s->sregs, "KVM_SET_SREGS");
    call(m->vcpu, KVM_SET_XCRS, &s->xcrs, "KVM_SET_XCRS");
    call(m->vcpu, KVM_SET_XSAVE, &s->xsave, "KVM_SET_XSAVE");
    call(m->vcpu, KVM_SET_REGS, &s->regs, "KVM_SET_REGS");
    call(m->vcpu, KVM_SET_LAPIC, &s->lapic, "KVM_SET_LAPIC");
    call(m->vcpu, KVM_SET_MSRS, s->msrs, "KVM_SET_MSRS");
    call(m->vcpu, KVM_SET_VCPU_EVENTS, &s->events, "KVM_SET_VCPU_EVENTS");
    call(m->vcpu, KVM_SET_MP_STATE, &s->running, "KVM_SET_MP_STATE");
    for (unsigned chip = 0; chip < CHIPS; chip++) call(m->vm, KVM_SET_IRQCHIP, &s->chips[chip], "KVM_SET_IRQCHIP");
}

static void round_trip(int kvm, int memory, struct state *state, size_t run_size) {
    struct stamp start = now(), entry, first_exit, closed;
    struct machine m = make(kvm, memory, run_size);
    write_state(&m, state);
    entry = now();
    call(m.vcpu, KVM_RUN, 0, "KVM_RUN");
    first_exit = now();
    if (m.run->exit_reason != KVM_EXIT_IO) {
        fprintf(stderr, "unexpected exit %u\n", m.run->exit_reason);
        exit(1);
    }
    give_back(&m, run_size);
    closed = now();
#define SINCE(s) (unsigned long)((s).real - start.real), (unsigned long)((s).cpu - start.cpu)
    printf("entry %lu %lu exit %lu %lu closed %lu %lu\n", SINCE(entry), SINCE(first_exit), SINCE(closed));
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: %s IMAGE ROUNDS\n", argv[0]), 2;
    int file = open(argv[1], O_RDONLY | O_CLOEXEC);
    if (file < 0) die(argv[1]);
    size_t size;
    uint8_t *image = map(file, &size);
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int memory = memfd_create("memory", MFD_CLOEXEC);
    if (kvm < 0 || memory < 0 || ftruncate(memory, MEMORY) < 0) die("/dev/kvm");
    static struct state state;
    state.cpuid = calloc(1, sizeof *state.cpuid + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    state.cpuid->nent = CPUID_ENTRIES;
    call(kvm, KVM_GET_SUPPORTED_CPUID, state.cpuid, "KVM_GET_SUPPORTED_CPUID");
    size_t run_size = (size_t)call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    struct machine original = make(kvm, memory, run_size);
    call(original.vcpu, KVM_SET_CPUID2, state.cpuid, "KVM_SET_CPUID2");
    boot(&original, image);
    read_state(kvm, &original, &state);
    uint8_t *frozen = mmap(0, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (frozen == MAP_FAILED) die("mmap");
    // The guest has touched nothing behind its first 2 MiB.
    memcpy(frozen, original.memory, 2 << 20);
    give_back(&original, run_size);
    for (int round = 0; round < atoi(argv[2]); round++) {
        round_trip(kvm, memory, &state, run_size);
        fflush(stdout);
    }
}
