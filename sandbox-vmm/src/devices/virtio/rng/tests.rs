use std::collections::HashSet;

use proptest::prelude::*;
use sandbox_core::limits::{RateLimit, TokenBucket};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::*;
use crate::devices::virtio::test_support::{
    Buffer, DriverQueue, FakeLine, activation, guest_memory, kick, replace, tell,
};
use crate::devices::virtio::{DeviceKind, Interrupt, Progress, VirtioDevice};
use crate::memory::GuestMemory;

const DATA: u64 = 0x10_0000;
const TABLE: u64 = 0x8_0000;

/// An active device and its driver.
struct Bench<'a> {
    memory: &'a GuestMemory,
    driver: DriverQueue<'a>,
    device: RngDevice,
    line: FakeLine,
    interrupt: Interrupt,
}

impl<'a> Bench<'a> {
    fn new(memory: &'a GuestMemory, rate_limit: RateLimit) -> Self {
        let device = RngDevice::new(RngConfig { rate_limit }).unwrap();
        let (driver, line) = (DriverQueue::new(memory, 0, 64), FakeLine::default());
        let interrupt = line.interrupt();
        let mut bench = Self {
            memory,
            driver,
            device,
            line,
            interrupt,
        };
        bench.activate();
        bench
    }

    fn activate(&mut self) {
        self.driver = DriverQueue::new(self.memory, 0, 64);
        let (activation, line) = activation(
            self.memory,
            vec![self.driver.device_queue(true)],
            self.device.features(),
        );
        self.interrupt = activation.interrupt.clone();
        self.line = line;
        self.device.activate(activation).unwrap();
    }

    /// Kicks for one chain and returns its used length.
    fn request(&mut self, buffers: &[Buffer]) -> u32 {
        let position = self.driver.used_idx();
        let head = self.driver.add_chain(buffers);
        kick(&mut self.device, 0);
        assert_eq!(self.driver.used_idx(), position.wrapping_add(1));
        let (id, len) = self.driver.used(position);
        assert_eq!(id, u32::from(head));
        len
    }

    fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn serve_next_event(&mut self) {
        let epoll = Epoll::new().unwrap();
        for event in self.device.host_events() {
            let watch = EpollEvent::new(EventSet::IN, u64::from(event.token));
            epoll.ctl(ControlOperation::Add, event.fd, watch).unwrap();
        }
        let mut ready = [EpollEvent::default()];
        assert_eq!(epoll.wait(10_000, &mut ready).unwrap(), 1, "no event came");
        tell(&mut self.device, ready[0].data() as u32);
    }
}

#[test]
fn buffers_are_filled_and_differ_from_each_other() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory, RateLimit::default());
    let mut seen = HashSet::new();
    for _ in 0..100 {
        assert_eq!(bench.request(&[Buffer::writable(DATA, 16)]), 16);
        assert!(seen.insert(bench.get(DATA, 16)));
    }
    assert_eq!(bench.get(DATA + 16, 16), [0; 16]);
}

#[test]
fn a_request_over_several_buffers_fills_all_of_them() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory, RateLimit::default());
    let buffers = [Buffer::writable(DATA, 5000), Buffer::writable(DATA + 0x4000, 100)];
    assert_eq!(bench.request(&buffers), 5100);
    // 5,100 random bytes have a run of 16 zeroes with a probability of 2^-115.
    let all = [bench.get(DATA, 5000), bench.get(DATA + 0x4000, 100)].concat();
    assert!(all.windows(16).all(|window| window != [0; 16]));
    let head = bench.driver.add_indirect_chain(TABLE, &buffers);
    kick(&mut bench.device, 0);
    assert_eq!(bench.driver.used(1), (u32::from(head), 5100));
}

#[test]
fn a_request_gets_64_kib_at_most() {
    let memory = guest_memory(4);
    let mut bench = Bench::new(&memory, RateLimit::default());
    let limit = REQUEST_MAX_BYTES as u64;
    assert_eq!(bench.request(&[Buffer::writable(DATA, 2 << 20)]), limit as u32);
    assert_eq!(bench.get(DATA + limit, 4096), [0; 4096]);
    assert_ne!(bench.get(DATA + limit - 16, 16), [0; 16]);
}

#[test]
fn what_cannot_be_filled_is_given_back_unused() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory, RateLimit::default());
    let chains: [&[Buffer]; 6] = [
        &[Buffer::readable(DATA, 16)],
        &[Buffer::writable(DATA, 16), Buffer::readable(DATA, 16)],
        &[Buffer::writable(DATA, 0)],
        &[Buffer::writable(1 << 40, 16)],
        &[Buffer::writable(u64::MAX, 16)],
        &[Buffer::indirect(TABLE, 0)],
    ];
    for chain in chains {
        assert_eq!(bench.request(chain), 0, "{chain:x?}");
    }
    assert_eq!(bench.get(DATA, 16), [0; 16]);
    assert_eq!(bench.request(&[Buffer::writable(DATA, 16)]), 16);
    assert!(!bench.interrupt.needs_reset());
}

