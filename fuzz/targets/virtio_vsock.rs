//! The socket device, its driver, and programs of the host.
#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use sandbox_fuzz::Bench;
use sandbox_vmm::devices::virtio::vsock::{HostSockets, Vsock, VsockConfig};
use vmm_sys_util::tempdir::TempDir;

fuzz_target!(|data: &[u8]| {
    let folder = TempDir::new_with_prefix("/dev/shm/sandbox-fuzz-").expect("shared memory");
    let path = folder.as_path().join("vsock");
    let vsock = Vsock::new(VsockConfig {
        guest_cid: 3,
        sockets: HostSockets::listen(&path).expect("a socket"),
        ready: None,
        confirmed: Box::new(|_| ()),
    });
    let mut clients: Vec<UnixStream> = Vec::new();
    Bench::new(vsock.expect("a good configuration")).drive(data, |choice| {
        if clients.len() < 4
            && let Ok(mut client) = UnixStream::connect(&path)
        {
            let _ = client.set_nonblocking(true);
            let _ = client.write_all(format!("CONNECT {}\n", choice % 8).as_bytes());
            clients.push(client);
        }
        let count = clients.len().max(1);
        if let Some(client) = clients.get_mut(usize::from(choice) % count) {
            let _ = client.write(&[choice; 300]);
            let _ = client.read(&mut [0; 4096]);
        }
        if choice == 0xff {
            clients.pop();
        }
    });
});
