//! Mappings that begin with files in their places, and no anonymous page under them.
//!
//! To lay a file over what is mapped already, the kernel takes a mapping apart and tells every VM of the process that
//! its pages go: some 30,000 instructions each time. A new piece where nothing is mapped costs a quarter of that.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Mutex;

use super::HugePages;
use super::extent::Extent;
use super::mapping::{HUGE_PAGE_SIZE, HostMapping, Overlays};

/// How often room is looked for that another thread takes before it is used.
const ATTEMPTS: u32 = 8;

/// A part of a file, and its place in a mapping.
#[derive(Clone, Copy, Debug)]
pub struct FilePiece<'a> {
    /// The place.
    pub place: Extent,
    /// A sealed file: it must never be shortened while the mapping lives.
    pub file: BorrowedFd<'a>,
    /// Where in the file it begins; a multiple of the page size.
    pub file_offset: u64,
}

impl HostMapping {
    /// Reserves `len` bytes, of which `pieces`, in order and apart, are private views of files; the others are zero
    /// pages, none of which is backed before it is touched.
    ///
    /// # Errors
    /// Pieces that do not lie within, or a process without room or mappings left.
    pub fn of_pieces(len: u64, huge_pages: HugePages, pieces: &[FilePiece<'_>]) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            match Self::place(len, huge_pages, pieces) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                placed => return placed,
            }
        }
        let mapping = Self::anonymous(len, huge_pages)?;
        for piece in pieces {
            let Extent { offset, len } = piece.place;
            mapping.overlay_file(offset, len, piece.file, piece.file_offset)?;
        }
        Ok(mapping)
    }

    /// `EEXIST` when another thread was quicker.
    fn place(len: u64, huge_pages: HugePages, pieces: &[FilePiece<'_>]) -> io::Result<Self> {
        let size = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let start = free_range(size)?;
        let mut mapping = Self {
            reservation: start,
            reservation_len: 0,
            start,
            len: size,
            huge_pages,
            overlays: Mutex::new(Overlays {
                extents: pieces.iter().map(|piece| piece.place).collect(),
                cleared: false,
            }),
        };
        for piece in pieces {
            if piece.place.offset < mapping.reservation_len as u64 || piece.place.end() > len {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            mapping.append_zeros(piece.place.offset)?;
            mapping.append(piece.place.len, Some(piece))?;
        }
        mapping.append_zeros(len)?;
        Ok(mapping)
    }

    /// Zero pages up to `end`.
    fn append_zeros(&mut self, end: u64) -> io::Result<()> {
        let begin = self.reservation_len;
        match end - begin as u64 {
            0 => Ok(()),
            len => {
                self.append(len, None)?;
                self.advise_range(begin, len as usize)
            }
        }
    }

    /// Maps `len` bytes behind what is mapped already.
    fn append(&mut self, len: u64, piece: Option<&FilePiece<'_>>) -> io::Result<()> {
        let (kind, file, file_offset) = match piece {
            Some(piece) => (0, piece.file.as_raw_fd(), piece.file_offset),
            None => (libc::MAP_ANONYMOUS, -1, 0),
        };
        let wanted = self.as_ptr().wrapping_add(self.reservation_len);
        // SAFETY: the kernel replaces no mapping that is there (`MAP_FIXED_NOREPLACE`); on one that is too old to know
        // that flag the address is a hint, and it does not either.
        let address = unsafe {
            libc::mmap(
                wanted.cast(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE | kind,
                file,
                file_offset as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if address != wanted.cast() {
            // SAFETY: it was just made, and nobody knows of it.
            unsafe { libc::munmap(address, len as usize) };
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.reservation_len += len as usize;
        Ok(())
    }
}

/// Where `len` bytes are free, aligned for huge pages if they are as many.
fn free_range(len: usize) -> io::Result<NonNull<u8>> {
    let slack = if len >= HUGE_PAGE_SIZE { HUGE_PAGE_SIZE } else { 0 };
    let room = len
        .checked_add(slack)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory, and it goes again before
    // anybody can know of it.
    let address = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let address = libc::mmap(ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0);
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        libc::munmap(address, room);
        address.cast::<u8>()
    };
    let padding = if slack > 0 {
        address.align_offset(HUGE_PAGE_SIZE)
    } else {
        0
    };
    NonNull::new(address.wrapping_add(padding)).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::super::layout::PAGE_SIZE;
    use super::super::sealed;
    use super::*;

    fn pages(first: u64, count: u64) -> Extent {
        Extent {
            offset: first * PAGE_SIZE,
            len: count * PAGE_SIZE,
        }
    }

    fn byte(mapping: &HostMapping, page: u64) -> u8 {
        // SAFETY: the page lies within the mapping, which is readable.
        unsafe { mapping.as_ptr().add((page * PAGE_SIZE) as usize).read_volatile() }
    }

    fn file() -> std::fs::File {
        let file = sealed::create(c"test", 4 * PAGE_SIZE).unwrap();
        for page in 0..4 {
            file.write_all_at(&[page as u8 + 1], page * PAGE_SIZE).unwrap();
        }
        sealed::seal(&file).unwrap();
        file
    }

    #[test]
    fn pieces_stand_in_their_places_and_zeros_between_them() {
        let file = file();
        let piece = |first, count, from: u64| FilePiece {
            place: pages(first, count),
            file: file.as_fd(),
            file_offset: from * PAGE_SIZE,
        };
        for list in [
            vec![],
            vec![piece(0, 2, 0)],
            vec![piece(3, 1, 3), piece(4, 2, 1), piece(1022, 2, 0)],
        ] {
            let mapping = HostMapping::of_pieces(4 << 20, HugePages::Never, &list).unwrap();
            assert!((mapping.as_ptr() as usize).is_multiple_of(HUGE_PAGE_SIZE));
            mapping.fill(PAGE_SIZE * 3, &[7; PAGE_SIZE as usize]).unwrap();
            assert_eq!(mapping.private_pages().unwrap(), [pages(3, 1)]);
            let mut expected = [0; 1024];
            for piece in &list {
                for page in 0..piece.place.len / PAGE_SIZE {
                    expected[(piece.place.offset / PAGE_SIZE + page) as usize] =
                        (piece.file_offset / PAGE_SIZE + page + 1) as u8;
                }
            }
            expected[3] = 7;
            assert!((0..1024).all(|page| byte(&mapping, page) == expected[page as usize]));
            let places: Vec<Extent> = list.iter().map(|piece| piece.place).collect();
            assert_eq!(mapping.overlays(), places);
        }
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let file = file();
        let piece = |first, count| FilePiece {
            place: pages(first, count),
            file: file.as_fd(),
            file_offset: 0,
        };
        for list in [
            vec![piece(255, 2)],
            vec![piece(4, 2), piece(5, 1)],
            vec![piece(8, 1), piece(0, 1)],
        ] {
            assert!(HostMapping::of_pieces(1 << 20, HugePages::Never, &list).is_err());
        }
    }

    #[test]
    fn many_threads_find_room_at_once() {
        let file = file();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let piece = FilePiece {
                            place: pages(100, 4),
                            file: file.as_fd(),
                            file_offset: 0,
                        };
                        let mapping = HostMapping::of_pieces(8 << 20, HugePages::Never, &[piece]).unwrap();
                        assert_eq!((byte(&mapping, 99), byte(&mapping, 103)), (0, 4));
                    }
                });
            }
        });
    }
}
