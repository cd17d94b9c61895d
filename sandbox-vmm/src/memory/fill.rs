//! Pages that are one word over and over.
//!
//! Linux fills the memory that its start-up code leaves behind with such a pattern: a quarter of what a guest that has
//! just started has touched. They take no room in a snapshot's file.

use serde::{Deserialize, Serialize};

use super::extent::Extent;
use super::layout::PAGE_SIZE;

/// A run of pages that all consist of one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Which pages.
    pub extent: Extent,
    /// Their content, little-endian as in memory.
    pub word: u64,
}

/// Adds the page at `offset` behind the others, to the last run if it follows it and is alike.
pub fn push_page(fills: &mut Vec<Fill>, offset: u64, word: u64) {
    match fills.last_mut() {
        Some(last) if last.extent.end() == offset && last.word == word => last.extent.len += PAGE_SIZE,
        _ => fills.push(Fill {
            extent: Extent { offset, len: PAGE_SIZE },
            word,
        }),
    }
}

/// Writes what `fills`, which are in order and apart, say of the pages from `offset` on into `bytes`, which are their
/// content otherwise. Both are multiples of the page size.
pub fn apply(fills: &[Fill], offset: u64, bytes: &mut [u8]) {
    let end = offset + bytes.len() as u64;
    let first = fills.partition_point(|fill| fill.extent.end() <= offset);
    for fill in fills[first..].iter().take_while(|fill| fill.extent.offset < end) {
        let from = fill.extent.offset.max(offset) - offset;
        let to = fill.extent.end().min(end) - offset;
        for word in bytes[from as usize..to as usize].as_chunks_mut().0 {
            *word = fill.word.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_word_are_one_fill_and_are_written_where_they_are_asked_for() {
        let mut fills = Vec::new();
        for (page, word) in [(2, 7), (3, 7), (4, 8), (6, 8)] {
            push_page(&mut fills, page * PAGE_SIZE, word);
        }
        let pages: Vec<(u64, u64)> = fills
            .iter()
            .map(|fill| (fill.extent.len / PAGE_SIZE, fill.word))
            .collect();
        assert_eq!(pages, [(2, 7), (1, 8), (1, 8)]);
        for (first, count) in [(0, 9), (3, 2), (5, 1), (7, 2)] {
            let mut bytes = vec![0; (count * PAGE_SIZE) as usize];
            apply(&fills, first * PAGE_SIZE, &mut bytes);
            for (page, content) in (first..).zip(bytes.chunks(PAGE_SIZE as usize)) {
                let expected = fills
                    .iter()
                    .find(|fill| (fill.extent.offset..fill.extent.end()).contains(&(page * PAGE_SIZE)));
                let word = expected.map_or(0, |fill| fill.word).to_le_bytes();
                assert_eq!(
                    content,
                    word.repeat(PAGE_SIZE as usize / 8),
                    "page {page} of {count} from {first}"
                );
            }
        }
    }
}
