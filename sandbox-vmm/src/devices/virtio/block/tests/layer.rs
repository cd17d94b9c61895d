//! A disk whose writes stay beside its file.

use proptest::prelude::*;
use virtio_bindings::virtio_blk::*;

use super::*;
use crate::devices::virtio::segments::Segments;
use crate::devices::virtio::test_support::guest_memory;

/// A file that has no whole number of the layer's blocks.
const ODD_SECTORS: u64 = 21;

fn base() -> File {
    let file = image();
    file.set_len(ODD_SECTORS * SECTOR_SIZE).unwrap();
    file
}

fn layered(file: File) -> BlockConfig {
    let layer = Layer::new(file.metadata().unwrap().len()).unwrap();
    BlockConfig {
        layer: Some(layer),
        ..config(file)
    }
}

#[test]
fn what_is_written_is_read_back_and_the_file_stays_as_it_was() {
    let memory = guest_memory(2);
    let mut bench = Bench::with_config(&memory, layered(base()));
    bench.put(DATA, &[0x5a; 1024]);
    let (status, _) = bench.request(VIRTIO_BLK_T_OUT, 7, &[Buffer::readable(DATA, 1024)]);
    assert_eq!(status, OK);
    let all = [Buffer::writable(DATA, (ODD_SECTORS * SECTOR_SIZE) as u32)];
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &all).0, OK);
    let expected = [patterns(0..7), vec![0x5a; 1024], patterns(9..ODD_SECTORS)].concat();
    assert_eq!(bench.get(DATA, expected.len()), expected);
    assert_eq!(bench.on_disk(0, expected.len()), patterns(0..ODD_SECTORS));
}

#[test]
fn a_successor_begins_alike_and_goes_its_own_way() {
    let memory = guest_memory(2);
    let mut bench = Bench::with_config(&memory, layered(base()));
    bench.put(DATA, &[0x5a; 512]);
    bench.request(VIRTIO_BLK_T_OUT, 20, &[Buffer::readable(DATA, 512)]);
    let state = bench.device.save().state;
    bench.put(DATA, &[0x11; 512]);
    bench.request(VIRTIO_BLK_T_OUT, 20, &[Buffer::readable(DATA, 512)]);
    let mut clone = Bench::with_config(&memory, layered(base()));
    clone.device.restore(&state).unwrap();
    clone.request(VIRTIO_BLK_T_IN, 20, &[Buffer::writable(DATA, 512)]);
    assert_eq!(clone.get(DATA, 512), [0x5a; 512]);
    clone.request(VIRTIO_BLK_T_IN, 19, &[Buffer::writable(DATA, 512)]);
    assert_eq!(clone.get(DATA, 512), pattern(19));
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Zero,
}

proptest! {
    /// The disk is at any time what a plain file would be that the same was done to.
    #[test]
    fn no_sequence_of_writes_tells_it_from_a_file(
        steps in prop::collection::vec(
            (0..ODD_SECTORS, 1..ODD_SECTORS, prop_oneof![any::<u8>().prop_map(Step::Write), Just(Step::Zero)]),
            0..12,
        ),
    ) {
        let memory = guest_memory(1);
        let disk = super::super::disk::Disk::new(layered(base())).unwrap();
        let mut model = patterns(0..ODD_SECTORS);
        let list = |sectors: u64| {
            let mut list = Segments::new(memory.clone());
            list.push(GuestAddress(0x1000), (sectors * SECTOR_SIZE) as usize).unwrap();
            list
        };
        for (sector, count, step) in steps {
            let count = count.min(ODD_SECTORS - sector);
            let range = (sector * SECTOR_SIZE) as usize..((sector + count) * SECTOR_SIZE) as usize;
            let byte = match step {
                Step::Write(byte) => {
                    memory.write_slice(&vec![byte; range.len()], GuestAddress(0x1000)).unwrap();
                    disk.write(sector, &mut list(count), false).unwrap();
                    byte
                }
                Step::Zero => {
                    disk.discard(sector, count as u32).unwrap();
                    0
                }
            };
            model[range].fill(byte);
        }
        disk.read(0, &mut list(ODD_SECTORS)).unwrap();
        let mut found = vec![0; model.len()];
        memory.read_slice(&mut found, GuestAddress(0x1000)).unwrap();
        prop_assert_eq!(found, model);
    }
}
