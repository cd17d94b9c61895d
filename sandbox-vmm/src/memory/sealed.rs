//! A file in memory that nobody can change or shorten.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;

use super::extent::Extent;

/// Everything is forbidden for good, further changes to the seals as well: a private mapping of the file can neither
/// see another content nor lose a page (which would be SIGBUS for the process).
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;

/// A sealed file as memory of this process.
#[derive(Debug)]
pub(crate) struct View {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages belong to a sealed file: nobody can change them, through this mapping or any other.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Maps the whole of `file`, which must be sealed. Its pages are looked up when they are read, some at a time: a worker
    /// looks at a part of them, before its guest's first instruction at none.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast::<u8>()) {
            Some(start) if address != libc::MAP_FAILED => Ok(Self { start, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The file's content.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` readable bytes for as long as this value, and the seals forbid that they change
        // or that the file becomes shorter.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by this value, and no borrow of it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Makes a memory file of `len` zero bytes that can still be written; `/proc` shows it by `name`.
pub(crate) fn create(name: &CStr, len: u64) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let file = match memfd(name, flags | libc::MFD_NOEXEC_SEAL) {
        // Linux before 6.3 does not know the flag.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => memfd(name, flags)?,
        result => result?,
    };
    file.set_len(len)?;
    Ok(file)
}

/// What of the bytes from `from` to `to`, both multiples of the page size, is no hole. It moves the file's position, which
/// nobody reads from.
pub(crate) fn data(file: &File, from: u64, to: u64) -> io::Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut position = from;
    while position < to {
        let Some(begin) = seek(file, position, libc::SEEK_DATA)?.filter(|begin| *begin < to) else {
            break;
        };
        // Behind the last byte there is a hole.
        let end = seek(file, begin, libc::SEEK_HOLE)?.unwrap_or(to).min(to);
        found.push(Extent {
            offset: begin,
            len: end - begin,
        });
        position = end;
    }
    Ok(found)
}

/// `None` where there is nothing of the kind any more.
fn seek(file: &File, position: u64, what: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: the call has no pointer arguments; the descriptor is open for as long as `file`.
    let found = unsafe { libc::lseek(file.as_raw_fd(), position as libc::off_t, what) };
    match (u64::try_from(found), io::Error::last_os_error()) {
        (Ok(found), _) => Ok(Some(found)),
        (Err(_), error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        (Err(_), error) => Err(error),
    }
}

/// Forbids every further change.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    // SAFETY: the call has no pointer arguments; the descriptor is open for as long as `file`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether nobody can change it any more.
pub(crate) fn is_sealed(file: &File) -> bool {
    // SAFETY: the call has no pointer arguments; the descriptor is open for as long as `file`.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & SEALS == SEALS
}

fn memfd(name: &CStr, flags: libc::c_uint) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated string that lives for the call.
    let descriptor = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    match descriptor {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor was just made and belongs to nobody else.
        _ => Ok(unsafe { File::from_raw_fd(descriptor) }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_no_data() {
        let page = |first: u64, count: u64| Extent {
            offset: first * 4096,
            len: count * 4096,
        };
        let file = create(c"test", 100 * 4096).unwrap();
        assert_eq!(data(&file, 0, 100 * 4096).unwrap(), []);
        for place in [page(0, 1), page(7, 3), page(99, 1)] {
            file.write_all_at(&vec![1; place.len as usize], place.offset).unwrap();
        }
        assert_eq!(
            data(&file, 0, 100 * 4096).unwrap(),
            [page(0, 1), page(7, 3), page(99, 1)]
        );
        assert_eq!(data(&file, 8 * 4096, 99 * 4096).unwrap(), [page(8, 2)]);
        assert_eq!(data(&file, 20 * 4096, 30 * 4096).unwrap(), []);
    }

    #[test]
    fn a_sealed_file_can_be_neither_written_nor_resized() {
        let file = create(c"test", 4096).unwrap();
        file.write_all_at(b"kernel", 0).unwrap();
        assert!(!is_sealed(&file));
        seal(&file).unwrap();
        assert!(is_sealed(&file));
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(8192).is_err());
        assert_eq!(file.metadata().unwrap().len(), 4096);
        assert_eq!(&View::new(&file).unwrap().bytes()[..6], b"kernel");
    }
}
