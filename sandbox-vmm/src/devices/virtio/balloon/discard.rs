//! Pages that leave the host's memory.

use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::GuestAddress;

use super::BALLOON_PAGE_SIZE;
use crate::memory::GuestMemory;

/// Discards pages of guest memory; neighbours go with one system call.
pub(super) struct Discarder<'a> {
    memory: &'a GuestMemory,
    /// Counts the bytes that were discarded.
    discarded: &'a AtomicU64,
    /// First and last page of the run at hand.
    run: Option<(u64, u64)>,
}

impl<'a> Discarder<'a> {
    pub(super) fn new(memory: &'a GuestMemory, discarded: &'a AtomicU64) -> Self {
        Self {
            memory,
            discarded,
            run: None,
        }
    }

    /// Discards these pages, in any order. Those outside guest RAM are ignored.
    pub(super) fn pages(&mut self, numbers: &mut [u32]) {
        numbers.sort_unstable();
        for number in numbers {
            self.page(u64::from(*number));
        }
        self.finish_run();
    }

    /// Discards the pages that lie wholly within a range of guest RAM.
    pub(super) fn range(&mut self, start: GuestAddress, len: usize) {
        let first = start.0.div_ceil(BALLOON_PAGE_SIZE);
        let end = start.0.saturating_add(len as u64) / BALLOON_PAGE_SIZE;
        if first < end {
            self.run = Some((first, end - 1));
            self.finish_run();
        }
    }

    fn page(&mut self, number: u64) {
        match &mut self.run {
            Some((_, last)) if number == *last => {}
            // A run ends where RAM does, so that a page outside costs its neighbours nothing.
            Some((first, last)) if number == *last + 1 && offset(self.memory, *first, number).is_some() => {
                *last = number;
            }
            _ => {
                self.finish_run();
                self.run = Some((number, number));
            }
        }
    }

    fn finish_run(&mut self) {
        let Some((first, last)) = self.run.take() else { return };
        let len = (last - first + 1) * BALLOON_PAGE_SIZE;
        let Some(offset) = offset(self.memory, first, last) else {
            return;
        };
        match self.memory.mapping().discard(offset, len) {
            Ok(()) => {
                self.discarded.fetch_add(len, Ordering::Relaxed);
            }
            // The host keeps the pages for longer than it need; the guest does not notice.
            Err(error) => tracing::debug!(%error, len, "pages of the guest not discarded"),
        }
    }
}

/// Offset into the host mapping of the pages from `first` to `last`, if all of them are guest RAM.
fn offset(memory: &GuestMemory, first: u64, last: u64) -> Option<u64> {
    // Page numbers are below 2^52, being 32 bits or derived from checked addresses.
    memory.mapping_offset(first * BALLOON_PAGE_SIZE, (last - first + 1) * BALLOON_PAGE_SIZE)
}
