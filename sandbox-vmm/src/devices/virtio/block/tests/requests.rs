//! What well-behaved drivers ask for.

use proptest::prelude::*;
use virtio_bindings::virtio_blk::*;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::*;
use crate::devices::virtio::DeviceKind;
use crate::devices::virtio::test_support::guest_memory;
use crate::memory::HugePages;

const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn a_read_fills_the_drivers_buffer() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let data = Buffer::writable(DATA, 4096);
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 3, &[data]), (OK, 4097));
    assert_eq!(bench.get(DATA, 4096), patterns(3..11));
    let stats = bench.device.counters().read();
    assert_eq!((stats.reads, stats.read_bytes, stats.errors), (1, 4096, 0));
    assert_eq!(bench.line.pulses(), 1);
}

#[test]
fn a_write_reaches_the_file() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let bytes: Vec<u8> = (0..1024).map(|index| (index / 3) as u8).collect();
    bench.put(DATA, &bytes);
    let data = Buffer::readable(DATA, 1024);
    assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 9, &[data]), (OK, 1));
    assert_eq!(bench.on_disk(8, 512), pattern(8));
    assert_eq!(bench.on_disk(9, 1024), bytes);
    assert_eq!(bench.on_disk(11, 512), pattern(11));
    let stats = bench.device.counters().read();
    assert_eq!((stats.writes, stats.written_bytes), (1, 1024));
}

#[test]
fn buffers_may_be_scattered_in_odd_pieces() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let pieces = [(0, 1), (0x1003, 510), (0x2000, 513), (0x5000, 0), (0x3fff, 512)];
    let data = pieces.map(|(offset, len)| Buffer::writable(DATA + offset, len));
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &data), (OK, 1537));
    let read: Vec<u8> = pieces
        .iter()
        .flat_map(|(offset, len)| bench.get(DATA + offset, *len as usize))
        .collect();
    assert_eq!(read, patterns(0..3));
}

#[test]
fn the_layout_of_descriptors_is_the_drivers_choice() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    // The header in two pieces, the second with data behind it; the status behind data.
    bench.put_header(HEADER, VIRTIO_BLK_T_OUT, 1);
    bench.put(HEADER + 16, &[0x5a; 512]);
    bench.put(STATUS, &[UNWRITTEN]);
    let head = bench.driver.add_chain(&[
        Buffer::readable(HEADER, 5),
        Buffer::readable(HEADER + 5, 11 + 512),
        Buffer::writable(STATUS, 1),
    ]);
    assert_eq!((bench.used_after_kick(head), bench.status()), (1, OK));
    assert_eq!(bench.on_disk(1, 512), [0x5a; 512]);

    bench.put_header(HEADER, VIRTIO_BLK_T_IN, 1);
    let head = bench
        .driver
        .add_chain(&[Buffer::readable(HEADER, 16), Buffer::writable(DATA, 513)]);
    assert_eq!(bench.used_after_kick(head), 513);
    assert_eq!(bench.get(DATA, 513), [&[0x5a; 512][..], &[OK]].concat());
}

#[test]
fn indirect_chains_are_served() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    bench.put_header(HEADER, VIRTIO_BLK_T_IN, 4);
    let buffers = [
        Buffer::readable(HEADER, 16),
        Buffer::writable(DATA, 512),
        Buffer::writable(STATUS, 1),
    ];
    let head = bench.driver.add_indirect_chain(TABLE, &buffers);
    assert_eq!(bench.used_after_kick(head), 513);
    assert_eq!((bench.status(), bench.get(DATA, 512)), (OK, pattern(4)));
}

#[test]
fn a_flush_is_counted_and_answered() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    assert_eq!(bench.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    assert_eq!(bench.device.counters().read().flushes, 1);
}

#[test]
fn the_serial_number_is_20_bytes_padded_or_cut_off() {
    let memory = guest_memory(2);
    for (serial, seen) in [
        ("abc", "abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("a-name-of-more-than-20-bytes", "a-name-of-more-than-"),
    ] {
        let mut bench = Bench::with_config(
            &memory,
            BlockConfig {
                serial: serial.to_owned(),
                ..config(image())
            },
        );
        let answer = bench.request(VIRTIO_BLK_T_GET_ID, 0, &[Buffer::writable(DATA, 20)]);
        assert_eq!((answer, bench.get(DATA, 20)), ((OK, 21), seen.as_bytes().to_vec()));
        let short = bench.request(VIRTIO_BLK_T_GET_ID, 0, &[Buffer::writable(DATA, 19)]);
        assert_eq!(short, (IOERR, 0));
    }
}

#[test]
fn unknown_requests_are_not_supported() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    for kind in [
        VIRTIO_BLK_T_SCSI_CMD,
        3,
        VIRTIO_BLK_T_SECURE_ERASE,
        VIRTIO_BLK_T_ZONE_APPEND,
        u32::MAX,
    ] {
        assert_eq!(bench.request(kind, 0, &[]), (UNSUPP, 1), "{kind}");
    }
    assert_eq!(bench.device.counters().read().errors, 5);
}

