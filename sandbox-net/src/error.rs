//! What can go wrong, each with the interface, what was tried and the remedy.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::{Ipv4Cidr, Offloads, Protocol};

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// Every address of the pool is leased.
    #[error("no free address in {network}: tear a sandbox down or give the pool a larger network")]
    AddressPoolExhausted {
        /// The pool's network.
        network: Ipv4Cidr,
    },

    /// The address asked for is another sandbox's.
    #[error("address {address} is leased to another sandbox: choose another one, or leave it out")]
    AddressTaken {
        /// The address.
        address: Ipv4Addr,
    },

    /// A tap was to be created under a name that an interface already has.
    #[error("interface {name} exists already: open it, or choose another name")]
    AlreadyExists {
        /// The interface.
        name: String,
    },

    /// The managed bridge is there, and not as asked for.
    #[error("bridge {name} is there with {setting} {present}, not {asked}: ask for that, or name another bridge")]
    BridgeDiffers {
        /// The bridge.
        name: String,
        /// Which setting differs: `subnet` or `isolated`.
        setting: &'static str,
        /// What it is.
        present: String,
        /// What was asked for.
        asked: String,
    },

    /// An interface that is no managed bridge has the name.
    #[error("interface {name} is there already, and not made by the SDK: name another bridge")]
    BridgeTaken {
        /// The interface.
        name: String,
    },

    /// A CNI plugin answered with an error (CNI specification, "Error").
    #[error("CNI plugin {plugin} failed to {command}: {message} (code {code})")]
    Cni {
        /// The plugin's type.
        plugin: String,
        /// `ADD`, `CHECK` or `DEL`.
        command: &'static str,
        /// The plugin's code.
        code: u64,
        /// What it says, with its details.
        message: String,
    },

    /// A CNI network configuration cannot be used.
    #[error("CNI configuration {path}: {reason}")]
    CniConfiguration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A program that is needed did not do its work.
    #[error("{program} {reason}")]
    CommandFailed {
        /// The program.
        program: String,
        /// How it failed, with what it said.
        reason: String,
    },

    /// A program that is needed is not there.
    #[error("{program} is not there: {remedy}")]
    CommandMissing {
        /// The program.
        program: String,
        /// How to get it.
        remedy: &'static str,
    },

    /// The descriptor is not an attached tap.
    #[error("descriptor {descriptor} {reason}: pass one on which TUNSETIFF was done with IFF_TAP")]
    DescriptorNotATap {
        /// The descriptor's number; it is closed by now.
        descriptor: RawFd,
        /// What it is instead.
        reason: &'static str,
    },

    /// The host kernel refused the frame or its virtio-net header.
    ///
    /// This is the fault of whoever built the frame, usually the guest: count
    /// it and drop the frame.
    #[error("interface {name} refused a frame: its virtio-net header or length is wrong")]
    FrameRejected {
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The tap is attached to another descriptor, here or in another process.
    #[error("interface {name} is in use by another process: stop it or choose another tap")]
    InUse {
        /// The interface.
        name: String,
    },

    /// Not an IPv4 address with prefix length, or not one that can be used so.
    #[error("address {address} {reason}")]
    InvalidAddress {
        /// The address as given.
        address: String,
        /// What is wrong and what would be right.
        reason: &'static str,
    },

    /// Not a MAC address.
    #[error("{text:?} is not a MAC address: write six hexadecimal octets such as 02:00:00:00:00:01")]
    InvalidMac {
        /// The text as given.
        text: String,
    },

    /// The interface does not take this MTU.
    #[error("interface {name} does not take an mtu of {mtu} bytes: a tap takes 68 to 65521")]
    InvalidMtu {
        /// The interface.
        name: String,
        /// The MTU asked for, in bytes.
        mtu: u32,
    },

    /// Not a name an interface can have.
    #[error("interface name {name:?} {reason}")]
    InvalidName {
        /// The name as given.
        name: String,
        /// What is wrong and what would be right.
        reason: &'static str,
    },

    /// The interface is down, so that frames cannot enter the host.
    #[error("interface {name} is down: bring it up with `ip link set {name} up`")]
    LinkDown {
        /// The interface.
        name: String,
    },

    /// A tap given by descriptor lacks a flag that only its attachment can set.
    #[error("interface {name} was attached without {flag}: attach it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    MissingFlag {
        /// The interface.
        name: String,
        /// The flag of `linux/if_tun.h` that is missing.
        flag: &'static str,
    },

    /// The file is not a network namespace.
    #[error("{path} {reason}")]
    NotANamespace {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: &'static str,
    },

    /// The interface exists but is not a tap with one queue.
    #[error("interface {name} is not a single-queue tap: create one with `ip tuntap add dev NAME mode tap`")]
    NotATap {
        /// The interface.
        name: String,
    },

    /// There is no such interface in the calling thread's network namespace.
    #[error("no such interface {name}: create it with `ip tuntap add dev {name} mode tap`")]
    NotFound {
        /// The interface.
        name: String,
    },

    /// A system call failed in a way that has no remedy of its own.
    #[error("interface {name}: cannot {action}")]
    Os {
        /// The interface.
        name: String,
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The caller lacks the right to do this.
    #[error("interface {name}: to {action} needs CAP_NET_ADMIN: run as root or grant it")]
    PermissionDenied {
        /// The interface.
        name: String,
        /// What was tried, as a verb phrase.
        action: &'static str,
    },

    /// Somebody listens at the port of the host already, or another sandbox has it.
    #[error("{protocol} port {port} of the host is taken: stop what uses it, or publish another port")]
    PortTaken {
        /// Which of the ports asked for, counted from 0.
        index: usize,
        /// The protocol.
        protocol: Protocol,
        /// The host's port.
        port: u16,
    },

    /// What is written down about networks cannot be read or written.
    #[error("{path}: cannot {action}")]
    State {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The host reaches addresses of the network elsewhere already.
    #[error("network {subnet} overlaps {other} of interface {interface}: choose another subnet")]
    SubnetTaken {
        /// The network asked for.
        subnet: Ipv4Cidr,
        /// The network that is there.
        other: Ipv4Cidr,
        /// The interface that leads there.
        interface: String,
    },

    /// `/dev/net/tun` is there, but this user may not open it.
    #[error("no permission on /dev/net/tun: give this user read and write access to it")]
    TunDeviceForbidden,

    /// The host has no tap driver.
    #[error("/dev/net/tun is missing: load the tun module with `modprobe tun`")]
    TunDeviceMissing,

    /// The host kernel does not know these offloads or this combination.
    #[error("interface {name} cannot offload {offloads}: segmentation needs CSUM, and USO needs Linux 6.2")]
    UnsupportedOffloads {
        /// The interface.
        name: String,
        /// The set asked for.
        offloads: Offloads,
    },
}

impl NetError {
    /// An error about a file of the records.
    pub(crate) fn state(path: impl Into<PathBuf>, action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::State {
            path: path.into(),
            action,
            source: source.into(),
        }
    }

    /// Sorts the answers that mean the same whatever was tried; the rest is
    /// [`NetError::Os`].
    pub(crate) fn from_os(name: &str, action: &'static str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::PermissionDenied { name, action },
            // EBADFD: the interface was deleted under its tap descriptor.
            Some(libc::ENODEV | libc::EBADFD) => Self::NotFound { name },
            _ => Self::Os { name, action, source },
        }
    }
}
