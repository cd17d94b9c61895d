//! Reads of a device's configuration space (virtio 1.3 §2.5).

/// Fills `data` from `space` at `offset`; what lies behind the end of `space` reads as zero.
pub(crate) fn read(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(space.len());
    for (to, from) in data.iter_mut().zip(&space[start..]) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_the_end_is_zero() {
        let space = [1, 2, 3, 4];
        for (offset, expected) in [(0, [1, 2, 3]), (2, [3, 4, 0]), (4, [0; 3]), (u64::MAX, [0; 3])] {
            let mut data = [9; 3];
            read(&space, offset, &mut data);
            assert_eq!(data, expected, "offset {offset}");
        }
    }
}
