//! The vCPU threads of one VM, told together to run, to hold still, or to leave.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::kick::Kicker;
use super::vcpu::Vcpu;

/// What the vCPU threads are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    /// Run guest code.
    Run = 0,
    /// Stay out of it until told otherwise.
    Hold = 1,
    /// Leave for good; no other order can follow.
    Leave = 2,
}

/// The threads' orders and whereabouts.
pub struct Crew {
    /// A copy of the order for the threads' fast path: one load per exit.
    hint: AtomicU8,
    roster: Mutex<Roster>,
    changed: Condvar,
    members: Vec<Member>,
}

/// Work for each held thread, on its vCPU, which no other thread has.
pub type Errand = Arc<dyn Fn(&Vcpu) + Send + Sync>;

/// What a thread does while it is held.
pub trait Held {
    /// Leaves the vCPU in a state that can be read.
    fn settle(&mut self);

    /// Does the work.
    fn run(&mut self, errand: &Errand);
}

struct Roster {
    order: Order,
    /// Threads that are, or may soon be, in guest code.
    running: usize,
    /// Threads that have not left.
    present: usize,
    /// Work for the held threads, and its number, by which a thread knows that it has done it.
    errand: Option<(u64, Errand)>,
    /// The last errand's number.
    errands: u64,
    /// Threads that have yet to do the present one.
    errand_left: usize,
}

/// One vCPU thread.
#[derive(Default)]
pub struct Member {
    /// Where it can be kicked.
    pub kicker: Kicker,
    /// How often its guest code left to user space.
    pub exits: AtomicU64,
    /// Its processor time when it left, in nanoseconds.
    final_cpu: AtomicU64,
}

impl Member {
    /// Processor time that the thread has used, in nanoseconds.
    pub fn cpu_nanoseconds(&self) -> u64 {
        let running = self.kicker.thread_cpu_nanoseconds();
        running.unwrap_or_else(|| self.final_cpu.load(Ordering::Relaxed))
    }

    /// For the vCPU thread itself, before it leaves.
    pub fn record_final_cpu(&self) {
        self.final_cpu.store(self.cpu_nanoseconds(), Ordering::Relaxed);
    }
}

impl Crew {
    /// A crew of `size` threads, all of which are expected to come, and to run.
    pub fn new(size: usize) -> Self {
        Self {
            hint: AtomicU8::new(Order::Run as u8),
            roster: Mutex::new(Roster {
                order: Order::Run,
                running: size,
                present: size,
                errand: None,
                errands: 0,
                errand_left: 0,
            }),
            changed: Condvar::new(),
            members: (0..size).map(|_| Member::default()).collect(),
        }
    }

    /// The threads, by vCPU number.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// For a vCPU thread, before each entry: true when it may run. A thread that is to hold still settles first, and
    /// then waits here, and runs errands; false when it is to leave.
    pub fn may_run(&self, held: &mut dyn Held) -> bool {
        if self.hint.load(Ordering::Acquire) == Order::Run as u8 {
            return true;
        }
        let mut roster = self.lock();
        if roster.order == Order::Hold {
            drop(roster);
            held.settle();
            roster = self.lock();
            roster.running -= 1;
            self.changed.notify_all();
            let mut done = roster.errands - u64::from(roster.errand.is_some());
            while roster.order == Order::Hold {
                roster = match roster.errand.clone() {
                    Some((number, errand)) if number != done => {
                        drop(roster);
                        held.run(&errand);
                        done = number;
                        self.errand_done()
                    }
                    _ => self.wait(roster),
                };
            }
            roster.running += 1;
        }
        roster.order == Order::Run
    }

