//! Sockets between host and guest, over the Unix sockets that stand for them.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sandbox::spec::{ReadyCheck, VsockSpec};
use sandbox::{Exit, Phase, SandboxSpec};

use super::support::{PATIENCE, TempFolder, await_console, bare, console_text, runtime, started};

const CID: u32 = 42;
/// The guest listens there unless told otherwise.
const GUEST_PORT: u32 = 1024;
const HOST_PORT: u32 = 5000;
/// Exit code of the guest when nobody accepted its stream.
const REFUSED: Exit = Exit::Code(3);

struct Echo {
    folder: TempFolder,
    spec: SandboxSpec,
}

impl Echo {
    /// A guest that echoes, and a folder for its sockets.
    fn new(arguments: &[&str]) -> Self {
        let folder = TempFolder::new();
        let mut spec = bare("vsock-echo", arguments);
        spec.vsock = Some(VsockSpec {
            cid: CID,
            path: folder.path().join("vsock"),
        });
        spec.ready = Some(ReadyCheck::BootPort);
        Self { folder, spec }
    }

    /// The host's end of the guest's ports.
    fn path(&self) -> PathBuf {
        self.folder.path().join("vsock")
    }

    /// Listens at the port that the guest connects to.
    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("vsock_{HOST_PORT}"))).unwrap()
    }
}

fn with_patience(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Connects to a port of the guest; the first line of the answer comes with the stream.
fn connect(path: &Path, port: u32) -> (String, BufReader<UnixStream>) {
    let mut stream = with_patience(UnixStream::connect(path).unwrap());
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let mut answer = String::new();
    stream.read_line(&mut answer).unwrap();
    (answer, stream)
}

#[test]
fn the_host_reaches_a_port_of_the_guest() {
    let echo = Echo::new(&[]);
    let sandbox = started(&echo.spec);
    sandbox.wait_ready(PATIENCE).unwrap();
    await_console(&*sandbox, "cid=42 port=1024");
    let (answer, mut stream) = connect(&echo.path(), GUEST_PORT);
    assert!(answer.starts_with("OK "), "{answer:?}");
    stream.get_mut().write_all(b"are you there?").unwrap();
    let mut reply = [0; 14];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"are you there?");
}

#[test]
fn several_streams_at_a_time_stay_apart() {
    let echo = Echo::new(&[]);
    let sandbox = started(&echo.spec);
    sandbox.wait_ready(PATIENCE).unwrap();
    let mut streams: Vec<_> = (0..8).map(|_| connect(&echo.path(), GUEST_PORT).1).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream
            .get_mut()
            .write_all(format!("stream {number}\n").as_bytes())
            .unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate().rev() {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, format!("stream {number}\n"));
    }
}

#[test]
fn a_port_without_listener_closes_the_connection() {
    let echo = Echo::new(&[]);
    let sandbox = started(&echo.spec);
    sandbox.wait_ready(PATIENCE).unwrap();
    let (answer, _) = connect(&echo.path(), GUEST_PORT + 1);
    assert_eq!(answer, "");
}

#[test]
fn the_guest_reaches_a_port_of_the_host() {
    let echo = Echo::new(&["port=5000", "exit=9"]);
    let listener = echo.listen();
    let sandbox = started(&echo.spec);
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(with_patience(stream));
    let mut greeting = String::new();
    stream.read_line(&mut greeting).unwrap();
    assert_eq!(greeting, "hello\n");
    stream.get_mut().write_all(b"good morning\n").unwrap();
    let mut reply = String::new();
    stream.read_line(&mut reply).unwrap();
    assert_eq!(reply, "good morning\n");
    drop(stream);
    assert_eq!(
        sandbox.wait(Some(PATIENCE)).unwrap(),
        Exit::Code(9),
        "{}",
        console_text(&*sandbox)
    );
}

#[test]
fn a_port_of_the_host_without_listener_refuses_the_guest() {
    let echo = Echo::new(&["port=5000", "exit=9"]);
    let sandbox = started(&echo.spec);
    assert_eq!(
        sandbox.wait(Some(PATIENCE)).unwrap(),
        REFUSED,
        "{}",
        console_text(&*sandbox)
    );
}

/// More than the socket buffers, the device and the guest hold together, so that the guest must stop sending, and the
/// host too, until somebody reads.
#[test]
fn a_reader_that_comes_late_gets_everything() {
    const LENGTH: usize = 1 << 20;
    let echo = Echo::new(&[]);
    let sandbox = started(&echo.spec);
    sandbox.wait_ready(PATIENCE).unwrap();
    let (_, mut stream) = connect(&echo.path(), GUEST_PORT);
    let sent: Vec<u8> = (0..LENGTH).map(|position| (position / 7) as u8).collect();
    let mut writer = stream.get_ref().try_clone().unwrap();
    let mut written = write_until_full(&mut writer, &sent);
    assert!(written < LENGTH, "the host was never stopped");
    thread::scope(|scope| {
        scope.spawn(|| {
            while written < LENGTH {
                written += writer.write(&sent[written..]).unwrap();
            }
        });
        let mut received = vec![0; LENGTH];
        stream.read_exact(&mut received).unwrap();
        assert!(received == sent, "data was lost or mixed up");
    });
}

/// Writes until nothing more is taken for a while; gives how much was taken.
fn write_until_full(writer: &mut UnixStream, bytes: &[u8]) -> usize {
    writer.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut written = 0;
    while written < bytes.len() {
        match writer.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    writer.set_write_timeout(Some(PATIENCE)).unwrap();
    written
}

#[test]
fn a_guest_tells_by_vsock_that_it_is_ready() {
    let mut echo = Echo::new(&["port=5000"]);
    echo.spec.ready = Some(ReadyCheck::Vsock { port: HOST_PORT });
    let sandbox = started(&echo.spec);
    sandbox.wait_ready(PATIENCE).unwrap();
    assert!(sandbox.timeline().at(Phase::Ready).is_some());
}

#[test]
fn the_socket_goes_with_its_sandbox_and_nobody_elses_is_taken() {
    let echo = Echo::new(&[]);
    let sandbox = started(&echo.spec);
    assert!(echo.path().exists());
    let error = runtime().create(&echo.spec).unwrap_err();
    assert_eq!(error.kind(), sandbox::ErrorKind::AlreadyExists, "{}", error.report());
    assert_eq!(error.field(), Some("vsock.path"));
    assert!(echo.path().exists(), "the refused sandbox took the socket along");
    sandbox.teardown().wait(PATIENCE).unwrap();
    assert!(!echo.path().exists());
}
