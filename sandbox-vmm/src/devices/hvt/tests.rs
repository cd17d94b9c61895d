use std::fs::File;
use std::io;
use std::sync::Arc;

use sandbox_core::ConsoleLog;
use sandbox_core::limits::RateLimit;

use super::*;
use crate::devices::virtio::block::BlockConfig;
use crate::memory::HugePages;

/// Nobody kicks the thread of a test.
impl Patience for () {
    fn poll(&self, descriptors: &mut [libc::pollfd], timeout: Duration) -> io::Result<Waited> {
        let milliseconds = timeout.as_millis().min(i32::MAX as u128) as i32;
        // SAFETY: the array lives for the call, and its length is its own.
        let ready = unsafe {
            libc::poll(
                descriptors.as_mut_ptr(),
                descriptors.len() as libc::nfds_t,
                milliseconds,
            )
        };
        match ready {
            ..0 => Err(io::Error::last_os_error()),
            0 => Ok(Waited::TimedOut),
            _ => Ok(Waited::Ready),
        }
    }
}

const MEMORY: u64 = 2 << 20;
const ARGUMENT: u32 = 0x1000;
const DATA: u64 = 0x8000;

struct Bench {
    memory: GuestMemory,
    console: Arc<ConsoleLog>,
    calls: Hypercalls,
}

impl Bench {
    /// Handle 1 is a disk of eight blocks.
    fn new() -> Self {
        let memory = GuestMemory::new(MEMORY, HugePages::Never, false).unwrap();
        let console = Arc::new(ConsoleLog::new(1 << 10));
        let disk = HvtDisk::new(BlockConfig {
            file: disk_file(),
            layer: None,
            read_only: false,
            serial: String::new(),
            rate_limit: RateLimit::default(),
        });
        let devices = vec![None, Some(Device::Block(disk.unwrap()))];
        let calls = Hypercalls::new(memory.clone(), Arc::clone(&console), devices);
        Self { memory, console, calls }
    }

    /// Makes a call whose argument has these fields.
    fn call(&self, number: u16, fields: &[u64]) -> Next {
        for (index, field) in fields.iter().enumerate() {
            let address = GuestAddress(u64::from(ARGUMENT) + index as u64 * 8);
            self.memory.write_obj(*field, address).unwrap();
        }
        self.calls.call(PORT_BASE + number, &ARGUMENT.to_le_bytes(), &())
    }

    fn field(&self, offset: u64) -> u64 {
        self.memory
            .read_obj(GuestAddress(u64::from(ARGUMENT) + offset))
            .unwrap()
    }

    /// The result of a block call.
    fn block(&self, number: u16, fields: [u64; 4]) -> u32 {
        assert_eq!(self.call(number, &fields), Next::Enter);
        self.field(32) as u32
    }
}

fn disk_file() -> File {
    let memfd = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
    memfd.set_len(8 * 512).unwrap();
    memfd
}

fn is_fault(next: &Next) -> bool {
    matches!(next, Next::Fault(_))
}

#[test]
fn text_reaches_the_console_and_outside_of_memory_is_a_fault() {
    let bench = Bench::new();
    bench.memory.write_slice(b"hello", GuestAddress(DATA)).unwrap();
    assert_eq!(bench.call(PUTS, &[DATA, 5]), Next::Enter);
    assert_eq!(bench.console.read_from(0).bytes, b"hello");
    for (address, length) in [(MEMORY - 2, 5), (u64::MAX, 1), (DATA, u64::MAX), (DATA, PUTS_MAX + 1)] {
        assert!(is_fault(&bench.call(PUTS, &[address, length])), "{address:#x} {length}");
    }
}

#[test]
fn an_argument_outside_of_memory_is_a_fault_for_every_call() {
    let bench = Bench::new();
    for number in WALLTIME..=HALT {
        for address in [u32::MAX, MEMORY as u32 - 4, MEMORY as u32] {
            let next = bench.calls.call(PORT_BASE + number, &address.to_le_bytes(), &());
            assert!(is_fault(&next), "call {number} at {address:#x}: {next:?}");
        }
    }
}

