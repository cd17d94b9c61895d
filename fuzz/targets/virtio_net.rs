//! A network card, its driver, and the frames of the host.
#![no_main]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use libfuzzer_sys::fuzz_target;
use sandbox_fuzz::Bench;
use sandbox_net::Offloads;
use sandbox_vmm::devices::virtio::net::{FrameBackend, Net, NetConfig};

/// One end of a pair of sockets that keep frames apart, as a tap does.
struct Pair(File);

impl AsFd for Pair {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl FrameBackend for Pair {
    fn set_offloads(&self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let (near, far) = UnixDatagram::pair().expect("a pair of sockets");
    near.set_nonblocking(true).expect("a mode");
    far.set_nonblocking(true).expect("a mode");
    let near = Pair(File::from(OwnedFd::from(near)));
    let mut far = File::from(OwnedFd::from(far));
    let card = Net::new(NetConfig::new([2, 0, 0, 0, 0, 1]), Box::new(near));
    Bench::new(card.expect("no limits")).drive(data, |choice| {
        let frame = vec![choice; 12 + usize::from(choice) * 17];
        let _ = far.write(&frame);
        let _ = far.read(&mut [0; 1 << 16]);
    });
});
