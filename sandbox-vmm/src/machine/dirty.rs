//! Which pages were written since a snapshot, for a difference to it.
//!
//! KVM logs what the guest and KVM itself write, and forgets it when it is asked; what our devices write is logged by
//! vm-memory. Both are collected here, and forgotten only when a snapshot with them is safely written.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

use super::host::KvmError;
use super::vm::Vm;
use crate::memory::extent::{self, Extent};
use crate::memory::layout::PAGE_SIZE;
use crate::snapshot::section::Identity;

/// What was written since a snapshot.
#[derive(Debug, Default)]
pub struct DirtyPages(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    /// The snapshot that they are a difference to.
    since: Option<Identity>,
    /// A bit per page of the guest's mapping.
    bits: Vec<u64>,
}

impl DirtyPages {
    /// The snapshot that a difference can be taken to.
    pub fn since(&self) -> Option<Identity> {
        self.lock().since
    }

    /// Nothing is written since the snapshot `identity`.
    pub fn begin(&self, identity: Identity) {
        let mut pages = self.lock();
        pages.since = Some(identity);
        pages.bits.clear();
    }

    /// The pages that are known to be written.
    fn extents(&self) -> Vec<Extent> {
        let mut extents = Vec::new();
        for (word, bits) in (0u64..).zip(&self.lock().bits) {
            let mut left = *bits;
            while left != 0 {
                let page = word * 64 + u64::from(left.trailing_zeros());
                extent::push_page(&mut extents, page * PAGE_SIZE);
                left &= left - 1;
            }
        }
        extents
    }

    /// Adds a log of pages from `first` on.
    fn add(&self, first: u64, log: &[u64]) {
        let mut pages = self.lock();
        for (index, word) in (0u64..).zip(log) {
            let mut left = *word;
            while left != 0 {
                let page = first + index * 64 + u64::from(left.trailing_zeros());
                let place = (page / 64) as usize;
                if pages.bits.len() <= place {
                    pages.bits.resize(place + 1, 0);
                }
                pages.bits[place] |= 1 << (page % 64);
                left &= left - 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vm {
    /// The pages written since [`DirtyPages::begin`], of a VM that stands still and tracks them.
    ///
    /// # Errors
    /// KVM does not give its log.
    pub fn dirty_pages(&self) -> Result<Vec<Extent>, KvmError> {
        let memory = self.memory();
        let mut before = 0;
        for (slot, range) in (0u32..).zip(memory.ranges()) {
            let len = usize::try_from(range.len).map_err(|error| KvmError::Call {
                call: "KVM_GET_DIRTY_LOG",
                source: io::Error::other(error),
            })?;
            let log = self
                .fd()
                .get_dirty_log(slot, len)
                .map_err(KvmError::call("KVM_GET_DIRTY_LOG"))?;
            self.dirty().add(before / PAGE_SIZE, &log);
            before += range.len;
        }
        before = 0;
        for region in memory.iter() {
            let mapped: &MmapRegion<_> = region;
            if let Some(bitmap) = mapped.bitmap() {
                self.dirty().add(before / PAGE_SIZE, &bitmap.get_and_reset());
            }
            before += region.len();
        }
        Ok(self.dirty().extents())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_add_up_until_a_snapshot_is_written() {
        let dirty = DirtyPages::default();
        assert_eq!(dirty.since(), None);
        dirty.begin(Identity([1; 16]));
        dirty.add(0, &[0b101, 1 << 63]);
        dirty.add(100, &[0b11]);
        dirty.add(0, &[0b010]);
        let pages = |offset: u64, len: u64| Extent {
            offset: offset * PAGE_SIZE,
            len: len * PAGE_SIZE,
        };
        assert_eq!(dirty.extents(), [pages(0, 3), pages(100, 2), pages(127, 1)]);
        dirty.begin(Identity([2; 16]));
        assert_eq!((dirty.extents(), dirty.since()), (vec![], Some(Identity([2; 16]))));
    }
}
