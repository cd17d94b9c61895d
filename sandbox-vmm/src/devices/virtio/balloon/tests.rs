//! The balloon between a mock driver and real memory.

use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::queues::{CHAINS_PER_CALL, PAGES_PER_CHAIN};
use super::*;
use crate::devices::virtio::test_support::{
    Buffer, DriverQueue, FakeLine, activation, guest_memory, kick, replace, tell,
};
use crate::devices::virtio::{DeviceState, Interrupt, Progress, RestoreError, VirtioDevice};
use crate::memory::{GuestMemory, HugePages, layout};

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;
const WAKE: u32 = 0;
const QUEUE_SIZE: u16 = 128;
/// Where lists of page numbers and statistics lie.
const LIST: u64 = 0x1_0000;
/// Longer than any wait that a working balloon makes a test do.
const PATIENCE: Duration = Duration::from_secs(10);

const EVERYTHING: BalloonConfig = BalloonConfig {
    target: 0,
    deflate_on_oom: true,
    free_page_reporting: true,
    statistics: true,
};

/// An active balloon and its driver.
struct Setup<'a> {
    memory: &'a GuestMemory,
    balloon: Balloon,
    /// In the transport's order.
    queues: Vec<DriverQueue<'a>>,
    line: FakeLine,
    interrupt: Interrupt,
}

impl<'a> Setup<'a> {
    /// A driver that enables the queues of these numbers and accepts everything.
    fn new(memory: &'a GuestMemory, config: BalloonConfig, enabled: &[usize]) -> Self {
        let mut balloon = Balloon::new(config, memory.size()).unwrap();
        let start = |index: u64| 0x1000 * (index + 1);
        let queues: Vec<_> = (0..5)
            .map(|index| DriverQueue::new(memory, start(index), QUEUE_SIZE))
            .collect();
        let offered = queues
            .iter()
            .enumerate()
            .map(|(index, queue)| match enabled.contains(&index) {
                true => queue.device_queue(true),
                false => Queue::default(),
            });
        let (activation, line) = activation(memory, offered.collect(), balloon.features());
        let interrupt = activation.interrupt.clone();
        balloon.activate(activation).unwrap();
        Self {
            memory,
            balloon,
            queues,
            line,
            interrupt,
        }
    }

