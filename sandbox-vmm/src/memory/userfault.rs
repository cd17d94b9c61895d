//! Page faults that this process serves itself (kernel documentation, admin-guide/mm/userfaultfd.rst).

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::HostMapping;
use super::extent::Extent;
use super::layout::PAGE_SIZE;

const UFFD_API: u64 = 0xaa;
const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xaa00;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
/// Size of `struct uffd_msg`, and where a page fault's address stands in it.
const MESSAGE_SIZE: usize = 32;
const ADDRESS_OFFSET: usize = 16;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    destination: u64,
    source: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ZeroPage {
    range: Range,
    mode: u64,
    zeroed: i64,
}

/// A mapping whose missing pages, or those of some parts, are asked for here.
#[derive(Debug)]
pub struct Userfault {
    file: File,
    start: u64,
    len: u64,
    parts: Vec<Extent>,
}

impl Userfault {
    /// Takes over the missing pages of `mapping`, which must outlive this; by `device`, if this process was handed one.
    ///
    /// # Errors
    /// A kernel without userfaultfd, or a process without the right to serve faults of the kernel (KVM's are).
    pub fn register(device: Option<&File>, mapping: &HostMapping) -> io::Result<Self> {
        Self::register_parts(device, mapping, &[mapping.whole()])
    }

    /// The same for these parts of `mapping`.
    ///
    /// # Errors
    /// As [`Userfault::register`].
    pub fn register_parts(device: Option<&File>, mapping: &HostMapping, parts: &[Extent]) -> io::Result<Self> {
        let file = match device {
            Some(device) => made(made_by(device))?,
            None => open()?,
        };
        Self::over(file, mapping, parts)
    }

    fn over(file: File, mapping: &HostMapping, parts: &[Extent]) -> io::Result<Self> {
        let userfault = Self {
            file,
            start: mapping.as_ptr() as u64,
            len: mapping.len() as u64,
            parts: parts.to_vec(),
        };
        let mut api = Api {
            api: UFFD_API,
            features: 0,
            ioctls: 0,
        };
        userfault.call(UFFDIO_API, &mut api)?;
        for part in parts {
            let mut register = Register {
                range: userfault.range(*part),
                mode: REGISTER_MODE_MISSING,
                ioctls: 0,
            };
            userfault.call(UFFDIO_REGISTER, &mut register)?;
        }
        Ok(userfault)
    }