    fn errand_done(&self) -> MutexGuard<'_, Roster> {
        let mut roster = self.lock();
        roster.errand_left -= 1;
        self.changed.notify_all();
        roster
    }

    /// Has every held thread do `errand`, and returns when all have. False when they are leaving instead; some may have
    /// done it then. One at a time, and only while the threads are held.
    pub fn run_errand(&self, errand: Errand) -> bool {
        let mut roster = self.lock();
        roster.errands += 1;
        roster.errand_left = roster.present;
        roster.errand = Some((roster.errands, errand));
        self.changed.notify_all();
        while roster.errand_left > 0 && roster.order == Order::Hold {
            roster = self.wait(roster);
        }
        roster.errand = None;
        roster.order == Order::Hold
    }

    /// For a vCPU thread: it has left guest code for good. True for the last one.
    pub fn depart(&self) -> bool {
        let mut roster = self.lock();
        roster.running -= 1;
        roster.present -= 1;
        self.changed.notify_all();
        roster.present == 0
    }

    /// Holds all threads, and returns when none is in guest code. False, with nothing to undo, when they are leaving.
    pub fn hold(&self) -> bool {
        self.order(Order::Hold);
        let mut roster = self.lock();
        while roster.running > 0 && roster.order == Order::Hold {
            roster = self.wait(roster);
        }
        roster.order == Order::Hold
    }

    /// Lets held threads run on.
    pub fn release(&self) {
        self.order(Order::Run);
    }

    /// Makes all threads leave; does not wait for them.
    pub fn dismiss(&self) {
        self.order(Order::Leave);
    }

    fn order(&self, order: Order) {
        {
            let mut roster = self.lock();
            if roster.order == Order::Leave {
                return;
            }
            roster.order = order;
            self.hint.store(order as u8, Ordering::Release);
            self.changed.notify_all();
        }
        if order != Order::Run {
            self.members.iter().for_each(|member| member.kicker.kick());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, roster: MutexGuard<'a, Roster>) -> MutexGuard<'a, Roster> {
        self.changed.wait(roster).unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    struct Idle;

    impl Held for Idle {
        fn settle(&mut self) {}
        fn run(&mut self, _errand: &Errand) {}
    }

    /// Counts the errands instead of doing them, which would take a vCPU.
    struct Counting(Arc<AtomicUsize>);

    impl Held for Counting {
        fn settle(&mut self) {}
        fn run(&mut self, _errand: &Errand) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn spawn(crew: &Arc<Crew>, turns: &Arc<AtomicUsize>) -> thread::JoinHandle<bool> {
        let (crew, turns) = (Arc::clone(crew), Arc::clone(turns));
        thread::spawn(move || {
            while crew.may_run(&mut Idle) {
                turns.fetch_add(1, Ordering::SeqCst);
                thread::yield_now();
            }
            crew.depart()
        })
    }

    #[test]
    fn held_threads_do_not_run_and_released_ones_do() {
        let crew = Arc::new(Crew::new(2));
        let turns = Arc::new(AtomicUsize::new(0));
        let threads = [spawn(&crew, &turns), spawn(&crew, &turns)];
        assert!(crew.hold());
        let held_at = turns.load(Ordering::SeqCst);
        thread::yield_now();
        assert_eq!(turns.load(Ordering::SeqCst), held_at);
        crew.release();
        while turns.load(Ordering::SeqCst) == held_at {
            thread::yield_now();
        }
        crew.dismiss();
        let last: usize = threads
            .into_iter()
            .map(|thread| usize::from(thread.join().unwrap()))
            .sum();
        assert_eq!(last, 1, "exactly one thread is the last");
    }

    #[test]
    fn every_held_thread_runs_each_errand_once() {
        let crew = Arc::new(Crew::new(3));
        let done = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (crew, done) = (Arc::clone(&crew), Arc::clone(&done));
                thread::spawn(move || {
                    while crew.may_run(&mut Counting(Arc::clone(&done))) {
                        thread::yield_now();
                    }
                    crew.depart()
                })
            })
            .collect();
        let mut expected = 0;
        for _ in 0..20 {
            assert!(crew.hold());
            for _ in 0..2 {
                assert!(crew.run_errand(Arc::new(|_| ())));
                expected += 3;
                assert_eq!(done.load(Ordering::SeqCst), expected);
            }
            crew.release();
        }
        crew.dismiss();
        assert!(!crew.run_errand(Arc::new(|_| ())), "leaving threads run no errand");
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn leaving_is_final() {
        let crew = Arc::new(Crew::new(1));
        crew.dismiss();
        assert!(!crew.hold());
        crew.release();
        assert!(!crew.may_run(&mut Idle));
    }
}