    /// The driver sends a list of page numbers.
    fn send_pages(&mut self, queue: u16, numbers: &[u32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.memory.write_slice(&bytes, GuestAddress(LIST)).unwrap();
        self.send(queue, &[Buffer::readable(LIST, bytes.len() as u32)]);
    }

    fn send(&mut self, queue: u16, buffers: &[Buffer]) {
        self.queues[usize::from(queue)].add_chain(buffers);
        kick(&mut self.balloon, queue);
    }

    fn resident(&self) -> u64 {
        self.memory.mapping().resident_bytes().unwrap()
    }

    fn is_woken(&self, patience: Duration) -> bool {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll
            .ctl(ControlOperation::Add, self.balloon.host_events()[0].fd, event)
            .unwrap();
        let mut ready = [EpollEvent::default()];
        epoll.wait(patience.as_millis() as i32, &mut ready).unwrap() == 1
    }

    fn num_pages(&self) -> u32 {
        let mut bytes = [0; 4];
        self.balloon.read_config(0, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

/// Writes to every page from `first` on.
fn touch(memory: &GuestMemory, first: u64, pages: u64) {
    for page in first..first + pages {
        memory.write_obj(page, GuestAddress(page * BALLOON_PAGE_SIZE)).unwrap();
    }
}

fn content(memory: &GuestMemory, page: u64) -> u64 {
    memory.read_obj(GuestAddress(page * BALLOON_PAGE_SIZE)).unwrap()
}

#[test]
fn inflated_pages_leave_the_hosts_memory_and_no_others() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory, BalloonConfig::default(), &[0, 1]);
    touch(&memory, 256, 64);
    let before = setup.resident();
    // In no order, one twice, one that is not RAM.
    setup.send_pages(INFLATE, &[300, 258, 257, 1 << 20, 256, 258, u32::MAX]);
    assert_eq!(
        before - setup.resident(),
        4 * BALLOON_PAGE_SIZE - BALLOON_PAGE_SIZE,
        "the list itself took one page"
    );
    assert_eq!([256, 257, 258, 300].map(|page| content(&memory, page)), [0; 4]);
    assert_eq!([259, 299, 301].map(|page| content(&memory, page)), [259, 299, 301]);
    assert_eq!(setup.balloon.handle().discarded_bytes(), 4 * BALLOON_PAGE_SIZE);
    assert_eq!((setup.queues[0].used_idx(), setup.line.pulses()), (1, 1));

    setup.send_pages(DEFLATE, &[256, 257]);
    assert_eq!(setup.queues[1].used_idx(), 1);
    touch(&memory, 256, 1);
    assert_eq!(content(&memory, 256), 256);
}

#[test]
fn pages_on_both_sides_of_the_gap_are_found() {
    let memory = GuestMemory::new(layout::GAP_START + (1 << 20), HugePages::Never, false).unwrap();
    let mut setup = Setup::new(&memory, BalloonConfig::default(), &[0, 1]);
    let (last_low, first_high) = (layout::GAP_START / 4096 - 1, layout::GAP_END / 4096);
    touch(&memory, last_low, 1);
    touch(&memory, first_high, 1);
    setup.send_pages(
        INFLATE,
        &[
            last_low as u32,
            last_low as u32 + 1,
            first_high as u32 - 1,
            first_high as u32,
        ],
    );
    assert_eq!([last_low, first_high].map(|page| content(&memory, page)), [0, 0]);
    assert_eq!(setup.balloon.handle().discarded_bytes(), 2 * BALLOON_PAGE_SIZE);
}

#[test]
fn a_list_without_end_is_cut_and_a_full_queue_is_worked_off_in_shares() {
    let memory = guest_memory(32);
    let mut setup = Setup::new(&memory, BalloonConfig::default(), &[0, 1]);
    let limit = PAGES_PER_CHAIN as u32;
    let numbers: Vec<u32> = (1024..1024 + limit + 100).collect();
    setup.send_pages(INFLATE, &numbers);
    assert_eq!(
        setup.balloon.handle().discarded_bytes(),
        u64::from(limit) * BALLOON_PAGE_SIZE
    );

    let share = CHAINS_PER_CALL as u16;
    for _ in 0..share + 4 {
        setup.queues[0].add_chain(&[Buffer::readable(LIST, 4)]);
    }
    assert_eq!(setup.balloon.queue_notify(INFLATE), Progress::More);
    assert_eq!(setup.queues[0].used_idx(), 1 + share);
    assert_eq!(setup.balloon.queue_notify(INFLATE), Progress::Waiting);
    assert_eq!(setup.queues[0].used_idx(), 1 + share + 4);
}

#[test]
fn reported_pages_leave_the_hosts_memory_however_the_driver_numbers_its_queues() {
    // As the specification numbers them, and as Linux before 6.11 does, with and without statistics.
    let cases: [(&[usize], bool, u16); 3] = [
        (&[0, 1, 2, 4], true, 4),
        (&[0, 1, 2, 3], true, 3),
        (&[0, 1, 2], false, 2),
    ];
    for (enabled, statistics, queue) in cases {
        let memory = guest_memory(8);
        let config = BalloonConfig {
            statistics,
            ..EVERYTHING
        };
        let mut setup = Setup::new(&memory, config, enabled);
        touch(&memory, 512, 512);
        let before = setup.resident();
        let start = 512 * BALLOON_PAGE_SIZE;
        setup.send(
            queue,
            &[
                Buffer::writable(start, 1 << 20),
                Buffer::writable(start + (1 << 20) + 1, 8192),
            ],
        );
        assert_eq!(
            before - setup.resident(),
            (1 << 20) + 4096,
            "a page reported in part stays"
        );
        assert_eq!(
            [512, 767, 768, 769, 770].map(|page| content(&memory, page)),
            [0, 0, 768, 0, 770]
        );
        assert_eq!(setup.queues[usize::from(queue)].used_idx(), 1);
    }
}

#[test]
fn a_new_target_reaches_the_driver_and_its_answer_the_machine() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(
        &memory,
        BalloonConfig {
            target: 10,
            ..EVERYTHING
        },
        &[0, 1, 2, 4],
    );
    let handle = setup.balloon.handle();
    assert_eq!((setup.num_pages(), handle.target()), (10, 10));
    handle.set_target(100).unwrap();
    assert!(setup.is_woken(Duration::ZERO));
    tell(&mut setup.balloon, WAKE);
    assert_eq!(
        (setup.num_pages(), setup.interrupt.status(), setup.line.pulses()),
        (100, 2, 1)
    );
    tell(&mut setup.balloon, WAKE);
    assert_eq!(setup.line.pulses(), 1, "an unchanged target is not announced");

    // In two pieces, the second of which reaches beyond the space.
    setup.balloon.write_config(4, &[0x34, 0x12]);
    setup.balloon.write_config(6, &[1, 0, 9, 9]);
    setup.balloon.write_config(0, &[9, 9, 9, 9]);
    setup.balloon.write_config(u64::MAX, &[9, 9]);
    assert_eq!((handle.actual(), setup.num_pages()), (0x1_1234, 100));

    let error = handle.set_target(1024).unwrap_err();
    assert!(matches!(
        error,
        BalloonError::TargetTooLarge {
            target: 1024,
            guest: 1024
        }
    ));
    assert_eq!(handle.target(), 100);
    setup.balloon.reset();
    setup.balloon.reset();
    assert_eq!(handle.actual(), 0);
}

/// Entries for free and total memory.
fn statistics_entries(free: u64) -> Vec<u8> {
    let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    [entry(4, free), entry(5, 4 << 20)].concat()
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory, EVERYTHING, &[0, 1, 2, 4]);
    let handle = setup.balloon.handle();
    assert_eq!(handle.statistics(), None);
    memory
        .write_slice(&statistics_entries(1000), GuestAddress(LIST))
        .unwrap();
    setup.send(STATISTICS, &[Buffer::readable(LIST, 20)]);
    assert_eq!(handle.statistics().unwrap().free, Some(1000));
    assert_eq!(
        setup.queues[2].used_idx(),
        0,
        "the buffer is kept until new ones are wanted"
    );

