//! Whether a page is zero throughout: asked of every page of a guest that is saved, most of which are in a guest that is
//! backed by huge pages.

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
            }
        };
        all_say(&mut page, true);
        for index in 0..page.0.len() {
            page.0[index] = 1 << (index % 8);
            all_say(&mut page, false);
            page.0[index] = 0;
        }
    }
}
