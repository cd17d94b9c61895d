//! The queues of an active balloon.

use virtio_queue::{Queue, QueueT};

use super::BalloonStatistics;
use super::discard::Discarder;
use super::handle::Shared;
use super::statistics::{ENTRY_SIZE, MAX_ENTRIES};
use crate::devices::virtio::segments::{Direction, Segments};
use crate::devices::virtio::split_queue::{Popped, SplitQueue};
use crate::devices::virtio::{ActivateError, Activation, Progress, QueuePosition};
use crate::memory::GuestMemory;

/// Chains worked off in one call, and page numbers read from one chain: a driver cannot keep the event loop from its
/// other work by a queue full of the longest lists. Linux sends lists of 256.
pub(super) const CHAINS_PER_CALL: usize = 16;
pub(super) const PAGES_PER_CHAIN: usize = 4096;
/// Size of a page number, in bytes.
const NUMBER_SIZE: usize = size_of::<u32>();

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Lists of pages that the guest gives up.
    Inflate,
    /// Lists of pages that it takes back.
    Deflate,
    /// Its statistics.
    Statistics,
    /// Free pages that it reports.
    Reporting,
}

impl Role {
    fn direction(self) -> Direction {
        match self {
            // The reported pages are themselves the buffers (§5.5.6.7).
            Self::Reporting => Direction::ToDriver,
            _ => Direction::FromDriver,
        }
    }
}

/// What a balloon has between `DRIVER_OK` and reset.
pub(super) struct Queues {
    memory: GuestMemory,
    /// In the transport's order; `None` where the driver enabled none.
    queues: Vec<Option<(Role, SplitQueue)>>,
    /// The driver's statistics buffer, kept until new ones are wanted (§5.5.6.3).
    held_statistics: Option<u16>,
    /// The chain at hand; kept for its allocation.
    chain: Segments,
}

impl Queues {
    pub(super) fn new(activation: Activation, statistics: bool, reporting: bool) -> Result<Self, ActivateError> {
        let Activation {
            memory,
            queues,
            interrupt,
            ..
        } = activation;
        let missing = [0, 1]
            .into_iter()
            .find(|index| !queues.get(*index).is_some_and(Queue::ready));
        if let Some(index) = missing {
            return Err(ActivateError::QueueNotReady(index));
        }
        // Drivers number the queues behind the first two in two ways: as the specification does, or one behind the
        // other, leaving out what was not negotiated (Linux before 6.11). The order is the same in both.
        let optional = [(Role::Statistics, statistics), (Role::Reporting, reporting)];
        let negotiated = optional
            .into_iter()
            .filter(|(_, negotiated)| *negotiated)
            .map(|(role, _)| role);
        let mut roles = [Role::Inflate, Role::Deflate].into_iter().chain(negotiated);
        let queues = queues.into_iter().map(|queue| {
            let role = queue.ready().then(|| roles.next()).flatten()?;
            Some((role, SplitQueue::new(queue, memory.clone(), interrupt.clone())))
        });
        Ok(Self {
            queues: queues.collect(),
            held_statistics: None,
            chain: Segments::new(memory.clone()),
            memory,
        })
    }

    /// How far each queue is.
    pub(super) fn positions(&self) -> Vec<QueuePosition> {
        let position = |queue: &Option<(Role, SplitQueue)>| queue.as_ref().map(|(_, queue)| queue.position());
        let positions = self.queues.iter().map(position);
        positions.map(Option::unwrap_or_default).collect()
    }

    /// The statistics buffer that is kept.
    pub(super) fn held_statistics(&self) -> Option<u16> {
        self.held_statistics
    }

    /// Takes over the buffer that a saved balloon kept. It is checked when it is given back.
    pub(super) fn hold_statistics(&mut self, held: Option<u16>) {
        self.held_statistics = held;
    }

    /// Works off one queue.
    pub(super) fn work_off(&mut self, index: usize, shared: &Shared) -> Progress {
        let Some(Some((role, queue))) = self.queues.get_mut(index) else {
            return Progress::Waiting;
        };
        let mut progress = Progress::More;
        for _ in 0..CHAINS_PER_CALL {
            self.chain.clear();
            match queue.pop(&mut self.chain, role.direction()) {
                Popped::Nothing if queue.enable_notification() => {}
                Popped::Nothing => {
                    progress = Progress::Waiting;
                    break;
                }
                Popped::Malformed { head } => queue.push_used(head, 0),
                Popped::Chain { head, .. } => {
                    match role {
                        Role::Inflate => inflate(&self.memory, &self.chain, shared),
                        Role::Reporting => discard_reported(&self.memory, &self.chain, shared),
                        Role::Statistics => read_statistics(&self.chain, shared),
                        Role::Deflate => {}
                    }
                    let done = match role {
                        Role::Statistics => self.held_statistics.replace(head),
                        _ => Some(head),
                    };
                    if let Some(head) = done {
                        queue.push_used(head, 0);
                    }
                }
            }
        }
        queue.publish_and_signal();
        progress
    }

    /// Gives the statistics buffer back, by which the driver knows that new ones are wanted. Without one the driver is
    /// about to send some anyhow.
    pub(super) fn ask_for_statistics(&mut self) {
        let mut queues = self.queues.iter_mut().flatten();
        let queue = queues.find(|(role, _)| *role == Role::Statistics);
        if let (Some((_, queue)), Some(head)) = (queue, self.held_statistics.take()) {
            queue.push_used(head, 0);
            queue.publish_and_signal();
        }
    }
}

/// Discards the pages whose numbers the chain holds.
fn inflate(memory: &GuestMemory, chain: &Segments, shared: &Shared) {
    let count = (chain.bytes() / NUMBER_SIZE).min(PAGES_PER_CHAIN);
    let mut bytes = vec![0; count * NUMBER_SIZE];
    chain.read_at(0, &mut bytes);
    let chunks = bytes.as_chunks::<NUMBER_SIZE>().0;
    let mut numbers: Vec<u32> = chunks.iter().map(|number| u32::from_le_bytes(*number)).collect();
    Discarder::new(memory, &shared.discarded).pages(&mut numbers);
}

/// Discards the pages that are the chain's buffers.
fn discard_reported(memory: &GuestMemory, chain: &Segments, shared: &Shared) {
    let mut discarder = Discarder::new(memory, &shared.discarded);
    for (start, len) in chain.pieces() {
        discarder.range(start, len);
    }
}

fn read_statistics(chain: &Segments, shared: &Shared) {
    let count = (chain.bytes() / ENTRY_SIZE).min(MAX_ENTRIES);
    let mut entries = vec![0; count * ENTRY_SIZE];
    chain.read_at(0, &mut entries);
    shared.put_statistics(BalloonStatistics::parse(&entries));
}