    let asker = thread::spawn({
        let handle = handle.clone();
        move || handle.refresh_statistics(PATIENCE)
    });
    assert!(setup.is_woken(PATIENCE));
    tell(&mut setup.balloon, WAKE);
    assert_eq!((setup.queues[2].used_idx(), setup.line.pulses()), (1, 1));
    memory
        .write_slice(&statistics_entries(2000), GuestAddress(LIST))
        .unwrap();
    setup.send(STATISTICS, &[Buffer::readable(LIST, 20)]);
    let fresh = asker.join().unwrap().unwrap();
    assert_eq!(
        (fresh.free, fresh.total, fresh.major_faults),
        (Some(2000), Some(4 << 20), None)
    );
}

#[test]
fn statistics_that_do_not_come_are_an_error() {
    let memory = guest_memory(4);
    let setup = Setup::new(&memory, EVERYTHING, &[0, 1, 2, 4]);
    let error = setup.balloon.handle().refresh_statistics(Duration::ZERO).unwrap_err();
    assert!(matches!(error, BalloonError::StatisticsTimeout));
    let without = Setup::new(&memory, BalloonConfig::default(), &[0, 1]);
    let error = without.balloon.handle().request_statistics().unwrap_err();
    assert!(matches!(error, BalloonError::NoStatistics));
}

