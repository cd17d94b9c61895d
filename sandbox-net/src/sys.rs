//! The system calls that the standard library does not wrap, and all of the
//! crate's unsafe code. Each function is safe to call with any descriptor: on
//! one of the wrong kind the kernel answers with an error.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Length of the value part of `struct ifreq`, in bytes.
const VALUE_LENGTH: usize = size_of::<libc::ifreq>() - libc::IFNAMSIZ;

/// Length of `struct tun_pi`, in bytes.
const PACKET_INFORMATION: usize = 4;

/// `struct ifreq` (netdevice(7)): an interface's name, then a value whose type
/// depends on the request. Plain bytes, so that no union needs to be read.
#[repr(C, align(8))]
pub(crate) struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; VALUE_LENGTH],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());
const _: () = assert!(align_of::<InterfaceRequest>() >= align_of::<libc::ifreq>());

impl InterfaceRequest {
    /// A request about `name`, which must have passed [`crate::name::check`] or
    /// be a shorter constant: what does not fit is cut off.
    pub(crate) fn new(name: &str) -> Self {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            value: [0; VALUE_LENGTH],
        };
        let room = &mut request.name[..libc::IFNAMSIZ - 1];
        for (to, from) in room.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        request
    }

    /// The same request with `ifr_flags` set.
    pub(crate) fn with_flags(mut self, flags: c_int) -> Self {
        // ifr_flags is a short; every IFF_* the callers use fits in it.
        self.value[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
        self
    }

    /// The name, as the kernel wrote it back.
    pub(crate) fn name(&self) -> String {
        let length = self.name.iter().position(|&byte| byte == 0);
        String::from_utf8_lossy(&self.name[..length.unwrap_or(self.name.len())]).into_owned()
    }

    /// `ifr_flags`.
    pub(crate) fn flags(&self) -> c_int {
        c_int::from(u16::from_ne_bytes([self.value[0], self.value[1]]))
    }

    /// `ifr_ifindex` or `ifr_mtu`.
    pub(crate) fn integer(&self) -> u32 {
        u32::from_ne_bytes([self.value[0], self.value[1], self.value[2], self.value[3]])
    }

    /// The first six octets of `ifr_hwaddr.sa_data`.
    pub(crate) fn hardware_address(&self) -> [u8; 6] {
        // sa_family comes first and takes two bytes.
        let mut octets = [0; 6];
        octets.copy_from_slice(&self.value[2..8]);
        octets
    }
}

/// The requests that take a pointer to a `struct ifreq`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InterfaceIoctl {
    /// Attaches a tun descriptor to an interface, making one where needed.
    AttachTap,
    /// The attached interface's name, and the flags of the attachment.
    TapAttachment,
    /// An interface's index.
    Index,
    /// An interface's `IFF_*` flags.
    Flags,
    /// An interface's MTU in bytes.
    Mtu,
    /// An interface's hardware address.
    HardwareAddress,
}

impl InterfaceIoctl {
    const fn number(self) -> libc::Ioctl {
        match self {
            Self::AttachTap => libc::TUNSETIFF,
            Self::TapAttachment => libc::TUNGETIFF,
            Self::Index => libc::SIOCGIFINDEX as libc::Ioctl,
            Self::Flags => libc::SIOCGIFFLAGS as libc::Ioctl,
            Self::Mtu => libc::SIOCGIFMTU as libc::Ioctl,
            Self::HardwareAddress => libc::SIOCGIFHWADDR as libc::Ioctl,
        }
    }
}

/// Does `operation` on `request`, which then holds the kernel's answer.
pub(crate) fn interface_ioctl(
    fd: BorrowedFd<'_>,
    operation: InterfaceIoctl,
    request: &mut InterfaceRequest,
) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed. All these
    // requests read and write one `struct ifreq`, whose size and alignment
    // `InterfaceRequest` has, which any bytes are valid for, and which is
    // borrowed mutably until the call returns; the kernel keeps no pointer to
    // it. The numbers are reserved for tun and for sockets, so no other driver
    // takes them for something larger.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), operation.number(), request) };
    check(result).map(drop)
}

/// Sets the length in bytes of the virtio-net header before each frame.
pub(crate) fn set_header_size(tap: BorrowedFd<'_>, size: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel
    // reads one int through the pointer, which lives until the call returns.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
    check(result).map(drop)
}

/// Sets the offloads, a set of `TUN_F_*`.
pub(crate) fn set_offloads(tap: BorrowedFd<'_>, offloads: u32) -> io::Result<()> {
    let argument = libc::c_ulong::from(offloads);
    // SAFETY: the descriptor is open for as long as it is borrowed; the
    // argument is passed by value and no memory is touched.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, argument) };
    check(result).map(drop)
}

/// Whether frames on a tap with virtio-net headers are also preceded by the four
/// bytes of `struct tun_pi`, that is, whether `IFF_NO_PI` was left out.
///
/// TUNGETIFF does not tell: the same bit, as `IFF_NOFILTER`, says there that no
/// filter is attached. But a tap that expects those bytes reads them before it
/// finds that a write of four bytes is too short for anything else.
pub(crate) fn has_packet_information(tap: BorrowedFd<'_>) -> bool {
    // SAFETY: the descriptor is open for as long as it is borrowed. The kernel
    // checks the address of what it reads, and answers EFAULT to this one.
    let result = unsafe { libc::write(tap.as_raw_fd(), std::ptr::null(), PACKET_INFORMATION) };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Makes a descriptor close on exec, and the open file behind it non-blocking.
pub(crate) fn set_non_blocking_and_close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: the descriptor is open for as long as it is borrowed; these three
    // commands take and return integers and touch no memory.
    unsafe {
        let status = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, status | libc::O_NONBLOCK))?;
        check(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC))?;
    }
    Ok(())
}

/// A socket to the kernel's routing and link tables (rtnetlink(7)).
///
/// Non-blocking: the kernel answers before the request's `write` returns, so
/// there is never a reason to wait.
pub(crate) fn route_socket() -> io::Result<File> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes and returns integers.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
    // SAFETY: the call succeeded, so this descriptor is open, and nobody else
    // knows it yet.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(File::from(fd))
}

/// Gives the calling thread a network namespace of its own, in which there is nothing but a loopback interface.
pub(crate) fn new_network_namespace() -> io::Result<()> {
    // SAFETY: takes an integer, touches no memory, and changes nothing but the calling thread's network namespace.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Which kind of namespace a descriptor stands for, as a `CLONE_NEW*` flag.
pub(crate) fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: the descriptor is open for as long as it is borrowed. The request is numbered for namespace files alone
    // (ioctl_ns(2)), takes no argument and touches no memory.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) })
}

/// `NS_GET_NSTYPE` of `linux/nsfs.h`: `_IO(0xb7, 3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
