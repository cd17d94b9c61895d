//! Which project a kernel file comes from, told by what that project's build leaves in it: ELF notes, the names of
//! sections, a few words of its messages. A file may say nothing; then nothing is claimed.

use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use super::notes::Note;
use super::{ImageError, Source};

/// How much of the file is searched at a time, in bytes.
const CHUNK: usize = 256 << 10;
/// How much of a file is searched for words, in bytes: bounds the work that a file can cause. Unikernels are smaller.
const SEARCH_LIMIT: u64 = 64 << 20;
/// Where the kernels of Linux are loaded, or above; nothing smaller is linked there.
const LINUX_LOAD_ADDRESS: u64 = 0x100_0000;
/// Owner of Xen's notes, which other kernels use as well.
const XEN_OWNER: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_GUEST_OS`: the system's name.
const GUEST_OS: u32 = 6;
const HERMIT_OWNER: &[u8] = b"HERMIT\0";
/// The version of the interface between Hermit's loader and its applications.
const HERMIT_ENTRY_VERSION: u32 = 0x5a00;

/// A project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Maker {
    /// The loader of Hermit, which takes the application as its initrd.
    HermitLoader,
    /// An application of Hermit, kernel included, which its loader starts.
    HermitApplication,
    /// Linux.
    Linux,
    /// Nanos.
    Nanos,
    /// OSv.
    Osv,
    /// Solo5.
    Solo5,
    /// Unikraft.
    Unikraft,
}

/// The project on its way to another process, which has no file to find evidence in.
mod maker {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Maker;

    type WithEvidence = Option<(Maker, &'static str)>;

    pub fn serialize<S: Serializer>(maker: &WithEvidence, serializer: S) -> Result<S::Ok, S::Error> {
        maker.map(|(maker, _)| maker).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WithEvidence, D::Error> {
        let maker = Option::<Maker>::deserialize(deserializer)?;
        Ok(maker.map(|maker| (maker, "another process found it")))
    }
}

/// Where a file comes from, and what of its build matters to the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The project, and what in the file says so.
    #[serde(with = "maker")]
    pub maker: Option<(Maker, &'static str)>,
    /// Whether a Unikraft image has its library that reads parameters from the command line.
    pub reads_parameters: bool,
    /// Whether there is an RDRAND or RDSEED instruction of 64 bits in a Unikraft image, which takes its random numbers
    /// from them alone.
    pub executes: Executes,
}

/// Instructions that not every processor has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executes {
    /// RDRAND.
    pub rdrand: bool,
    /// RDSEED.
    pub rdseed: bool,
}

impl Origin {
    pub(super) const LINUX_HEADER: Self = Self {
        maker: Some((Maker::Linux, "it has the setup header of a bzImage")),
        reads_parameters: false,
        executes: Executes {
            rdrand: false,
            rdseed: false,
        },
    };

    /// What a note says, if it is one that tells.
    pub(super) fn of_note(note: &Note<'_>) -> Option<(Maker, &'static str)> {
        match (note.owner, note.note_type) {
            (XEN_OWNER, GUEST_OS) if note.description.starts_with(b"osv") => {
                Some((Maker::Osv, "its ELF note of the guest's system says osv"))
            }
            (XEN_OWNER, GUEST_OS) if note.description.starts_with(b"linux") => {
                Some((Maker::Linux, "its ELF note of the guest's system says linux"))
            }
            (HERMIT_OWNER, HERMIT_ENTRY_VERSION) => {
                Some((Maker::HermitApplication, "it has an ELF note of Hermit's entry version"))
            }
            _ => None,
        }
    }

    /// What the file's words say, where its notes say nothing. `lowest` is its lowest physical address.
    pub(super) fn of_words(source: Source<'_>, lowest: u64) -> Result<Self, ImageError> {
        let found = search(source)?;
        let maker = found.maker(lowest);
        let is_unikraft = matches!(maker, Some((Maker::Unikraft, _)));
        Ok(Self {
            maker,
            reads_parameters: is_unikraft && found.has(Word::UnikraftParameters),
            executes: match is_unikraft {
                true => found.executes,
                false => Executes::default(),
            },
        })
    }
}

/// Words that tell a project.
#[derive(Clone, Copy)]
enum Word {
    UnikraftBootInfo,
    UnikraftParameters,
    HermitLoader,
    NanosFileSystem,
    OsvOptions,
    LinuxVersion,
}

const WORDS: [(Word, &[u8]); 6] = [
    (Word::UnikraftBootInfo, b".uk_bootinfo\0"),
    (Word::UnikraftParameters, b".uk_libparam_params\0"),
    (Word::HermitLoader, b"Hermit Loader version"),
    (Word::NanosFileSystem, b"tfs magic mismatch"),
    (Word::OsvOptions, b"OSv options:"),
    (Word::LinuxVersion, b"Linux version "),
];
/// The longest of them, less one byte: what two chunks share.
const OVERLAP: usize = 20;

#[derive(Default)]
struct Found {
    words: [bool; WORDS.len()],
    executes: Executes,
}

impl Found {
    fn has(&self, word: Word) -> bool {
        self.words[word as usize]
    }

    fn maker(&self, lowest: u64) -> Option<(Maker, &'static str)> {
        if self.has(Word::UnikraftBootInfo) {
            Some((Maker::Unikraft, "it has a section .uk_bootinfo"))
        } else if self.has(Word::HermitLoader) {
            Some((Maker::HermitLoader, "it has the words \"Hermit Loader version\""))
        } else if self.has(Word::NanosFileSystem) {
            Some((
                Maker::Nanos,
                "it has a message of Nanos' own file system, \"tfs magic mismatch\"",
            ))
        } else if self.has(Word::OsvOptions) {
            Some((Maker::Osv, "it has the words \"OSv options:\""))
        } else if lowest >= LINUX_LOAD_ADDRESS && self.has(Word::LinuxVersion) {
            Some((
                Maker::Linux,
                "it is loaded at 16 MiB or above and has the words \"Linux version\"",
            ))
        } else {
            None
        }
    }
}

fn search(source: Source<'_>) -> Result<Found, ImageError> {
    let finders = WORDS.map(|(_, word)| Finder::new(word));
    let random = Finder::new(&[0x0f, 0xc7]);
    let end = source.len().min(SEARCH_LIMIT);
    let mut found = Found::default();
    let mut buffer = vec![0; CHUNK.min(end as usize)];
    let mut offset = 0;
    while offset < end {
        let size = (end - offset).min(CHUNK as u64) as usize;
        let chunk = &mut buffer[..size];
        source.read(chunk, offset, "the kernel")?;
        for (finder, found) in finders.iter().zip(&mut found.words) {
            *found = *found || finder.find(chunk).is_some();
        }
        for position in random.find_iter(chunk) {
            look_at_instruction(chunk, position, &mut found.executes);
        }
        if offset + size as u64 == end {
            break;
        }
        offset += (size - OVERLAP) as u64;
    }
    Ok(found)
}

/// Whether the opcode 0f c7 at `position` is that of a 64-bit RDRAND (/6) or RDSEED (/7) (Intel SDM volume 2): a prefix
/// REX.W before it, and a register as operand behind it.
fn look_at_instruction(chunk: &[u8], position: usize, executes: &mut Executes) {
    let prefix = position.checked_sub(1).map(|before| chunk[before]);
    if !matches!(prefix, Some(0x48 | 0x49)) {
        return;
    }
    match chunk.get(position + 2) {
        Some(0xf0..=0xf7) => executes.rdrand = true,
        Some(0xf8..=0xff) => executes.rdseed = true,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::image::KernelImage;
    use crate::boot::test_support::ElfBuilder;

    fn origin(file: &[u8]) -> Origin {
        KernelImage::parse(Source::Bytes(file)).unwrap().origin
    }

    fn maker(file: &[u8]) -> Option<Maker> {
        origin(file).maker.map(|(maker, _)| maker)
    }

    fn elf(content: &[u8]) -> ElfBuilder {
        ElfBuilder::new(0x20_0000).segment(0x20_0000, content, content.len() as u64)
    }

    #[test]
    fn notes_tell_the_project() {
        let note = |owner: &[u8], note_type, text: &[u8]| maker(&elf(b"code").note(owner, note_type, text, 4).build());
        assert_eq!(note(b"Xen\0", 6, b"osv\0"), Some(Maker::Osv));
        assert_eq!(note(b"Xen\0", 6, b"linux\0"), Some(Maker::Linux));
        assert_eq!(note(b"Xen\0", 6, b"other\0"), None);
        assert_eq!(note(b"HERMIT\0", 0x5a00, b"\x04"), Some(Maker::HermitApplication));
    }

    #[test]
    fn words_tell_the_project_wherever_they_stand() {
        for (word, expected) in [
            (&b".uk_bootinfo\0"[..], Maker::Unikraft),
            (b"Hermit Loader version ", Maker::HermitLoader),
            (b"tfs magic mismatch", Maker::Nanos),
            (b"OSv options:", Maker::Osv),
        ] {
            for position in [0, CHUNK - OVERLAP - 200, CHUNK - 150, CHUNK] {
                let mut content = vec![0x90; position];
                content.extend_from_slice(word);
                assert_eq!(maker(&elf(&content).build()), Some(expected), "{position}");
            }
        }
        assert_eq!(
            maker(&elf(b"Unikraft, Nanos, OSv, Hermit, Linux version 6").build()),
            None
        );
        let high = ElfBuilder::new(0x100_0000)
            .segment(0x100_0000, b"Linux version 6", 15)
            .build();
        assert_eq!(maker(&high), Some(Maker::Linux));
    }

    #[test]
    fn parameters_and_instructions_of_unikraft_are_seen() {
        let plain = origin(&elf(b".uk_bootinfo\0").build());
        assert!(!plain.reads_parameters);
        assert_eq!(plain.executes, Executes::default());
        let mut content = b".uk_bootinfo\0.uk_libparam_params\0".to_vec();
        // rdrand %rax, and a 32-bit rdseed %eax, which is not looked for.
        content.extend_from_slice(&[0x48, 0x0f, 0xc7, 0xf0, 0x90, 0x0f, 0xc7, 0xf8]);
        let full = origin(&elf(&content).build());
        assert!(full.reads_parameters);
        assert_eq!((full.executes.rdrand, full.executes.rdseed), (true, false));
    }

    #[test]
    fn the_words_fit_the_overlap_of_two_chunks() {
        let longest = WORDS.iter().map(|(_, word)| word.len()).max().unwrap();
        assert!(longest - 1 <= OVERLAP, "{longest}");
    }
}