#[test]
fn what_is_no_hypercall_is_a_fault() {
    let bench = Bench::new();
    for (port, data) in [
        (0x500, &[0; 4][..]),
        (0x509, &[0; 4]),
        (0x501, &[0]),
        (0x80, &[0; 4]),
        (0x600, &[0; 4]),
    ] {
        assert!(is_fault(&bench.calls.call(port, data, &())), "{port:#x}");
    }
}

#[test]
fn blocks_are_written_and_read_within_the_disk_alone() {
    let bench = Bench::new();
    bench.memory.write_slice(&[7; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(bench.block(BLOCK_WRITE, [1, 7 * 512, DATA, 512]), 0);
    assert_eq!(bench.block(BLOCK_READ, [1, 7 * 512, DATA + 512, 512]), 0);
    let mut read = [0; 512];
    bench.memory.read_slice(&mut read, GuestAddress(DATA + 512)).unwrap();
    assert_eq!(read, [7; 512]);
    for fields in [
        [1, 8 * 512, DATA, 512],
        [1, u64::MAX - 511, DATA, 512],
        [1, 0, DATA, 9 * 512],
        [1, 1, DATA, 512],
        [1, 0, DATA, 511],
        [0, 0, DATA, 512],
        [2, 0, DATA, 512],
        [u64::MAX, 0, DATA, 512],
    ] {
        assert_eq!(bench.block(BLOCK_READ, fields), 2, "{fields:?}");
        assert_eq!(bench.block(BLOCK_WRITE, fields), 2, "{fields:?}");
    }
    assert!(is_fault(&bench.call(BLOCK_WRITE, &[1, 0, MEMORY - 256, 512])));
    let Some(Device::Block(disk)) = &bench.calls.devices[1] else {
        panic!("there is no disk");
    };
    assert_eq!(disk.counters().read().writes, 1);
}

#[test]
fn a_disk_is_no_card() {
    let bench = Bench::new();
    for number in [NET_WRITE, NET_READ] {
        assert_eq!(bench.call(number, &[1, DATA, 64]), Next::Enter);
        assert_eq!(bench.field(24) as u32, 2);
    }
}

#[test]
fn the_clock_and_the_wait_go_on() {
    let bench = Bench::new();
    assert_eq!(bench.call(WALLTIME, &[]), Next::Enter);
    let before = bench.field(0);
    assert_eq!(bench.call(POLL, &[2_000_000, 1, 1]), Next::Enter);
    assert_eq!((bench.field(8), bench.field(16) as u32), (0, 0));
    assert_eq!(bench.call(WALLTIME, &[]), Next::Enter);
    assert!(bench.field(0) > before);
}

#[test]
fn a_kicked_wait_goes_on_until_its_time() {
    struct Kicked;
    impl Patience for Kicked {
        fn poll(&self, _: &mut [libc::pollfd], _: Duration) -> io::Result<Waited> {
            Ok(Waited::Kicked)
        }
    }
    let bench = Bench::new();
    bench
        .memory
        .write_obj(u64::MAX, GuestAddress(u64::from(ARGUMENT)))
        .unwrap();
    let call = bench.calls.call(PORT_BASE + POLL, &ARGUMENT.to_le_bytes(), &Kicked);
    assert_eq!(call, Next::Kicked);
    assert_eq!(bench.calls.resume(&Kicked), Some(Next::Kicked));
    struct TimedOut;
    impl Patience for TimedOut {
        fn poll(&self, _: &mut [libc::pollfd], left: Duration) -> io::Result<Waited> {
            assert!(left > Duration::from_secs(3600), "{left:?}");
            Ok(Waited::TimedOut)
        }
    }
    assert_eq!(bench.calls.resume(&TimedOut), Some(Next::Enter));
    assert_eq!(bench.calls.resume(&TimedOut), None);
}

#[test]
fn the_exit_status_is_signed() {
    let bench = Bench::new();
    assert_eq!(bench.call(HALT, &[0, 255]), Next::Halt(255));
    assert_eq!(bench.call(HALT, &[0, u64::from(u32::MAX)]), Next::Halt(-1));
}
