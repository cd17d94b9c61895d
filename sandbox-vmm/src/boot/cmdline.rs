//! The kernel command line.

use vm_memory::{Bytes, GuestAddress};

use super::error::BootError;
use crate::memory::GuestMemory;
use crate::memory::layout::{CMDLINE_MAX_SIZE, CMDLINE_START};

/// Separates what the kernel reads from what it passes on.
const SEPARATOR: &[u8] = b"--";

/// A command line, NUL-terminated and checked against a kernel's limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    bytes: Vec<u8>,
}

impl CommandLine {
    /// Longest command line that the machine has room for, in bytes without the NUL.
    pub const MAX_LENGTH: u64 = CMDLINE_MAX_SIZE - 1;

    /// `text` as it stands, with `device_tokens` inserted before the first ` -- ` outside double quotes, or appended
    /// where there is none. Nothing else is added. `limit` is the most bytes that the kernel takes, without the NUL.
    pub fn new(text: &str, device_tokens: &[String], limit: u64) -> Result<Self, BootError> {
        let text = text.as_bytes();
        if let Some(position) = text.iter().position(|byte| *byte == 0) {
            return Err(BootError::CmdlineNul { position });
        }
        let (own, passed_on) = text.split_at(separator_position(text).unwrap_or(text.len()));
        let tokens_length: usize = device_tokens.iter().map(|token| token.len() + 1).sum();
        let mut bytes = Vec::with_capacity(text.len() + tokens_length + 2);
        bytes.extend_from_slice(own);
        for token in device_tokens {
            if bytes.last().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                bytes.push(b' ');
            }
            bytes.extend_from_slice(token.as_bytes());
        }
        if !device_tokens.is_empty() && !passed_on.is_empty() {
            bytes.push(b' ');
        }
        bytes.extend_from_slice(passed_on);
        let length = bytes.len() as u64;
        let limit = limit.min(Self::MAX_LENGTH);
        if length > limit {
            return Err(BootError::CmdlineTooLong { length, limit });
        }
        bytes.push(0);
        Ok(Self { bytes })
    }

    /// Length in bytes, without the NUL.
    pub fn len(&self) -> usize {
        self.bytes.len() - 1
    }

    /// True for a command line without a byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, without the NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    /// Puts the command line to its place in guest memory.
    pub(super) fn write(&self, memory: &GuestMemory) -> Result<(), BootError> {
        memory
            .write_slice(&self.bytes, GuestAddress(CMDLINE_START))
            .map_err(|source| BootError::GuestMemory {
                what: "the command line",
                source,
            })
    }
}

/// The token that announces a virtio-mmio device, in the form that every guest family reads
/// (drivers/virtio/virtio_mmio.c).
pub fn virtio_mmio_token(window: u64, gsi: u32) -> String {
    format!("virtio_mmio.device=4K@{window:#x}:{gsi}")
}

/// Where the word `--` stands that is not inside double quotes, as Linux splits words.
fn separator_position(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut word_start = 0;
    for (position, byte) in text.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            byte if byte.is_ascii_whitespace() && !quoted => {
                if &text[word_start..position] == SEPARATOR {
                    return Some(word_start);
                }
                word_start = position + 1;
            }
            _ => {}
        }
    }
    (&text[word_start..] == SEPARATOR).then_some(word_start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str, tokens: &[&str]) -> String {
        let tokens: Vec<String> = tokens.iter().map(|token| token.to_string()).collect();
        let line = CommandLine::new(text, &tokens, 2047).unwrap();
        String::from_utf8(line.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn text_is_kept_as_it_stands() {
        for text in [
            "",
            "console=ttyS0  quiet ",
            " a -- b",
            "name=\"a -- b\"",
            "größe=ä",
            "a\tb\n",
        ] {
            assert_eq!(line(text, &[]), text);
        }
    }

    #[test]
    fn device_tokens_stand_before_the_separator() {
        let tokens = ["x=1", "y=2"];
        let cases = [
            ("", "x=1 y=2"),
            ("app", "app x=1 y=2"),
            ("app ", "app x=1 y=2"),
            ("app -- arg -- arg", "app x=1 y=2 -- arg -- arg"),
            ("-- arg", "x=1 y=2 -- arg"),
            ("app --", "app x=1 y=2 --"),
            ("app --option", "app --option x=1 y=2"),
            ("a=\"b -- c\" d", "a=\"b -- c\" d x=1 y=2"),
            ("a=\"b -- c\" -- d", "a=\"b -- c\" x=1 y=2 -- d"),
        ];
        for (text, expected) in cases {
            assert_eq!(line(text, &tokens), expected);
        }
    }

    #[test]
    fn a_virtio_mmio_token_has_the_form_that_guests_parse() {
        assert_eq!(virtio_mmio_token(0xd000_1000, 6), "virtio_mmio.device=4K@0xd0001000:6");
    }

    #[test]
    fn the_limit_counts_device_tokens_and_not_the_nul() {
        let tokens = [virtio_mmio_token(0xd000_0000, 5)];
        let length = 4 + tokens[0].len() as u64;
        assert_eq!(CommandLine::new("abc", &tokens, length).unwrap().len() as u64, length);
        let error = CommandLine::new("abc", &tokens, length - 1).unwrap_err();
        assert!(
            matches!(error, BootError::CmdlineTooLong { length: l, limit } if l == length && limit == length - 1),
            "{error}"
        );
    }

    #[test]
    fn no_limit_goes_beyond_the_room_in_the_layout() {
        let text = "a".repeat(CMDLINE_MAX_SIZE as usize);
        let error = CommandLine::new(&text, &[], u64::MAX).unwrap_err();
        assert!(
            matches!(
                error,
                BootError::CmdlineTooLong {
                    limit: CommandLine::MAX_LENGTH,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_nul_is_refused_with_its_position() {
        let error = CommandLine::new("ab\0c", &[], 2047).unwrap_err();
        assert!(matches!(error, BootError::CmdlineNul { position: 2 }), "{error}");
    }

    proptest! {
        #[test]
        fn tokens_only_ever_add_themselves_and_spaces(text in "[ab\" -]{0,40}") {
            let with_token = line(&text, &["T"]);
            let (before, after) = with_token.split_once('T').unwrap();
            let (before, after) = (before.trim_end_matches(' '), after.trim_start_matches(' '));
            prop_assert!(text.starts_with(before));
            prop_assert!(text.ends_with(after));
            let between = &text[before.len()..text.len() - after.len()];
            prop_assert!(between.bytes().all(|byte| byte == b' '));
        }
    }
}