#[test]
fn a_ring_that_lies_breaks_the_device_until_its_reset() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory, RateLimit::default());
    bench.driver.set_avail_idx(65);
    kick(&mut bench.device, 0);
    assert!(bench.interrupt.needs_reset());
    bench.device.reset();
    bench.activate();
    assert_eq!(bench.request(&[Buffer::writable(DATA, 16)]), 16);
}

#[test]
fn a_call_ends_after_its_share_and_the_next_one_goes_on() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory, RateLimit::default());
    for _ in 0..40 {
        bench.driver.add_chain(&[Buffer::writable(DATA, 8)]);
    }
    assert_eq!(bench.device.queue_notify(0), Progress::More);
    assert!((16..40).contains(&bench.driver.used_idx()));
    kick(&mut bench.device, 0);
    assert_eq!(bench.driver.used_idx(), 40);
    assert_eq!(bench.driver.avail_event(), 40);
}

#[test]
fn a_limited_device_goes_on_when_its_timer_fires() {
    let memory = guest_memory(2);
    let bandwidth = Some(TokenBucket {
        size: 100,
        refill_time_ms: 50,
        one_time_burst: 0,
    });
    let mut bench = Bench::new(
        &memory,
        RateLimit {
            bandwidth,
            operations: None,
        },
    );
    for _ in 0..3 {
        bench.driver.add_chain(&[Buffer::writable(DATA, 90)]);
    }
    kick(&mut bench.device, 0);
    assert_eq!((bench.driver.used_idx(), bench.line.pulses()), (1, 1));
    while bench.driver.used_idx() < 3 {
        kick(&mut bench.device, 0);
        bench.serve_next_event();
    }
    assert_eq!(bench.device.host_events().len(), 1);
}

#[test]
fn events_of_an_inactive_device_are_drained() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory, RateLimit::default());
    bench.device.reset();
    bench.device.reset();
    for token in 0..3 {
        tell(&mut bench.device, token);
    }
    assert_eq!(bench.device.kind(), DeviceKind::Rng);
    let mut config = [7; 4];
    bench.device.read_config(0, &mut config);
    assert_eq!(config, [0; 4]);
}

#[test]
fn a_successor_serves_what_was_asked_for_and_nothing_twice() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory, RateLimit::default());
    assert_eq!(bench.request(&[Buffer::writable(DATA, 16)]), 16);
    let waiting = bench.driver.add_chain(&[Buffer::writable(DATA + 16, 16)]);
    let mut new = RngDevice::new(RngConfig::default()).unwrap();
    let features = new.features();
    let queues = vec![bench.driver.device_queue(true)];
    replace(&mut bench.device, &mut new, &memory, queues, features);
    new.wake();
    assert_eq!(
        (bench.driver.used_idx(), bench.driver.used(1)),
        (2, (u32::from(waiting), 16))
    );
    new.wake();
    assert_eq!(bench.driver.used_idx(), 2);
}

proptest! {
    #[test]
    fn any_chain_is_survived_and_given_back_once(
        descriptors in prop::collection::vec(
            (prop_oneof![4 => 0x10_0000u64..0x18_0000, 1 => any::<u64>()], any::<u32>(), 0u16..8, prop::option::of(0u16..70)),
            64,
        ),
        heads in prop::collection::vec(0u16..64, 1..60),
    ) {
        let memory = guest_memory(2);
        let mut bench = Bench::new(&memory, RateLimit::default());
        for (index, (address, len, flags, next)) in descriptors.into_iter().enumerate() {
            // Short enough to lie in memory for most.
            let len = if len % 5 == 0 { len } else { len % 0x2_0000 };
            bench.driver.set_descriptor(index as u16, Buffer { address, len, flags }, next);
        }
        for head in &heads {
            bench.driver.make_available(*head);
        }
        kick(&mut bench.device, 0);
        prop_assert_eq!(usize::from(bench.driver.used_idx()), heads.len());
        for (position, head) in heads.iter().enumerate() {
            let (id, len) = bench.driver.used(position as u16);
            prop_assert_eq!(id, u32::from(*head));
            prop_assert!(len as usize <= REQUEST_MAX_BYTES);
        }
        prop_assert!(!bench.interrupt.needs_reset());
    }
}
