//! Descriptor tables and rings of anything.

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use super::*;
use crate::devices::virtio::test_support::guest_memory;

/// Nothing points here: it must not change.
const UNTOUCHED: u64 = 0x18_0000;
const REFERENCED: u64 = 0x10_0000;

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (REFERENCED..UNTOUCHED - 0x2_0000).prop_map(|address| address & !0xf),
        1 => Just(HEADER),
        1 => any::<u64>(),
    ]
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => prop::sample::select(vec![0, 1, 16, 17, 20, 32, 512, 513, 1024, 4096]),
        1 => 0..0x1_0000u32,
        // Wide ones begin in memory that is referenced and would end behind what is not.
        1 => (2 << 20)..u32::MAX,
    ]
}

fn descriptor() -> impl Strategy<Value = (Buffer, Option<u16>)> {
    let flags = prop::sample::select(vec![
        0,
        VRING_DESC_F_NEXT,
        VRING_DESC_F_WRITE,
        VRING_DESC_F_WRITE | VRING_DESC_F_NEXT,
        VRING_DESC_F_INDIRECT,
        VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT,
        0xffff,
    ]);
    (address(), len(), flags, prop::option::weighted(0.7, 0..20u16)).prop_map(|(address, len, flags, next)| {
        (
            Buffer {
                address,
                len,
                flags: flags as u16,
            },
            next,
        )
    })
}

proptest! {
    #[test]
    fn any_chain_is_survived_and_given_back_at_most_once(
        descriptors in prop::collection::vec(descriptor(), 16),
        indirect in prop::collection::vec(descriptor(), 16),
        headers in prop::collection::vec((0u32..15, 0..SECTORS + 2), 8),
        heads in prop::collection::vec(0..17u16, 0..16),
        kicks in 1..4,
    ) {
        let memory = guest_memory(2);
        let mut bench = Bench::new(&memory);
        bench.put(UNTOUCHED, &[0xa5; 0x2000]);
        // Headers and indirect tables wherever a descriptor may point.
        for (index, (kind, sector)) in headers.iter().enumerate() {
            bench.put_header(REFERENCED + 0x4000 * index as u64, *kind, *sector);
            bench.put_header(HEADER, *kind, *sector);
        }
        for (start, table) in [(0, &descriptors), (REFERENCED, &indirect)] {
            let table_of_driver = DriverQueue::new(&memory, 0x4_0000, 16);
            for (index, (buffer, next)) in table.iter().enumerate() {
                match start {
                    0 => bench.driver.set_descriptor(index as u16, *buffer, *next),
                    _ => table_of_driver.set_descriptor(index as u16, *buffer, *next),
                }
            }
        }
        for head in &heads {
            bench.driver.make_available(*head);
        }
        for _ in 0..kicks {
            bench.kick();
            tell(&mut bench.device, RATE_LIMIT);
        }
        let used = bench.driver.used_idx();
        prop_assert!(usize::from(used) <= heads.len());
        for position in 0..used {
            prop_assert_eq!(bench.driver.used(position).0, u32::from(heads[usize::from(position)]));
        }
        let lied = heads.contains(&16);
        prop_assert_eq!(bench.interrupt.needs_reset(), lied);
        prop_assert!(lied || usize::from(used) == heads.len());
        prop_assert_eq!(bench.get(UNTOUCHED, 0x2000), vec![0xa5; 0x2000]);
        prop_assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * SECTOR_SIZE);
        bench.device.reset();
        bench.activate();
        let data = [Buffer::writable(DATA, 512)];
        prop_assert_eq!(bench.request(0, 0, &data), (OK, 513));
    }
}