#[test]
fn a_read_only_disk_is_not_changed() {
    let memory = guest_memory(2);
    let mut bench = Bench::with_config(
        &memory,
        BlockConfig {
            read_only: true,
            ..config(image())
        },
    );
    let data = Buffer::readable(DATA, 512);
    assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 0, &[data]), (IOERR, 1));
    bench.put(DATA, &range(0, 1, 0));
    let data = Buffer::readable(DATA, 16);
    assert_eq!(bench.request(VIRTIO_BLK_T_DISCARD, 0, &[data]), (UNSUPP, 1));
    assert_eq!(bench.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &[data]), (UNSUPP, 1));
    assert_eq!(
        bench.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]),
        (OK, 513)
    );
    assert_eq!(bench.on_disk(0, 512), pattern(0));
}

#[test]
fn nothing_beyond_the_last_whole_sector_is_reached() {
    let memory = guest_memory(2);
    let file = image();
    file.set_len(SECTORS * SECTOR_SIZE + 511).unwrap();
    let mut bench = Bench::with_config(&memory, config(file));
    let attempts = [
        (SECTORS - 1, 512, OK),
        (SECTORS - 1, 1024, IOERR),
        (SECTORS, 512, IOERR),
        (SECTORS, 0, OK),
        (SECTORS + 1, 0, IOERR),
        (u64::MAX, 512, IOERR),
        (u64::MAX / 512, 512, IOERR),
        (1 << 55, 512, IOERR),
        (0, 511, IOERR),
        (0, 513, IOERR),
    ];
    for (sector, len, status) in attempts {
        let read = bench.request(VIRTIO_BLK_T_IN, sector, &[Buffer::writable(DATA, len)]);
        assert_eq!(read.0, status, "read of {len} at {sector}");
        let write = bench.request(VIRTIO_BLK_T_OUT, sector, &[Buffer::readable(DATA, len)]);
        assert_eq!(write.0, status, "write of {len} at {sector}");
    }
    assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * SECTOR_SIZE + 511);
}

#[test]
fn discards_and_zeroes_clear_their_range_alone() {
    let memory = guest_memory(2);
    let kinds = [
        (VIRTIO_BLK_T_DISCARD, 0),
        (VIRTIO_BLK_T_WRITE_ZEROES, 0),
        (VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
    ];
    for (kind, flags) in kinds {
        let mut bench = Bench::new(&memory);
        bench.put(DATA, &range(7, 20, flags));
        assert_eq!(bench.request(kind, 0, &[Buffer::readable(DATA, 16)]), (OK, 1));
        assert_eq!(bench.on_disk(6, 512), pattern(6));
        assert_eq!(bench.on_disk(7, 20 * 512), [0; 20 * 512]);
        assert_eq!(bench.on_disk(27, 512), pattern(27));
        assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * SECTOR_SIZE);
    }
}

#[test]
fn ranges_are_checked() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    let attempts = [
        (VIRTIO_BLK_T_DISCARD, range(0, 1, unmap), UNSUPP),
        (VIRTIO_BLK_T_DISCARD, range(0, 1, 2), UNSUPP),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, 1, unmap | 4), UNSUPP),
        (VIRTIO_BLK_T_DISCARD, range(SECTORS, 1, 0), IOERR),
        (VIRTIO_BLK_T_DISCARD, range(u64::MAX, 1, 0), IOERR),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, u32::MAX, 0), IOERR),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(SECTORS - 1, 2, 0), IOERR),
        (VIRTIO_BLK_T_DISCARD, range(0, 1, 0)[..15].to_vec(), IOERR),
        (VIRTIO_BLK_T_DISCARD, [range(0, 1, 0), range(1, 1, 0)].concat(), IOERR),
        (VIRTIO_BLK_T_DISCARD, range(SECTORS, 0, 0), OK),
    ];
    for (kind, payload, status) in attempts {
        bench.put(DATA, &payload);
        let data = Buffer::readable(DATA, payload.len() as u32);
        assert_eq!(bench.request(kind, 0, &[data]).0, status, "{kind} {payload:?}");
    }
    assert_eq!(bench.on_disk(0, (SECTORS * SECTOR_SIZE) as usize), patterns(0..SECTORS));
}

#[test]
fn a_batch_is_answered_in_order_with_one_interrupt() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let heads: Vec<u16> = (0..4)
        .map(|index| bench.submit(VIRTIO_BLK_T_IN, 5, &[Buffer::writable(DATA + 512 * index, 512)]))
        .collect();
    bench.kick();
    let used: Vec<(u32, u32)> = (0..4).map(|position| bench.driver.used(position)).collect();
    let expected: Vec<(u32, u32)> = heads.iter().map(|head| (u32::from(*head), 513)).collect();
    assert_eq!((used, bench.line.pulses()), (expected, 1));
    assert_eq!(bench.driver.avail_event(), 4);
}

