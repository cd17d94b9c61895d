//! Packets of the control socket, for whoever tries what hostile ones do.

use std::fs::File;
use std::sync::Arc;

use sandbox_core::Error;
use serde::de::DeserializeOwned;

use super::protocol::channel::{self, ChannelError};
use super::protocol::{Answer, Call, MemoryParts, Report, Request};
use crate::memory::image::{ImageWriter, MemoryImage, PartRecord};
use crate::memory::layout::PAGE_SIZE;

/// A message of this content, in a packet of its own.
pub fn with_header(body: &[u8]) -> Vec<u8> {
    let mut packet = channel::header(body.len()).to_vec();
    packet.extend(body);
    packet
}

/// What an embedder does with a worker's packet before it believes it.
pub fn hear_report(packet: &[u8]) {
    let report: Report = match decoded(packet) {
        Some(report) => report,
        None => return,
    };
    match report {
        Report::Answer { result: Err(error), .. } => drop(Error::from(error).report()),
        Report::Answer {
            result: Ok(Answer::Frozen(records)),
            ..
        } => image_of(&records),
        Report::Exited(exit) => drop(exit.to_string()),
        _ => {}
    }
}

/// What a worker does with an embedder's packet.
pub fn hear_call(packet: &[u8]) {
    let Some(Call { request, .. }) = decoded(packet) else {
        return;
    };
    match request {
        Request::Revive(revive) => {
            if let MemoryParts::Image(_, records) = &revive.memory {
                image_of(records);
            }
        }
        Request::Launch(launch) => drop(launch.kernel.into_kernel(None)),
        _ => {}
    }
}

fn decoded<T: DeserializeOwned>(packet: &[u8]) -> Option<T> {
    let parsed: Result<T, ChannelError> = channel::parse(packet);
    parsed.ok()
}

/// Parts of two small files.
fn image_of(records: &[PartRecord]) {
    let files: Option<Vec<Arc<File>>> = (1..=2)
        .map(|pages| ImageWriter::new_file(pages * PAGE_SIZE).map(Arc::new).ok())
        .collect();
    let image = MemoryImage::from_records(16 * PAGE_SIZE, &files.unwrap_or_default(), records);
    if let Some(image) = image {
        drop(image.records());
    }
}