#[test]
fn a_driver_that_sends_statistics_unasked_gets_the_older_buffer_back() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory, EVERYTHING, &[0, 1, 2, 4]);
    setup.send(STATISTICS, &[Buffer::readable(LIST, 20)]);
    let second = [Buffer::readable(LIST, 20), Buffer::readable(LIST, 1 << 20)];
    setup.send(STATISTICS, &second);
    assert_eq!((setup.queues[2].used_idx(), setup.queues[2].used(0)), (1, (0, 0)));
}

#[test]
fn without_its_first_two_queues_it_is_not_activated() {
    let memory = guest_memory(4);
    let mut balloon = Balloon::new(EVERYTHING, memory.size()).unwrap();
    let inflate = DriverQueue::new(&memory, 0x1000, QUEUE_SIZE);
    let queues = vec![inflate.device_queue(true), Queue::default(), inflate.device_queue(true)];
    let (activation, _) = activation(&memory, queues, balloon.features());
    assert_eq!(
        balloon.activate(activation).unwrap_err().to_string(),
        "queue 1 is not ready"
    );
}

#[test]
fn a_successor_holds_the_statistics_buffer_and_knows_the_sizes() {
    let memory = guest_memory(1);
    let mut setup = Setup::new(&memory, EVERYTHING, &[0, 1, 2, 4]);
    memory.write_slice(&statistics_entries(5), GuestAddress(LIST)).unwrap();
    setup.send(
        STATISTICS,
        &[Buffer::readable(LIST, statistics_entries(5).len() as u32)],
    );
    setup.balloon.handle().set_target(100).unwrap();
    setup.balloon.host_event(WAKE);
    setup.balloon.write_config(4, &7u32.to_le_bytes());

    let mut new = Balloon::new(EVERYTHING, memory.size()).unwrap();
    let queues = [true, true, true, false, true].iter().zip(&setup.queues);
    let queues = queues.map(|(enabled, queue)| match enabled {
        true => queue.device_queue(true),
        false => Queue::default(),
    });
    let features = new.features();
    replace(&mut setup.balloon, &mut new, &memory, queues.collect(), features);
    new.wake();

    assert_eq!((new.handle().target(), new.handle().actual()), (100, 7));
    assert_eq!(setup.queues[usize::from(STATISTICS)].used_idx(), 0);
    new.handle().request_statistics().unwrap();
    new.host_event(WAKE);
    assert_eq!(
        setup.queues[usize::from(STATISTICS)].used_idx(),
        1,
        "the driver is asked for more"
    );
}

#[test]
fn a_saved_balloon_beyond_the_guests_memory_is_refused() {
    let mut balloon = Balloon::new(EVERYTHING, 1 << 20).unwrap();
    let state = BalloonState {
        target: 256,
        actual: 0,
        held_statistics: None,
    };
    let error = balloon.restore(&DeviceState::Balloon(state)).unwrap_err();
    assert!(matches!(error, RestoreError::Impossible(_)), "{error}");
}

proptest! {
    #[test]
    fn no_list_harms_the_host(
        chains in prop::collection::vec(
            (0usize..5, prop::collection::vec((any::<bool>(), 0u64..0x50_0000, 0u32..0x2_0000), 1..4)),
            1..60,
        ),
        numbers in prop::collection::vec(any::<u32>(), 100),
    ) {
        let memory = guest_memory(4);
        let mut setup = Setup::new(&memory, EVERYTHING, &[0, 1, 2, 4]);
        // The queues lie in the first pages, which the driver may well give up: that is its own loss.
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| (number % 2048).to_le_bytes()).collect();
        memory.write_slice(&bytes, GuestAddress(LIST)).unwrap();
        let mut sent = [0; 5];
        for (queue, buffers) in chains {
            sent[queue] += 1;
            let buffers: Vec<Buffer> = buffers
                .into_iter()
                .map(|(writable, address, len)| match writable {
                    true => Buffer::writable(address, len),
                    false => Buffer::readable(address, len),
                })
                .collect();
            setup.send(queue as u16, &buffers);
            tell(&mut setup.balloon, WAKE);
        }
        for (queue, sent) in setup.queues.iter().zip(sent) {
            prop_assert!(queue.used_idx() <= sent);
        }
    }
}
