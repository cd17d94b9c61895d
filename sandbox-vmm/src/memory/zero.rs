//! Whether a page is zero throughout, or one word over and over: asked of every page of a guest that is saved, most of
//! which are zero in a guest that is backed by huge pages.

use std::ptr::NonNull;

use super::layout::PAGE_SIZE;

/// What is looked at before it is decided whether to go on, in words.
const BLOCK: usize = 64;
const WORDS: usize = PAGE_SIZE as usize / size_of::<u64>();

/// How this processor finds it out the quickest.
#[derive(Clone, Copy, Debug)]
pub(super) struct ZeroTest {
    #[cfg(target_arch = "x86_64")]
    has_avx2: bool,
}

impl ZeroTest {
    pub(super) fn new() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            has_avx2: std::arch::is_x86_feature_detected!("avx2"),
        }
    }

    /// # Safety
    /// `page` is a page of readable memory, aligned to its size, and nobody writes it meanwhile.
    pub(super) unsafe fn is_zero(self, page: NonNull<u8>) -> bool {
        // SAFETY: a page is as long as these words and aligned for them; the caller promises the rest. The reference is
        // gone when this function returns.
        let words = unsafe { page.cast::<[u64; WORDS]>().as_ref() };
        #[cfg(target_arch = "x86_64")]
        if self.has_avx2 {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { is_zero_by_avx2(words) };
        }
        is_zero(words)
    }

    /// The word that the page consists of throughout, if it is one.
    ///
    /// # Safety
    /// As for [`ZeroTest::is_zero`].
    pub(super) unsafe fn word(self, page: NonNull<u8>) -> Option<u64> {
        // SAFETY: as in `is_zero`.
        let words = unsafe { page.cast::<[u64; WORDS]>().as_ref() };
        if words[0] == 0 {
            // SAFETY: the caller promises what the function asks for.
            return unsafe { self.is_zero(page) }.then_some(0);
        }
        // Most pages are neither, and differ in these.
        if [words[1], words[WORDS / 2], words[WORDS - 1]] != [words[0]; 3] {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        if self.has_avx2 {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { is_one_word_by_avx2(words) }.then_some(words[0]);
        }
        is_one_word(words).then_some(words[0])
    }
}

/// The same in instructions that handle 32 bytes at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn is_zero_by_avx2(words: &[u64; WORDS]) -> bool {
    is_zero(words)
}

#[inline(always)]
fn is_zero(words: &[u64; WORDS]) -> bool {
    let blocks = words.as_chunks::<BLOCK>().0;
    blocks
        .iter()
        .all(|block| block.iter().fold(0, |any, word| any | word) == 0)
}

/// Likewise.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn is_one_word_by_avx2(words: &[u64; WORDS]) -> bool {
    is_one_word(words)
}

#[inline(always)]
fn is_one_word(words: &[u64; WORDS]) -> bool {
    let first = words[0];
    let blocks = words.as_chunks::<BLOCK>().0;
    blocks
        .iter()
        .all(|block| block.iter().fold(0, |any, word| any | (word ^ first)) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE as usize]);

    #[test]
    fn every_byte_counts_with_and_without_wide_instructions() {
        let mut page = Page([0; PAGE_SIZE as usize]);
        let tests = [
            ZeroTest::new(),
            ZeroTest {
                #[cfg(target_arch = "x86_64")]
                has_avx2: false,
            },
        ];
        let all_say = |page: &mut Page, expected: bool| {
            for test in tests {
                // SAFETY: it is a page of this test.
                let found = unsafe { test.is_zero(NonNull::from(&mut *page).cast()) };
                assert_eq!(found, expected, "{test:?}");
                // SAFETY: likewise.
                let word = unsafe { test.word(NonNull::from(&mut *page).cast()) };
                assert_eq!(word, expected.then_some(0), "{test:?}");
            }
        };
        all_say(&mut page, true);
        for index in 0..page.0.len() {
            page.0[index] = 1 << (index % 8);
            all_say(&mut page, false);
            page.0[index] = 0;
        }
    }

    #[test]
    fn every_bit_of_every_word_must_be_alike() {
        let word = 0xcccc_cccc_cccc_cc01_u64;
        let mut page = Page([0; PAGE_SIZE as usize]);
        page.0.as_chunks_mut().0.fill(word.to_le_bytes());
        for has_avx2 in [ZeroTest::new().has_avx2, false] {
            let test = ZeroTest { has_avx2 };
            // SAFETY: it is a page of this test.
            let found = |page: &mut Page| unsafe { test.word(NonNull::from(page).cast()) };
            assert_eq!(found(&mut page), Some(word));
            for index in 0..page.0.len() {
                page.0[index] ^= 1 << (index % 8);
                assert_eq!(found(&mut page), None, "byte {index}");
                page.0[index] ^= 1 << (index % 8);
            }
        }
    }
}