#[test]
fn a_driver_that_polls_is_not_interrupted() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    bench.driver.set_used_event(0x8000);
    bench.request(VIRTIO_BLK_T_FLUSH, 0, &[]);
    bench.kick();
    assert_eq!(bench.line.pulses(), 0);
}

#[test]
fn reads_are_logged_as_changes_of_guest_memory() {
    let memory = GuestMemory::new(2 << 20, HugePages::Never, true).unwrap();
    let mut bench = Bench::new(&memory);
    bench.put_header(HEADER, VIRTIO_BLK_T_IN, 0);
    let region = memory.find_region(GuestAddress(0)).unwrap();
    bench.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA + 0x1800, 0x1000)]);
    let dirty: Vec<bool> = (0..4)
        .map(|page| region.bitmap().dirty_at(DATA as usize + page * 0x1000))
        .collect();
    assert_eq!(dirty, [false, true, true, false]);
}

#[test]
fn the_driver_is_told_what_the_disk_is_like() {
    let device = BlockDevice::new(config(image())).unwrap();
    let field = |offset: u64| {
        let mut bytes = [0; 4];
        device.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    assert_eq!(device.kind(), DeviceKind::Block);
    assert_eq!((field(0), field(4)), (SECTORS as u32, 0));
    assert_eq!((field(8), field(12), field(20)), (128 << 10, 126, 512));
    assert_eq!(
        [field(36), field(40), field(44), field(48), field(52), field(56)],
        [1 << 19, 1, 8, 1 << 19, 1, 1]
    );
    let writable = [VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES];
    assert!(writable.iter().all(|bit| device.features() & 1 << bit != 0));
    assert_eq!(device.features() & 1 << VIRTIO_BLK_F_RO, 0);

    let device = BlockDevice::new(BlockConfig {
        read_only: true,
        ..config(image())
    })
    .unwrap();
    assert!(writable.iter().all(|bit| device.features() & 1 << bit == 0));
    assert_ne!(device.features() & 1 << VIRTIO_BLK_F_RO, 0);
}

#[test]
fn a_driver_without_flushes_gets_write_through() {
    assert!(super::super::offer::is_write_through(0));
    assert!(!super::super::offer::is_write_through(FEATURES));
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    bench.device.reset();
    bench.driver = DriverQueue::new(&memory, 0, 16);
    let queue = bench.driver.device_queue(true);
    bench.device.activate(activation(&memory, vec![queue], 0).0).unwrap();
    bench.put(DATA, &[0x77; 512]);
    assert_eq!(
        bench.request(VIRTIO_BLK_T_OUT, 2, &[Buffer::readable(DATA, 512)]),
        (OK, 1)
    );
    assert_eq!(bench.on_disk(2, 512), [0x77; 512]);
    bench.put(DATA, &range(2, 1, 0));
    assert_eq!(
        bench.request(VIRTIO_BLK_T_DISCARD, 0, &[Buffer::readable(DATA, 16)]),
        (OK, 1)
    );
}

/// Cuts `len` bytes from `start` into buffers of the given lengths.
fn split(start: u64, len: u32, cuts: &[u32], make: fn(u64, u32) -> Buffer) -> Vec<Buffer> {
    let mut buffers = Vec::new();
    let mut done = 0;
    for cut in cuts {
        let part = (*cut).min(len - done);
        buffers.push(make(start + u64::from(done), part));
        done += part;
    }
    buffers.push(make(start + u64::from(done), len - done));
    buffers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Reads and writes in any order and split in any way see a disk that behaves like an array.
    #[test]
    fn the_disk_is_an_array_of_sectors(
        requests in prop::collection::vec(
            (any::<bool>(), 0..SECTORS, 1u64..12, prop::collection::vec(0u32..1500, 0..5), any::<u8>()),
            1..30,
        ),
    ) {
        let memory = guest_memory(2);
        let mut bench = Bench::new(&memory);
        let mut model = patterns(0..SECTORS);
        for (write, sector, sectors, cuts, fill) in requests {
            let sectors = sectors.min(SECTORS - sector);
            let (start, len) = ((sector * SECTOR_SIZE) as usize, (sectors * SECTOR_SIZE) as usize);
            if write {
                let bytes: Vec<u8> = (0..len).map(|index| fill.wrapping_add((index / 512) as u8)).collect();
                bench.put(DATA, &bytes);
                model[start..start + len].copy_from_slice(&bytes);
                let data = split(DATA, len as u32, &cuts, Buffer::readable);
                prop_assert_eq!(bench.request(VIRTIO_BLK_T_OUT, sector, &data), (OK, 1));
            } else {
                let data = split(DATA, len as u32, &cuts, Buffer::writable);
                prop_assert_eq!(bench.request(VIRTIO_BLK_T_IN, sector, &data), (OK, len as u32 + 1));
                prop_assert_eq!(&bench.get(DATA, len), &model[start..start + len]);
            }
        }
        prop_assert_eq!(bench.on_disk(0, model.len()), model);
    }
}