    /// Readable when a page is asked for.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The page that is asked for, by its offset; `None` when there is none.
    pub fn next(&self) -> io::Result<Option<u64>> {
        let mut message = [0; MESSAGE_SIZE];
        match (&self.file).read(&mut message) {
            Ok(MESSAGE_SIZE) if message[0] == EVENT_PAGEFAULT => {
                let mut address = [0; 8];
                address.copy_from_slice(&message[ADDRESS_OFFSET..ADDRESS_OFFSET + 8]);
                let offset = u64::from_le_bytes(address).wrapping_sub(self.start);
                Ok(Some(offset & !(PAGE_SIZE - 1)))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives pages from `offset` on their content, unless they have some, or are ours no more because the mapping was
    /// replaced there. Whoever waits for them goes on.
    pub fn fill(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(offset + bytes.len() as u64 <= self.len);
        let mut done = 0;
        while done < bytes.len() {
            let mut copy = Copy {
                destination: self.start + offset + done as u64,
                source: bytes[done..].as_ptr() as u64,
                len: (bytes.len() - done) as u64,
                mode: 0,
                copied: 0,
            };
            match self.call(UFFDIO_COPY, &mut copy) {
                Ok(()) => done = bytes.len(),
                // A page that is there already: go on behind what was copied and behind it.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    done += copy.copied.max(0) as usize + if copy.copied > 0 { 0 } else { PAGE_SIZE as usize };
                }
                // It was kept from it half-way.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => done += copy.copied.max(0) as usize,
                Err(error) if is_replaced(&error) => {
                    return self.wake(Extent {
                        offset,
                        len: bytes.len() as u64,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the page at `offset` zero, unless it has content or is ours no more. Whoever waits for it goes on.
    pub fn zero(&self, offset: u64) -> io::Result<()> {
        let page = Extent { offset, len: PAGE_SIZE };
        loop {
            let mut zero = ZeroPage {
                range: self.range(page),
                mode: 0,
                zeroed: 0,
            };
            match self.call(UFFDIO_ZEROPAGE, &mut zero) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(error) if is_replaced(&error) => return self.wake(page),
                result => return result,
            }
        }
    }

    /// Gives the missing pages up: whoever waits goes on, with zeros.
    pub fn give_up(&self) {
        for part in &self.parts {
            if let Err(error) = self.call(UFFDIO_UNREGISTER, &mut self.range(*part)) {
                tracing::error!(%error, "page faults are served no more and cannot be given up");
            }
        }
    }

    /// Lets go on who waits for pages of `extent`, which are there in another way.
    pub fn wake(&self, extent: Extent) -> io::Result<()> {
        self.call(UFFDIO_WAKE, &mut self.range(extent))
    }

    fn range(&self, extent: Extent) -> Range {
        Range {
            start: self.start + extent.offset,
            len: extent.len,
        }
    }

    fn call<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        // SAFETY: each request is called with the structure that the kernel defines for it, which lives for the call.
        // What the kernel writes beyond it is guest memory's missing pages, to which no Rust reference exists.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, std::ptr::from_mut(argument)) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Whether pages could not be given because others are mapped in their place: a fork has frozen the guest's memory. Who
/// asked for them before that still waits, and finds the others when it is woken.
fn is_replaced(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

/// Opens the device that makes descriptors for page faults.
///
/// # Errors
/// There is none (before Linux 6.1), or this process may not.
pub fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")
}

const FLAGS: libc::c_int = libc::O_CLOEXEC | libc::O_NONBLOCK;

fn made_by(device: &File) -> libc::c_int {
    // SAFETY: the request takes flags and makes a descriptor.
    unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW as _, FLAGS) }
}

/// By the device, whose permissions say who may (Linux from 6.1 on), else by the system call, which wants a capability
/// or `vm.unprivileged_userfaultfd`.
fn open() -> io::Result<File> {
    made(match open_device() {
        Ok(device) => made_by(&device),
        // SAFETY: the call takes flags and makes a descriptor.
        Err(_) => unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) as libc::c_int },
    })
}

fn made(descriptor: libc::c_int) -> io::Result<File> {
    match descriptor {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor was just made and belongs to nobody else.
        _ => Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) })),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GuestMemory, HugePages};
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    /// The page that a thread asks for next.
    fn asked(userfault: &Userfault) -> u64 {
        loop {
            if let Some(offset) = userfault.next().unwrap() {
                return offset;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_waits_for_a_page_of_memory_that_is_replaced_goes_on() {
        let memory = GuestMemory::new(1 << 20, HugePages::Never, false).unwrap();
        let Ok(userfault) = Userfault::register(None, memory.mapping()) else {
            return;
        };
        for serve in [
            |userfault: &Userfault, at| userfault.fill(at, &[7; 2 * PAGE_SIZE as usize]),
            Userfault::zero,
        ] {
            let reader = {
                let memory = memory.clone();
                std::thread::spawn(move || memory.read_obj::<u8>(GuestAddress(0x9123)).unwrap())
            };
            let asked = asked(&userfault);
            memory.mapping().clear().unwrap();
            serve(&userfault, asked).unwrap();
            assert_eq!(reader.join().unwrap(), 0);
            // For the second time.
            let part = memory.mapping().whole();
            let mut register = Register {
                range: userfault.range(part),
                mode: REGISTER_MODE_MISSING,
                ioctls: 0,
            };
            userfault.call(UFFDIO_REGISTER, &mut register).unwrap();
            memory.mapping().discard(0, 1 << 20).unwrap();
        }
    }

    #[test]
    fn a_missing_page_is_asked_for_and_served_once() {
        let memory = GuestMemory::new(1 << 20, HugePages::Never, false).unwrap();
        // Not every host lets a process do this; the error says so then.
        let Ok(userfault) = Userfault::register(None, memory.mapping()) else {
            return;
        };
        userfault.fill(0x3000, &[7; 2 * PAGE_SIZE as usize]).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x4fff)).unwrap(), 7);
        userfault.fill(0x2000, &[9; 4 * PAGE_SIZE as usize]).unwrap();
        let bytes = [0x2000, 0x3000, 0x4000, 0x5000].map(|at| memory.read_obj::<u8>(GuestAddress(at)).unwrap());
        assert_eq!(bytes, [9, 7, 7, 9], "what is there stays");
        userfault.zero(0x8000).unwrap();
        userfault.zero(0x8000).unwrap();
        let reader = {
            let memory = memory.clone();
            std::thread::spawn(move || memory.read_obj::<u8>(GuestAddress(0x9123)).unwrap())
        };
        assert_eq!(asked(&userfault), 0x9000);
        userfault.fill(0x9000, &[5; PAGE_SIZE as usize]).unwrap();
        assert_eq!(reader.join().unwrap(), 5);
        let other = {
            let memory = memory.clone();
            std::thread::spawn(move || memory.read_obj::<u8>(GuestAddress(0xa000)).unwrap())
        };
        asked(&userfault);
        userfault.give_up();
        assert_eq!(other.join().unwrap(), 0, "nobody waits for what nobody serves");
    }
}
