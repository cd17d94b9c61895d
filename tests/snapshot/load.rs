//! Snapshots of guests that are at work: nothing is lost, and nothing is done twice that may not be.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use sandbox::snapshot::{AfterSnapshot, DiskOverride, NetworkOverride};
use sandbox::spec::{DiskSpec, ReadyCheck, TapSpec};
use sandbox::{Exit, RestoreOptions, Sandbox, SandboxSpec, SnapshotOptions};
use sandbox_guests::{SECTOR_BYTES, disk_pattern};

use crate::restore::{restored, snapshot};
use crate::support::network::{
    GUEST, add_persistent_tap, configure, connect, in_namespace, network_on, with_guest_address,
};
use crate::support::{PATIENCE, TempFolder, bare, console_text, has_time, started};

const DISK: &str = "data";
const TAP: &str = "load0";
/// Enough for the guest to be at work for a while, written and then read back.
const SECTORS: u64 = 6_000;
/// How many requests the guest gets done between two snapshots.
const STEP: u64 = 40;
/// Requests that a client has under way at a time.
const PIPELINED: u64 = 8;

fn rounds() -> u32 {
    match has_time() {
        true => 1000,
        false => 10,
    }
}

/// The guest goes on in its original's place.
fn in_its_place() -> RestoreOptions {
    RestoreOptions {
        start: true,
        keep_identity: true,
        ..RestoreOptions::default()
    }
}

fn stop_in_snapshot(sandbox: Box<dyn Sandbox>, folder: &Path) {
    let options = SnapshotOptions {
        after: AfterSnapshot::Stop,
        ..SnapshotOptions::default()
    };
    snapshot(&*sandbox, folder, &options);
    sandbox.teardown().wait(PATIENCE).unwrap();
}

/// The requests that a guest made of its disk.
fn requests(sandbox: &dyn Sandbox) -> u64 {
    let disk = sandbox.stats().unwrap().disks[0].clone();
    assert_eq!(disk.errors, 0);
    disk.reads + disk.writes
}

fn writer(disk: &Path, sectors: u64) -> SandboxSpec {
    let mut spec = bare("disk-check", &[&format!("sectors={sectors}")]);
    spec.disks = vec![DiskSpec {
        id: DISK.to_owned(),
        path: disk.to_owned(),
        ..DiskSpec::default()
    }];
    spec
}

/// Lets the guest do some more. False if it has ended meanwhile.
fn works_on(sandbox: &dyn Sandbox) -> bool {
    let aim = requests(sandbox) + STEP;
    while sandbox.wait(Some(std::time::Duration::ZERO)).is_err() {
        if requests(sandbox) >= aim {
            return true;
        }
        thread::yield_now();
    }
    false
}

fn assert_written(sandbox: &dyn Sandbox, disk: &Path) {
    let exit = sandbox.wait(Some(PATIENCE)).unwrap();
    assert_eq!(exit, Exit::Code(0), "{}", console_text(sandbox));
    let written = fs::read(disk).unwrap();
    let expected: Vec<u8> = (0..SECTORS).flat_map(disk_pattern).collect();
    assert!(written == expected, "the pattern is not on the host's side");
}

#[test]
fn a_guest_that_writes_its_disk_is_moved_again_and_again_and_finds_its_data() {
    let folder = TempFolder::new();
    let mut disk = folder.file("disk-0", &vec![0; SECTORS as usize * SECTOR_BYTES]);
    let mut sandbox = started(&writer(&disk, SECTORS));
    let mut taken = 0;
    while taken < rounds() {
        if !works_on(&*sandbox) {
            assert_written(&*sandbox, &disk);
            sandbox.teardown().wait(PATIENCE).unwrap();
            fs::write(&disk, vec![0; SECTORS as usize * SECTOR_BYTES]).unwrap();
            sandbox = started(&writer(&disk, SECTORS));
            continue;
        }
        taken += 1;
        let path = folder.path().join(format!("snapshot-{taken}"));
        stop_in_snapshot(sandbox, &path);
        // The clone has a disk of its own, as it was when the guest stood still.
        let copy = folder.path().join(format!("disk-{taken}"));
        fs::rename(&disk, &copy).unwrap();
        disk = copy;
        let mut options = in_its_place();
        let override_ = DiskOverride {
            path: Some(disk.clone()),
            ..DiskOverride::default()
        };
        options.overrides.disks.insert(DISK.to_owned(), override_);
        sandbox = restored(&path, &options).sandbox;
        fs::remove_dir_all(&path).unwrap();
    }
    assert_written(&*sandbox, &disk);
}

