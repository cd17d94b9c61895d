//! Linux' own driver of sockets between host and guest.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use sandbox::spec::{ReadyCheck, VsockSpec};

use super::support::linux::{Assets, CLOUD, LINUX_PATIENCE, Shell};
use super::support::{PATIENCE, TempFolder};

/// More than either side has room for.
const LENGTH: usize = 2 << 20;

#[test]
fn streams_go_both_ways() {
    let Some(assets) = Assets::find() else { return };
    let folder = TempFolder::new();
    let path = folder.path().join("vsock");
    let mut spec = assets.shell(CLOUD, "");
    spec.vsock = Some(VsockSpec {
        cid: 1234,
        path: path.clone(),
    });
    spec.ready = Some(ReadyCheck::Vsock { port: 77 });
    let listener = UnixListener::bind(folder.path().join("vsock_5000")).unwrap();
    let shell = Shell::boot(&spec);

    let command = shell.begin("exercise vsock-connect 5000");
    let (stream, _) = listener.accept().unwrap();
    assert_echo(stream);
    assert_eq!(command.end(), (0, String::new()));

    let command = shell.begin("exercise vsock-listen 6000");
    command.await_output("exercise: listening");
    assert_echo(connect(&path, 6000));
    assert_eq!(command.end().0, 0);

    // Nobody listens there but the readiness check.
    shell.run("exercise vsock-connect 77");
    shell.sandbox.wait_ready(PATIENCE).unwrap();
    let (status, output) = shell.try_run("exercise vsock-connect 78");
    assert!(status != 0 && output.contains("cannot connect"), "{output}");
    shell.power_off();
}

fn connect(path: &std::path::Path, port: u32) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "CONNECT {port}").unwrap();
    let mut answer = String::new();
    // A byte at a time: nothing behind the line may be taken.
    BufReader::with_capacity(1, &stream).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("OK "), "{answer:?}");
    stream
}

/// Sends more than there is room for while it reads what comes back.
fn assert_echo(stream: UnixStream) {
    stream.set_read_timeout(Some(LINUX_PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..LENGTH).map(|position| (position / 7) as u8).collect();
    thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&sent).unwrap());
        let mut received = vec![0; LENGTH];
        (&stream).read_exact(&mut received).unwrap();
        assert!(received == sent, "data was lost or mixed up");
    });
}
