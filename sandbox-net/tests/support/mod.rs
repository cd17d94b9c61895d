//! What the tests of real interfaces share: a network namespace for each, and
//! the few requests that only an administrator or a guest would make.

#![allow(clippy::unwrap_used, clippy::panic)]
// Each test program uses a part of this.
#![allow(dead_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sandbox_net::{MacAddress, Networks, Tap, VNET_HEADER_SIZE};
pub(crate) use sandbox_testing::{in_namespace, skip_test};

/// The user and group that own nothing.
pub(crate) const NOBODY: u32 = 65_534;

pub(crate) const ETHER_TYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHER_TYPE_ARP: u16 = 0x0806;

/// How long a frame that must come may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes this thread, and no other, run as `nobody` without capabilities.
pub(crate) fn become_nobody() {
    let id = libc::c_long::from(NOBODY);
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // SAFETY: takes integers and touches no memory. The bare system call
        // changes the calling thread only, unlike the C library's function.
        let result = unsafe { libc::syscall(call, id, id, id) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

/// Opens the tun device, attached to nothing.
pub(crate) fn tun_device() -> File {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap()
}

/// Attaches a tun descriptor as another program might, with these `IFF_*`.
pub(crate) fn attach(device: &File, name: &str, flags: i32) {
    // SAFETY: all of ifreq is integers and pointers that nobody follows.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request is an ifreq that outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// What `ip tuntap add dev NAME mode tap [user OWNER] [...]` does.
pub(crate) fn add_persistent(name: &str, flags: i32, owner: Option<u32>) {
    let device = tun_device();
    attach(&device, name, flags | libc::IFF_NO_PI);
    let owner = owner.map(|owner| (libc::TUNSETOWNER, owner));
    for (operation, argument) in owner.into_iter().chain([(libc::TUNSETPERSIST, 1)]) {
        let argument = libc::c_ulong::from(argument);
        // SAFETY: the argument is passed by value; no memory is touched.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), operation, argument) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

/// What `ip link del` does.
pub(crate) fn delete_link(index: u32) {
    // SAFETY: takes and returns integers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE) };
    assert!(fd >= 0);
    // SAFETY: the descriptor was just opened and is nobody else's.
    let mut socket = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut message = [0; 32];
    message[0..4].copy_from_slice(&32_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_DELLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    socket.write_all(&message).unwrap();
}

/// Whether the descriptor becomes readable within `timeout`.
pub(crate) fn is_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd that outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout.as_millis() as i32) };
    assert!(ready >= 0, "{}", io::Error::last_os_error());
    ready == 1
}

/// A frame with its virtio-net header.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: [u8; VNET_HEADER_SIZE],
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    pub(crate) fn ether_type(&self) -> u16 {
        u16::from_be_bytes([self.bytes[12], self.bytes[13]])
    }
}

/// Whether a frame is waiting now.
pub(crate) fn has_frame(tap: &Tap) -> bool {
    is_readable(tap.as_fd(), Duration::ZERO)
}

/// The next frame of this type that the host sends; others are dropped.
pub(crate) fn receive_frame(tap: &Tap, ether_type: u16) -> Frame {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut header = [0; VNET_HEADER_SIZE];
        let mut bytes = vec![0; 70_000];
        let mut buffers = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut bytes)];
        let Some(length) = tap.receive(&mut buffers).unwrap() else {
            let rest = deadline.saturating_duration_since(Instant::now());
            assert!(is_readable(tap.as_fd(), rest), "no frame came");
            continue;
        };
        bytes.truncate(length - VNET_HEADER_SIZE);
        let frame = Frame { header, bytes };
        if frame.ether_type() == ether_type {
            return frame;
        }
    }
}

/// Sends a frame whose virtio-net header asks for nothing.
pub(crate) fn send_frame(tap: &Tap, frame: &[u8]) {
    let buffers = [IoSlice::new(&[0; VNET_HEADER_SIZE]), IoSlice::new(frame)];
    let length = tap.send(&buffers).unwrap();
    assert_eq!(length, Some(VNET_HEADER_SIZE + frame.len()));
}

/// As [`in_namespace`], where `nft` is there as well.
pub(crate) fn in_namespace_with_nft(test_name: &str, test: impl FnOnce() + Send + 'static) {
    let has_nft = std::process::Command::new("nft").arg("--version").output().is_ok();
    match has_nft {
        true => in_namespace(test_name, test),
        false => skip_test(test_name, "needs nft"),
    }
}

/// A folder for the records of networks, which goes when it is dropped.
pub(crate) struct Records(PathBuf);

impl Records {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("sandbox-net-{}-{number}", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn networks(&self) -> Networks {
        Networks::new(&self.0)
    }

    /// All files that are in it.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => collect(&path, files),
                    false => files.push(path),
                }
            }
        }
        let mut files = Vec::new();
        collect(&self.0, &mut files);
        files
    }

    /// Whether a namespace is mounted in it.
    pub(crate) fn has_mounts(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.contains(self.0.to_str().unwrap())
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The guest's answer to the host's ARP request (RFC 826).
pub(crate) fn arp_reply(request: &[u8], guest: MacAddress) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[0..6].copy_from_slice(&request[6..12]);
    reply[6..12].copy_from_slice(&guest.octets());
    reply[20..22].copy_from_slice(&2_u16.to_be_bytes());
    reply[22..28].copy_from_slice(&guest.octets());
    reply[28..32].copy_from_slice(&request[38..42]);
    reply[32..42].copy_from_slice(&request[22..32]);
    reply
}

/// Sends a UDP packet back where it came from. Swapping both ends leaves the
/// checksum of the IP header right; UDP goes without one (RFC 768).
pub(crate) fn udp_echo(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[0..6].copy_from_slice(&request[6..12]);
    reply[6..12].copy_from_slice(&request[0..6]);
    reply[26..30].copy_from_slice(&request[30..34]);
    reply[30..34].copy_from_slice(&request[26..30]);
    reply[34..36].copy_from_slice(&request[36..38]);
    reply[36..38].copy_from_slice(&request[34..36]);
    reply[40..42].copy_from_slice(&[0, 0]);
    reply
}