#[test]
fn forks_of_a_guest_that_writes_a_private_disk_each_find_their_data() {
    let folder = TempFolder::new();
    let disk = folder.file("disk", &vec![0; SECTORS as usize * SECTOR_BYTES]);
    // They all work at the same time.
    let mut spec = writer(&disk, SECTORS / 2);
    spec.disks[0].private = true;
    let parent = started(&spec);
    let mut clones = Vec::new();
    while clones.len() < 4 && works_on(&*parent) {
        let options = RestoreOptions {
            start: true,
            ..RestoreOptions::default()
        };
        clones.extend(parent.as_fork().unwrap().fork(2, &options).unwrap());
    }
    assert!(clones.len() >= 2, "the guest ended too soon");
    for sandbox in clones.iter().map(|clone| &clone.sandbox).chain([&parent]) {
        let exit = sandbox.wait(Some(PATIENCE)).unwrap();
        assert_eq!(exit, Exit::Code(0), "{}", console_text(&**sandbox));
    }
    assert!(
        fs::read(&disk).unwrap().iter().all(|byte| *byte == 0),
        "nobody writes the file"
    );
    let refused = started(&spec).snapshot(&folder.path().join("snapshot"), &SnapshotOptions::default());
    assert_eq!(refused.unwrap_err().field(), Some("disks[0].private"));
}

/// Asks again and again over one connection; every answer must be the next one. Ends when `enough` is heard of.
fn keep_asking(enough: &mpsc::Receiver<()>, progress: &mpsc::SyncSender<u64>) -> u64 {
    let mut stream = connect(GUEST);
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let request = b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n";
    for _ in 0..PIPELINED {
        stream.write_all(request).unwrap();
    }
    let mut number = 0;
    loop {
        number += 1;
        let body = answer(&mut answers);
        assert_eq!(body, format!("hello from http-reply\nrequest {number}\n"));
        // Nobody may be listening just now.
        let _ = progress.try_send(number);
        if enough.try_recv().is_ok() {
            return number;
        }
        stream.write_all(request).unwrap();
    }
}

fn answer(from: &mut impl BufRead) -> String {
    let mut length = 0;
    loop {
        let mut line = String::new();
        assert_ne!(from.read_line(&mut line).unwrap(), 0, "the guest ended the connection");
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
fn a_connection_outlives_its_guests_moves_and_misses_no_answer() {
    in_namespace(|| {
        add_persistent_tap(TAP);
        configure(TAP);
        let mut network = with_guest_address(network_on(TapSpec::Name(TAP.to_owned())));
        network.mac = Some("02:00:00:00:00:42".to_owned());
        let mut spec = bare("http-reply", &[]);
        spec.networks = vec![network];
        spec.ready = Some(ReadyCheck::BootPort);
        let mut sandbox = started(&spec);
        sandbox.wait_ready(PATIENCE).unwrap();
        let mut options = in_its_place();
        let same_tap = NetworkOverride {
            tap: Some(TapSpec::Name(TAP.to_owned())),
            ..NetworkOverride::default()
        };
        options.overrides.networks.insert("net".to_owned(), same_tap);
        let folder = TempFolder::new();
        let (stop, enough) = mpsc::channel();
        let (progress, heard) = mpsc::sync_channel(0);
        thread::scope(|scope| {
            let client = scope.spawn(move || keep_asking(&enough, &progress));
            for round in 0..rounds() {
                // It is being answered, and more is under way.
                let before = heard.recv_timeout(PATIENCE).unwrap();
                assert!(heard.recv_timeout(PATIENCE).unwrap() > before);
                let path = folder.path().join(format!("snapshot-{round}"));
                stop_in_snapshot(sandbox, &path);
                sandbox = restored(&path, &options).sandbox;
                fs::remove_dir_all(&path).unwrap();
            }
            heard.recv_timeout(PATIENCE).unwrap();
            stop.send(()).unwrap();
            drop(heard);
            assert!(client.join().unwrap() > u64::from(rounds()));
        });
    });
}
