//! What only a hostile or broken driver does.

use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_WRITE};

use super::*;
use crate::devices::virtio::test_support::guest_memory;

const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
/// An address outside guest memory.
const WILD: u64 = 1 << 40;

/// Adds `buffers` with a valid read header before them, kicks, and returns status and used length.
fn read_with(bench: &mut Bench<'_>, buffers: &[Buffer]) -> (u8, u32) {
    bench.put_header(HEADER, VIRTIO_BLK_T_IN, 0);
    bench.put(STATUS, &[UNWRITTEN]);
    let head = bench.driver.add_chain(buffers);
    let len = bench.used_after_kick(head);
    (bench.status(), len)
}

/// A good read still works, and the device has not called for a reset.
fn assert_alive(bench: &mut Bench<'_>) {
    let data = Buffer::writable(DATA, 512);
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 1, &[data]), (OK, 513));
    assert!(!bench.interrupt.needs_reset());
}

#[test]
fn a_chain_without_a_place_for_the_status_is_given_back_unused() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let header = Buffer::readable(HEADER, 16);
    let chains: [&[Buffer]; 6] = [
        &[header],
        &[header, Buffer::readable(STATUS, 1)],
        &[header, Buffer::writable(STATUS, 0)],
        &[header, Buffer::writable(WILD, 1)],
        &[header, Buffer::writable(u64::MAX, 1)],
        &[Buffer::readable(HEADER, 0)],
    ];
    for chain in chains {
        assert_eq!(read_with(&mut bench, chain), (UNWRITTEN, 0), "{chain:x?}");
    }
    assert_alive(&mut bench);
}

#[test]
fn whatever_else_is_wrong_is_told_by_the_status() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let (header, status) = (Buffer::readable(HEADER, 16), Buffer::writable(STATUS, 1));
    let end = memory.size();
    let chains: [&[Buffer]; 11] = [
        &[status],
        &[Buffer::readable(HEADER, 15), status],
        &[Buffer::readable(WILD, 16), status],
        &[Buffer::writable(HEADER, 16), status],
        &[Buffer::readable(u64::MAX - 7, 16), status],
        &[header, Buffer::writable(WILD, 512), status],
        &[header, Buffer::writable(end - 511, 512), status],
        &[header, Buffer::writable(u64::MAX - 100, 512), status],
        &[header, Buffer::writable(DATA, u32::MAX / 2), status],
        &[header, Buffer::readable(WILD, 512), status],
        &[header, Buffer::writable(DATA, 512), Buffer::readable(DATA, 512), status],
    ];
    for chain in chains {
        let before = bench.device.counters().read().errors;
        let (answer, _) = read_with(&mut bench, chain);
        assert_eq!(answer, IOERR, "{chain:x?}");
        assert_eq!(bench.device.counters().read().errors, before + 1);
    }
    assert_alive(&mut bench);
}

#[test]
fn the_status_may_not_hide_in_memory_that_is_not_there() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    // Begins in memory and ends outside: its last byte would be the status.
    let buffer = Buffer::writable(memory.size() - 512, 513);
    assert_eq!(read_with(&mut bench, &[Buffer::readable(HEADER, 16), buffer]).1, 0);
    assert_alive(&mut bench);
}

#[test]
fn a_chain_that_goes_in_circles_ends() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    bench.put_header(HEADER, VIRTIO_BLK_T_IN, 0);
    for (first, next) in [
        (Buffer::readable(HEADER, 16), 0),
        (Buffer::writable(DATA, 512), 0),
        (Buffer::readable(HEADER, 16), 1),
    ] {
        bench.driver.set_descriptor(0, first, Some(next));
        bench.driver.set_descriptor(1, Buffer::writable(DATA, 512), Some(0));
        bench.driver.make_available(0);
        assert_eq!(bench.used_after_kick(0), 0);
    }
    bench.activate();
    assert_alive(&mut bench);
}

#[test]
fn a_chain_that_leads_out_of_the_table_is_given_back_unused() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    bench.put(STATUS, &[UNWRITTEN]);
    bench.driver.set_descriptor(0, Buffer::readable(HEADER, 16), Some(1));
    bench.driver.set_descriptor(1, Buffer::writable(STATUS, 1), Some(16));
    bench.driver.make_available(0);
    assert_eq!((bench.used_after_kick(0), bench.status()), (0, UNWRITTEN));
}

