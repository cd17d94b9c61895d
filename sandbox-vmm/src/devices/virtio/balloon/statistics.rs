//! What the guest says of its memory (§5.5.6.3).

/// Bytes of one entry: a tag of 16 bits and a value of 64.
pub(super) const ENTRY_SIZE: usize = 10;
/// Entries read from one buffer. A driver sends each tag once, and there are ten; a buffer of gigabytes is not searched.
pub(super) const MAX_ENTRIES: usize = 64;

/// The guest's own figures, as its driver gave them last. Not to be trusted, and `None` where it gave none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonStatistics {
    /// Bytes swapped in since the guest's start.
    pub swapped_in: Option<u64>,
    /// Bytes swapped out since the guest's start.
    pub swapped_out: Option<u64>,
    /// Page faults that needed the disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Unused memory, in bytes.
    pub free: Option<u64>,
    /// All memory of the guest, in bytes; without the balloon's on Linux.
    pub total: Option<u64>,
    /// Memory that could be used without swapping, in bytes.
    pub available: Option<u64>,
    /// Memory of the file cache, in bytes.
    pub disk_caches: Option<u64>,
    /// Successful allocations of huge pages.
    pub huge_page_allocations: Option<u64>,
    /// Failed allocations of huge pages.
    pub huge_page_failures: Option<u64>,
}

impl BalloonStatistics {
    /// Reads the driver's entries; tags that are not known are skipped, and so is an entry that is cut off.
    pub(super) fn parse(entries: &[u8]) -> Self {
        let mut statistics = Self::default();
        for entry in entries.as_chunks::<ENTRY_SIZE>().0 {
            let [tag_low, tag_high, value @ ..] = *entry;
            statistics.set(u16::from_le_bytes([tag_low, tag_high]), u64::from_le_bytes(value));
        }
        statistics
    }

    fn set(&mut self, tag: u16, value: u64) {
        let field = match tag {
            0 => &mut self.swapped_in,
            1 => &mut self.swapped_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free,
            5 => &mut self.total,
            6 => &mut self.available,
            7 => &mut self.disk_caches,
            8 => &mut self.huge_page_allocations,
            9 => &mut self.huge_page_failures,
            _ => return,
        };
        *field = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_tags_are_read_and_others_skipped() {
        let mut entries = Vec::new();
        for (tag, value) in [(4u16, 1000u64), (77, 1), (9, u64::MAX), (4, 2000)] {
            entries.extend_from_slice(&tag.to_le_bytes());
            entries.extend_from_slice(&value.to_le_bytes());
        }
        entries.extend_from_slice(&[5, 0, 1]);
        let expected = BalloonStatistics {
            free: Some(2000),
            huge_page_failures: Some(u64::MAX),
            ..BalloonStatistics::default()
        };
        assert_eq!(BalloonStatistics::parse(&entries), expected);
    }
}
