//! Networks for tests: a namespace of its own for each, and what a host asks of its guests.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use sandbox::spec::{NetworkSpec, TapSpec};
use sandbox_net::{LinkControl, LinkSettings, NetError, Tap};

use super::{PATIENCE, skip};

/// The host's end of a test's network, and the guest's.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Runs `test` in a thread with an empty network namespace of its own, so that nothing it makes can outlive it or meet
/// the host's interfaces. Where that cannot be had the test is skipped.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or("unnamed").to_owned();
    let run = move || match enter_namespace() {
        Ok(()) => test(),
        Err(reason) => skip(reason),
    };
    let thread = thread::Builder::new().name(name).spawn(run).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn enter_namespace() -> Result<(), &'static str> {
    // SAFETY: changes the network namespace of this thread only; no memory is touched.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "no network namespace: {error}");
        return Err("needs root to make a network namespace");
    }
    match Path::new("/dev/net/tun").exists() {
        true => Ok(()),
        false => Err("needs the tun module, there is no /dev/net/tun"),
    }
}

/// A network whose tap is made for the sandbox, with [`HOST`] on it. Tell a guest its address by the spec only where
/// its family can be told.
pub fn network() -> NetworkSpec {
    network_on(TapSpec::Create {
        name: None,
        host_address: Some(format!("{HOST}/24")),
    })
}

/// A network on this tap.
pub fn network_on(tap: TapSpec) -> NetworkSpec {
    NetworkSpec {
        id: "net".to_owned(),
        tap,
        ..NetworkSpec::default()
    }
}

/// Tells the guest that it is [`GUEST`].
pub fn with_guest_address(mut network: NetworkSpec) -> NetworkSpec {
    network.guest_address = Some(format!("{GUEST}/24"));
    network.gateway = Some(HOST);
    network
}

/// Makes the host's end of a tap the embedder's way: [`HOST`] on it, and up.
pub fn configure(tap: &str) {
    let settings = LinkSettings {
        address: Some(format!("{HOST}/24").parse().unwrap()),
        bring_up: true,
        no_ipv6_link_local: true,
        ..LinkSettings::default()
    };
    LinkControl::open().unwrap().configure(tap, &settings).unwrap();
}

/// What `ip tuntap add dev NAME mode tap` does.
pub fn add_persistent_tap(name: &str) {
    let tap = Tap::create_named(name).unwrap();
    // SAFETY: the argument is passed by value; no memory is touched.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Whether this thread's namespace has an interface of this name.
pub fn interface_exists(name: &str) -> bool {
    match LinkControl::open().unwrap().index(name) {
        Ok(_) => true,
        Err(NetError::NotFound { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A connection to the guest's port 80.
pub fn connect(address: Ipv4Addr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((address, 80)), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Asks for `/` and for the connection to be closed.
pub fn request(stream: &mut TcpStream) {
    request_path(stream, "/");
}

/// Asks for `path` and for the connection to be closed.
pub fn request_path(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
}

/// The body of the answer, whose status must be 200.
pub fn response(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
    assert_eq!(text.split(' ').nth(1), Some("200"), "answered {text:?}");
    let end_of_head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    answer.split_off(end_of_head.unwrap() + 4)
}

/// What the guest's web server answers.
pub fn get(address: Ipv4Addr) -> String {
    let mut stream = connect(address);
    request(&mut stream);
    String::from_utf8(response(&mut stream)).unwrap()
}

/// Sends ICMP echo requests (RFC 792).
pub struct Pinger {
    socket: UdpSocket,
    sequence: u16,
}

/// Length of an IPv4 header without options, which raw sockets give with each packet.
const IPV4_HEADER: usize = 20;

impl Pinger {
    pub fn new(address: Ipv4Addr) -> Self {
        // SAFETY: takes and returns integers.
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP) };
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor was just opened and is nobody else's.
        let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(socket) });
        socket.connect((address, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, sequence: 0 }
    }

    /// Sends one request with so many bytes and waits for its answer.
    pub fn ping(&mut self, bytes: usize) {
        self.sequence += 1;
        let request = echo_request(self.sequence, bytes);
        self.socket.send(&request).unwrap();
        let mut packet = vec![0; IPV4_HEADER + request.len() + 1];
        loop {
            let length = self.socket.recv(&mut packet).unwrap();
            let answer = &packet[IPV4_HEADER.min(length)..length];
            // Type and checksum differ; identifier, sequence and data come back.
            if answer.first() == Some(&0) && answer.get(4..) == Some(&request[4..]) {
                return;
            }
        }
    }
}

fn echo_request(sequence: u16, bytes: usize) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x5b, 0x0c];
    message.extend(sequence.to_be_bytes());
    message.extend((0..bytes).map(|position| position as u8));
    let words = message.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}
