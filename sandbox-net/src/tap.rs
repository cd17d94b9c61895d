//! Taps: network interfaces whose far end is a file descriptor
//! (Documentation/networking/tuntap.rst of the Linux source).

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::sys::{self, InterfaceIoctl, InterfaceRequest};
use crate::{LinkControl, NetError, Offloads, name};

/// Length in bytes of the header before each frame: `struct
/// virtio_net_hdr_mrg_rxbuf`, which `VIRTIO_F_VERSION_1` always has (virtio 1.3
/// §5.1.6).
pub const VNET_HEADER_SIZE: usize = 12;

/// Name from which the kernel makes `sbx0`, `sbx1` and so on.
const NAME_PATTERN: &str = "sbx%d";

const ATTACH_FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Most buffers that the kernel takes in one call (`UIO_MAXIOV`).
const MAX_BUFFERS: usize = 1024;

/// A tap attached to this process: what is sent here the host receives, and
/// what the host sends to the interface is received here.
///
/// Each frame is preceded by a virtio-net header of [`VNET_HEADER_SIZE`] bytes.
/// The descriptor is non-blocking and closes on exec; [`AsFd`] lends it for
/// polling. Dropping the tap detaches it. An interface that is not persistent
/// vanishes with the last descriptor of its tap, addresses and routes included;
/// closing that descriptor waits for the kernel, commonly 15 to 40 ms, so do it
/// on a thread that has the time. Detaching from a persistent tap takes well
/// under a millisecond.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Attaches to the persistent tap `name`, made for instance by `ip tuntap
    /// add`, and resets its offloads to none.
    ///
    /// The tap's owner may do this without privileges.
    ///
    /// # Errors
    /// - [`NetError::NotFound`], [`NetError::NotATap`] or
    ///   [`NetError::InvalidName`] if there is no such tap.
    /// - [`NetError::InUse`] if another descriptor is attached to it.
    /// - [`NetError::PermissionDenied`] without `CAP_NET_ADMIN`, if the tap has
    ///   no owner or another one.
    /// - [`NetError::TunDeviceMissing`] or [`NetError::TunDeviceForbidden`].
    pub fn open(name: &str) -> Result<Self, NetError> {
        // TUNSETIFF makes the interfaces it does not find.
        LinkControl::open()?.index(name)?;
        let device = open_tun_device(name)?;
        let tap = Self::attach(device, name, 0).map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => NetError::InUse { name: name.into() },
            Some(libc::EINVAL) => NetError::NotATap { name: name.into() },
            _ => NetError::from_os(name, "open a tap", source),
        })?;
        let attachment = tap
            .attachment()
            .map_err(|source| tap.error("read the tap's flags", source))?;
        // One that is not persistent was made just now: the one meant was
        // deleted in between.
        if attachment.flags() & libc::IFF_PERSIST == 0 {
            return Err(NetError::NotFound { name: name.into() });
        }
        tap.set_header_size()?;
        tap.set_offloads(Offloads::NONE)?;
        Ok(tap)
    }

    /// Makes a tap with a name chosen by the kernel: `sbx0`, `sbx1` and so on.
    /// It vanishes when dropped.
    ///
    /// # Errors
    /// - [`NetError::PermissionDenied`] without `CAP_NET_ADMIN`.
    /// - [`NetError::TunDeviceMissing`] or [`NetError::TunDeviceForbidden`].
    pub fn create() -> Result<Self, NetError> {
        Self::create_from(NAME_PATTERN)
    }

    /// Makes a tap called `name`. It vanishes when dropped.
    ///
    /// # Errors
    /// As [`Tap::create`], and:
    /// - [`NetError::InvalidName`] if no interface can have this name.
    /// - [`NetError::AlreadyExists`] if an interface of any kind has it.
    pub fn create_named(name: &str) -> Result<Self, NetError> {
        name::check(name)?;
        Self::create_from(name)
    }

    fn create_from(name: &str) -> Result<Self, NetError> {
        let device = open_tun_device(name)?;
        let tap = Self::attach(device, name, libc::IFF_TUN_EXCL).map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => NetError::AlreadyExists { name: name.into() },
            _ => NetError::from_os(name, "create a tap", source),
        })?;
        tap.set_header_size()?;
        Ok(tap)
    }

    /// Wraps a tap that somebody else attached, such as one passed over a
    /// socket by a privileged parent.
    ///
    /// The open file behind the descriptor becomes non-blocking, for everybody
    /// who shares it, and its offloads are reset to none. On failure the
    /// descriptor is closed.
    ///
    /// # Errors
    /// - [`NetError::DescriptorNotATap`] if it is anything else.
    /// - [`NetError::MissingFlag`] if it was attached without `IFF_NO_PI` or
    ///   `IFF_VNET_HDR`, which cannot be changed afterwards.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetError> {
        let mut tap = Self {
            file: File::from(fd),
            name: String::new(),
        };
        let attachment = tap.attachment().map_err(|source| not_a_tap(tap.as_raw_fd(), &source))?;
        tap.name = attachment.name();
        if attachment.flags() & libc::IFF_TAP == 0 {
            return Err(NetError::DescriptorNotATap {
                descriptor: tap.as_raw_fd(),
                reason: "is a tun of IP packets, not a tap of Ethernet frames",
            });
        }
        let missing_flag = if attachment.flags() & libc::IFF_VNET_HDR == 0 {
            Some("IFF_VNET_HDR")
        } else if sys::has_packet_information(tap.as_fd()) {
            Some("IFF_NO_PI")
        } else {
            None
        };
        if let Some(flag) = missing_flag {
            return Err(NetError::MissingFlag { name: tap.name, flag });
        }
        sys::set_non_blocking_and_close_on_exec(tap.as_fd())
            .map_err(|source| tap.error("make the descriptor non-blocking", source))?;
        tap.set_header_size()?;
        tap.set_offloads(Offloads::NONE)?;
        Ok(tap)
    }

    /// Attaches an open tun device to the interface `name`.
    fn attach(device: File, name: &str, extra_flags: i32) -> io::Result<Self> {
        let mut request = InterfaceRequest::new(name).with_flags(ATTACH_FLAGS | extra_flags);
        sys::interface_ioctl(device.as_fd(), InterfaceIoctl::AttachTap, &mut request)?;
        Ok(Self {
            file: device,
            name: request.name(),
        })
    }

    /// The name of the interface, as it was when the tap was attached.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetError::NotFound`] if the interface is not there, having been
    /// deleted, renamed or moved to another namespace.
    pub fn index(&self) -> Result<u32, NetError> {
        LinkControl::open()?.index(&self.name)
    }

    /// Says what the host may leave undone in the frames it hands over.
    ///
    /// # Errors
    /// [`NetError::UnsupportedOffloads`] if the kernel does not know one of
    /// them or the combination; the former offloads stay then.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), NetError> {
        sys::set_offloads(self.as_fd(), offloads.bits()).map_err(|source| {
            if source.raw_os_error() == Some(libc::EINVAL) {
                return NetError::UnsupportedOffloads {
                    name: self.name.clone(),
                    offloads,
                };
            }
            self.error("set the offloads", source)
        })
    }

    /// Takes the next frame from the host, header first, and returns the number
    /// of bytes written to `buffers`, or `None` if no frame is waiting.
    ///
    /// A frame longer than all buffers together is cut short. Frames can be as
    /// long as the MTU, or 64 KiB with segmentation offloads, plus 14 bytes of
    /// Ethernet header, 4 of VLAN tag and [`VNET_HEADER_SIZE`]. At most 1024
    /// buffers are used. Without any room the answer is 0 and the frame stays.
    ///
    /// # Errors
    /// [`NetError::NotFound`] if the interface was deleted.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>]) -> Result<Option<usize>, NetError> {
        match (&self.file).read_vectored(buffers) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(self.error("receive a frame", error)),
        }
    }

    /// Hands the host one frame, header first, and returns its length in bytes,
    /// or `None` if the host has no room: wait until the tap is writable.
    ///
    /// # Errors
    /// - [`NetError::FrameRejected`] if the header or the length is wrong, or
    ///   the frame is in more than 1024 pieces.
    /// - [`NetError::LinkDown`] while the interface is down.
    /// - [`NetError::NotFound`] if the interface was deleted.
    pub fn send(&self, buffers: &[IoSlice<'_>]) -> Result<Option<usize>, NetError> {
        // The standard library would pass on the first pieces only, and the
        // host would take a part of the guest's frame for the whole.
        if buffers.len() > MAX_BUFFERS {
            return Err(self.frame_rejected(io::Error::from_raw_os_error(libc::EMSGSIZE)));
        }
        match (&self.file).write_vectored(buffers) {
            // The kernel takes no notice of a write of nothing.
            Ok(0) => Err(self.frame_rejected(io::Error::from_raw_os_error(libc::EINVAL))),
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(match error.raw_os_error() {
                Some(libc::EINVAL | libc::EMSGSIZE) => self.frame_rejected(error),
                Some(libc::EIO) => NetError::LinkDown {
                    name: self.name.clone(),
                },
                _ => self.error("send a frame", error),
            }),
        }
    }

    fn set_header_size(&self) -> Result<(), NetError> {
        sys::set_header_size(self.as_fd(), VNET_HEADER_SIZE as i32)
            .map_err(|source| self.error("set the virtio-net header's size", source))
    }

    fn attachment(&self) -> io::Result<InterfaceRequest> {
        let mut request = InterfaceRequest::new("");
        sys::interface_ioctl(self.as_fd(), InterfaceIoctl::TapAttachment, &mut request)?;
        Ok(request)
    }

    fn frame_rejected(&self, source: io::Error) -> NetError {
        NetError::FrameRejected {
            name: self.name.clone(),
            source,
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> NetError {
        NetError::from_os(&self.name, action, source)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Gives the attached descriptor away, for instance to a worker process.
impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.file.into()
    }
}

fn open_tun_device(name: &str) -> Result<File, NetError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|source| match source.raw_os_error() {
            // ENODEV and ENXIO: the node is there, the driver is not.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => NetError::TunDeviceMissing,
            Some(libc::EACCES | libc::EPERM) => NetError::TunDeviceForbidden,
            _ => NetError::from_os(name, "open /dev/net/tun", source),
        })
}

/// Why a descriptor given as a tap is not one, by the answer to TUNGETIFF.
fn not_a_tap(descriptor: RawFd, source: &io::Error) -> NetError {
    let reason = match source.raw_os_error() {
        Some(libc::EBADFD) => "is a tun device attached to no interface",
        _ => "is not a tun device",
    };
    NetError::DescriptorNotATap { descriptor, reason }
}