#[test]
fn bad_indirect_tables_are_given_back_unused() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let tables = [
        Buffer::indirect(TABLE, 0),
        Buffer {
            len: 17,
            ..Buffer::indirect(TABLE, 1)
        },
        Buffer {
            len: !15,
            ..Buffer::indirect(TABLE, 1)
        },
        Buffer::indirect(WILD, 4),
        Buffer::indirect(!15, 4),
    ];
    for table in tables {
        assert_eq!(read_with(&mut bench, &[table]), (UNWRITTEN, 0), "{table:x?}");
    }
    assert_alive(&mut bench);
}

#[test]
fn an_indirect_table_in_an_indirect_table_is_not_followed() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    bench.put_header(HEADER, VIRTIO_BLK_T_IN, 0);
    let inner = Buffer::indirect(TABLE + 0x100, 1);
    let head = bench
        .driver
        .add_indirect_chain(TABLE, &[Buffer::readable(HEADER, 16), inner]);
    assert_eq!(bench.used_after_kick(head), 0);
    let both = Buffer {
        flags: (VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE) as u16,
        ..inner
    };
    let head = bench.driver.add_indirect_chain(TABLE, &[both]);
    assert_eq!(bench.used_after_kick(head), 0);
    assert_alive(&mut bench);
}

#[test]
fn an_indirect_table_longer_than_the_queue_is_given_back_unused() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    bench.put_header(HEADER, VIRTIO_BLK_T_IN, 0);
    let mut buffers = vec![Buffer::readable(HEADER, 16)];
    buffers.resize(16, Buffer::writable(DATA, 512));
    buffers.push(Buffer::writable(STATUS, 1));
    let head = bench.driver.add_indirect_chain(TABLE, &buffers);
    assert_eq!(bench.used_after_kick(head), 0);
    assert_alive(&mut bench);
}

#[test]
fn more_data_than_a_driver_is_asked_for_is_refused() {
    let memory = guest_memory(16);
    let file = image();
    file.set_len(64 << 20).unwrap();
    let mut bench = Bench::with_config(&memory, config(file));
    let part = Buffer::writable(DATA, 8 << 20);
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[part, part]), (OK, (16 << 20) + 1));
    let more = Buffer::writable(DATA, 512);
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[part, part, more]).0, IOERR);
    assert_eq!(bench.device.counters().read().read_bytes, 16 << 20);
}

#[test]
fn a_ring_that_lies_breaks_the_device_until_its_reset() {
    let memory = guest_memory(2);
    for lie in [
        (|driver: &DriverQueue<'_>| driver.set_avail_idx(17)) as fn(&DriverQueue<'_>),
        |driver| driver.set_avail_idx(0x8000),
        |driver| driver.make_available(16),
        |driver| driver.make_available(u16::MAX),
    ] {
        let mut bench = Bench::new(&memory);
        lie(&bench.driver);
        bench.kick();
        assert!(bench.interrupt.needs_reset());
        assert_eq!((bench.driver.used_idx(), bench.line.pulses()), (0, 1));
        bench.submit(VIRTIO_BLK_T_FLUSH, 0, &[]);
        bench.kick();
        assert_eq!((bench.driver.used_idx(), bench.line.pulses()), (0, 1));
        bench.device.reset();
        bench.activate();
        assert_alive(&mut bench);
    }
}

#[test]
fn a_reset_in_the_middle_of_work_forgets_it() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    for round in 0..100 {
        for _ in 0..5 {
            bench.submit(VIRTIO_BLK_T_IN, round, &[Buffer::writable(DATA, 512)]);
        }
        if round % 2 == 0 {
            bench.kick();
        }
        bench.device.reset();
        bench.device.reset();
        for token in 0..4 {
            tell(&mut bench.device, token);
        }
        bench.activate();
        assert_eq!(bench.driver.used_idx(), 0);
        assert_alive(&mut bench);
    }
    assert_eq!(bench.device.counters().read().reads, 50 * 5 + 100);
}

#[test]
fn a_file_cut_short_behind_our_back_is_an_error_of_its_requests() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    bench.file.set_len(SECTOR_SIZE + 100).unwrap();
    assert_eq!(
        bench.request(VIRTIO_BLK_T_IN, 1, &[Buffer::writable(DATA, 512)]).0,
        IOERR
    );
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]).0, OK);
}
