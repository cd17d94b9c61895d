//! Names of processor features, as Linux shows them in `/proc/cpuinfo`, and the CPUID bits that they stand for.

use kvm_bindings::kvm_cpuid_entry2;

/// A register that CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// One bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input.
    pub subleaf: u32,
    /// The register that it stands in.
    pub register: Register,
    /// Its number, 0 the lowest.
    pub bit: u8,
}

/// The bits behind a name, or `None` if it is not known.
pub fn find(name: &str) -> Option<Vec<Bit>> {
    let bits: Vec<Bit> = WORDS
        .iter()
        .flat_map(|word| {
            let named = word.names.iter().filter(move |(_, feature)| *feature == name);
            named.map(|(bit, _)| Bit {
                leaf: word.leaf,
                subleaf: word.subleaf,
                register: word.register,
                bit: *bit,
            })
        })
        .collect();
    (!bits.is_empty()).then_some(bits)
}

/// The names of all features in a CPUID.
pub fn names(cpuid: &[kvm_cpuid_entry2]) -> Vec<&'static str> {
    named(|word| word.value(cpuid))
}

/// The names of the features that are in one CPUID and not in another.
pub fn missing(cpuid: &[kvm_cpuid_entry2], other: &[kvm_cpuid_entry2]) -> Vec<&'static str> {
    named(|word| word.value(cpuid) & !word.value(other))
}

/// The names of the bits that `bits` says are set in each word.
fn named(bits: impl Fn(&Word) -> u32) -> Vec<&'static str> {
    let mut names = Vec::new();
    for word in WORDS {
        let set = bits(word);
        let of_word = word.names.iter().filter(|(bit, _)| set & (1 << bit) != 0);
        names.extend(of_word.map(|(_, name)| *name));
    }
    names
}

impl Word {
    /// The register in a CPUID; 0 where there is no such leaf.
    fn value(&self, cpuid: &[kvm_cpuid_entry2]) -> u32 {
        let leaf = cpuid
            .iter()
            .find(|entry| (entry.function, entry.index) == (self.leaf, self.subleaf));
        leaf.map_or(0, |leaf| match self.register {
            Register::Eax => leaf.eax,
            Register::Ebx => leaf.ebx,
            Register::Ecx => leaf.ecx,
            Register::Edx => leaf.edx,
        })
    }
}

struct Word {
    leaf: u32,
    subleaf: u32,
    register: Register,
    names: &'static [(u8, &'static str)],
}

const WORDS: &[Word] = &[
    Word {
        leaf: 0x1,
        subleaf: 0,
        register: Register::Edx,
        names: &[
            (0, "fpu"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (8, "cx8"),
            (9, "apic"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
            (28, "ht"),
        ],
    },
    Word {
        leaf: 0x1,
        subleaf: 0,
        register: Register::Ecx,
        names: &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (3, "monitor"),
            (5, "vmx"),
            (9, "ssse3"),
            (12, "fma"),
            (13, "cx16"),
            (17, "pcid"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (21, "x2apic"),
            (22, "movbe"),
            (23, "popcnt"),
            (24, "tsc_deadline_timer"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
            (31, "hypervisor"),
        ],
    },
    Word {
        leaf: 0x7,
        subleaf: 0,
        register: Register::Ebx,
        names: &[
            (0, "fsgsbase"),
            (1, "tsc_adjust"),
            (3, "bmi1"),
            (4, "hle"),
            (5, "avx2"),
            (7, "smep"),
            (8, "bmi2"),
            (9, "erms"),
            (10, "invpcid"),
            (11, "rtm"),
            (14, "mpx"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (20, "smap"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (26, "avx512pf"),
            (27, "avx512er"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    },
    Word {
        leaf: 0x7,
        subleaf: 0,
        register: Register::Ecx,
        names: &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (3, "pku"),
            (4, "ospke"),
            (5, "waitpkg"),
            (6, "avx512_vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (14, "avx512_vpopcntdq"),
            (16, "la57"),
            (22, "rdpid"),
            (25, "cldemote"),
            (27, "movdiri"),
            (28, "movdir64b"),
        ],
    },
    Word {
        leaf: 0x7,
        subleaf: 0,
        register: Register::Edx,
        names: &[
            (2, "avx512_4vnniw"),
            (3, "avx512_4fmaps"),
            (4, "fsrm"),
            (10, "md_clear"),
            (14, "serialize"),
            (16, "tsxldtrk"),
            (22, "amx_bf16"),
            (23, "avx512_fp16"),
            (24, "amx_tile"),
            (25, "amx_int8"),
            (28, "flush_l1d"),
            (29, "arch_capabilities"),
        ],
    },
    Word {
        leaf: 0x7,
        subleaf: 1,
        register: Register::Eax,
        names: &[(4, "avx_vnni"), (5, "avx512_bf16"), (22, "hreset")],
    },
    Word {
        leaf: 0xd,
        subleaf: 1,
        register: Register::Eax,
        names: &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")],
    },
    Word {
        leaf: 0x8000_0001,
        subleaf: 0,
        register: Register::Edx,
        names: &[(11, "syscall"), (20, "nx"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm")],
    },
    Word {
        leaf: 0x8000_0001,
        subleaf: 0,
        register: Register::Ecx,
        names: &[
            (0, "lahf_lm"),
            (2, "svm"),
            (5, "abm"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
            (11, "xop"),
            (16, "fma4"),
            (21, "tbm"),
        ],
    },
    Word {
        leaf: 0x8000_0007,
        subleaf: 0,
        register: Register::Edx,
        names: &[(8, "constant_tsc")],
    },
    Word {
        leaf: 0x8000_0008,
        subleaf: 0,
        register: Register::Ebx,
        names: &[(0, "clzero"), (12, "ibpb"), (14, "ibrs"), (15, "stibp"), (24, "ssbd")],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_has_two_names() {
        for word in WORDS {
            let mut bits: Vec<u8> = word.names.iter().map(|(bit, _)| *bit).collect();
            bits.sort_unstable();
            bits.dedup();
            assert_eq!(
                bits.len(),
                word.names.len(),
                "leaf {:#x} {:?}",
                word.leaf,
                word.register
            );
            assert!(bits.iter().all(|bit| *bit < 32));
        }
    }

    #[test]
    fn known_names_are_found() {
        let avx2 = Bit {
            leaf: 7,
            subleaf: 0,
            register: Register::Ebx,
            bit: 5,
        };
        assert_eq!(find("avx2"), Some(vec![avx2]));
        assert_eq!(find("warp-drive"), None);
    }
}
