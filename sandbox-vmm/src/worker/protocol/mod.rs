//! What embedder and worker tell each other.
//!
//! The embedder makes calls, each with a number, and the worker answers each once, in order; beside the answers it
//! tells what happens to the guest by itself. The embedder believes nothing that a worker says beyond what concerns that
//! worker's own sandbox.

pub mod bytes;
pub mod channel;
mod launch;

use std::borrow::Cow;

use sandbox_core::{Error, ErrorKind, Exit, Phase, Stats, Uniqueness, Weakness};
use serde::{Deserialize, Serialize};

use crate::memory::image::PartRecord;
pub use launch::{Filters, JailPlan, Launch, MemoryParts, Preparation, Revive, Setting};

/// Console output in one report, in bytes: with everything around it less than a packet.
pub const CONSOLE_PIECE: usize = 32 << 10;
/// Longest text of an error or of a fault's last console lines that a worker sends, in bytes.
const MAX_TEXT: usize = 8 << 10;

/// What the embedder asks for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// Its number, given back with the answer.
    pub id: u32,
    /// What is asked.
    pub request: Request,
}

/// The verbs.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Go to jail, and make what does not depend on a spec. The descriptors: KVM.
    Prepare(Box<Preparation>),
    /// Make the machine. The descriptors are described in [`Launch`].
    Launch(Box<Launch>),
    /// Make the machine as another one stood. The descriptors are described in [`Revive`].
    Revive(Box<Revive>),
    /// `start`.
    Start,
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// Ask the guest to end, if it can be asked.
    AskToEnd,
    /// End the guest; the end itself is told as [`Report::Exited`].
    Stop,
    /// `stats`.
    Stats,
    /// Write the memory of the guest as it is to the memory file of a snapshot, the first descriptor, and its state to
    /// the second, with the pages that count as the only layer.
    Snapshot {
        /// What tells the snapshot from every other.
        identity: [u8; 16],
        /// The snapshot that this one is a difference to.
        base: Option<[u8; 16]>,
    },
    /// The snapshot of this identity is safe on the disk.
    Kept([u8; 16]),
    /// Freeze the guest's memory; what no image holds yet goes to the first descriptor, which is then sealed, the state to
    /// the second, and what it wrote to its private disks to the others, one each.
    Freeze,
    /// `console_write`.
    ConsoleInput(#[serde(with = "bytes")] Vec<u8>),
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The answer to a call.
    Answer {
        /// The call's number.
        id: u32,
        /// What came of it.
        result: Result<Answer, WireError>,
    },
    /// Phases that were reached.
    Reached(Vec<Stamp>),
    /// Console output.
    Console {
        /// Position of the first byte.
        start: u64,
        /// The bytes.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// The guest says that it is ready.
    Ready,
    /// The guest has taken the identity of this generation.
    Confirmed(u32),
    /// The list of pages that the guest asked for is in its file.
    Recorded,
    /// The guest ended; all its output was told before.
    Exited(Exit),
}

/// What comes of a call.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// The worker is in jail, which lacks this.
    Jailed(Vec<Weakness>),
    /// Whether the guest could be asked to end.
    Asked(bool),
    /// So many bytes of console input were taken.
    Taken(u64),
    /// The counters.
    Stats(Box<Stats>),
    /// The clone is made, and its guest is told this.
    Revived(Uniqueness),
    /// The guest's frozen memory: parts of the files of the image that it was laid over before, and behind them of the
    /// one that was handed over.
    Frozen(Vec<PartRecord>),
}

/// A phase and when it was reached.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// The phase.
    pub phase: Phase,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub monotonic: u64,
    /// Processor time that the worker had used on this sandbox, in nanoseconds.
    pub cpu: u64,
}

/// An error on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WireError {
    kind: ErrorKind,
    field: Option<String>,
    context: String,
    cause: Option<String>,
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| {
            let mut text = cause.to_string();
            let mut next = cause.source();
            while let Some(error) = next {
                text = format!("{text}: {error}");
                next = error.source();
            }
            shortened(text)
        });
        Self {
            kind: error.kind(),
            field: error.field().map(|field| shortened(field.to_owned())),
            context: shortened(error.context().to_owned()),
            cause,
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let mut converted = Self::new(error.kind, Cow::Owned(error.context));
        if let Some(field) = error.field {
            converted = converted.with_field(field);
        }
        match error.cause {
            Some(cause) => converted.with_source(cause),
            None => converted,
        }
    }
}

/// An exit that fits into a report.
pub fn sendable(mut exit: Exit) -> Exit {
    if let Exit::TripleFault(report) | Exit::GuestFault(report) = &mut exit {
        let tail = std::mem::take(&mut report.console_tail);
        report.console_tail = last_part(tail);
        report.what = shortened(std::mem::take(&mut report.what));
    }
    exit
}

fn shortened(mut text: String) -> String {
    let end = (0..=MAX_TEXT.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

fn last_part(text: String) -> String {
    let start = text.len().saturating_sub(MAX_TEXT);
    let start = (start..text.len()).find(|at| text.is_char_boundary(*at));
    start.map_or_else(String::new, |start| text[start..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_core::FaultReport;

    #[test]
    fn errors_keep_kind_field_sentence_and_causes() {
        let error = Error::invalid("disks[0].path", "cannot be opened").with_source("no such file");
        let report = error.report();
        let back = Error::from(WireError::from(error));
        assert_eq!(back.report(), report);
        assert_eq!(
            (back.kind(), back.field()),
            (ErrorKind::InvalidSpec, Some("disks[0].path"))
        );
    }

    #[test]
    fn the_longest_reports_fit_into_a_packet() {
        let fault = FaultReport {
            what: "ä".repeat(40_000),
            console_tail: format!("{}end", "ö".repeat(40_000)),
            instruction: vec![0x90; 15],
            ..FaultReport::default()
        };
        let exit = sendable(Exit::GuestFault(Box::new(fault)));
        assert!(exit.fault().unwrap().console_tail.ends_with("end"));
        let reports = [
            Report::Exited(exit),
            Report::Console {
                start: u64::MAX,
                bytes: vec![0xff; CONSOLE_PIECE],
            },
        ];
        for report in reports {
            let bytes = postcard::to_allocvec(&report).unwrap();
            assert!(bytes.len() + 64 < channel::PACKET, "{}", bytes.len());
        }
    }
}
