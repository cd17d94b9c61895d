// What both floors need: clocks, calls that must succeed, an image in guest memory, and a vCPU in long mode.
#pragma once

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

static uint8_t *map(int file, size_t *size) {
    struct stat status;
    if (fstat(file, &status) < 0) die("fstat");
    uint8_t *bytes = mmap(0, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED) die("mmap");
    *size = (size_t)status.st_size;
    return bytes;
}
