//! The counts and queues of a pool, without any waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Census;

/// What a pool knows of its instances (`I`) and of the requests that wait (`W`).
pub(super) struct State<W, I> {
    /// Oldest first.
    idle: VecDeque<(Instant, I)>,
    pub(super) waiters: VecDeque<W>,
    pub(super) busy: u32,
    pub(super) starting: u32,
    pub(super) warm: u32,
    /// Whether instances that nobody waits for may be started; false for a while after a start failed.
    pub(super) may_retry: bool,
    pub(super) closed: bool,
    max: u32,
}

impl<W, I> State<W, I> {
    pub(super) fn new(max: u32, warm: u32) -> Self {
        Self {
            idle: VecDeque::new(),
            waiters: VecDeque::new(),
            busy: 0,
            starting: 0,
            warm: warm.min(max),
            may_retry: true,
            closed: false,
            max,
        }
    }

    pub(super) fn census(&self) -> Census {
        Census {
            busy: self.busy,
            idle: self.idle.len() as u32,
            starting: self.starting,
            waiting: self.waiters.len(),
        }
    }

    /// How many more instances there may be.
    pub(super) fn room(&self) -> u32 {
        self.max
            .saturating_sub(self.busy + self.starting + self.idle.len() as u32)
    }

    /// How many instances should be started now: one for each request that waits and has none on its way, and those
    /// that stand by.
    pub(super) fn wanted(&self) -> u32 {
        if self.closed {
            return 0;
        }
        let standing_by = if self.may_retry { self.warm } else { 0 };
        let needed = self.waiters.len() as u32 + standing_by;
        needed
            .saturating_sub(self.starting + self.idle.len() as u32)
            .min(self.room())
    }

    /// Whether one more request may wait: for an instance that will be started for it, or else in the queue.
    pub(super) fn has_place(&self, queue: usize) -> bool {
        let coming = (self.starting + self.room()) as usize;
        self.waiters.len() < coming + queue
    }

    /// The instance that became idle last; it counts as busy now.
    pub(super) fn take_idle(&mut self) -> Option<I> {
        let (_, instance) = self.idle.pop_back()?;
        self.busy += 1;
        Some(instance)
    }

    pub(super) fn push_idle(&mut self, instance: I, now: Instant) {
        self.idle.push_back((now, instance));
    }

    /// Takes out the idle instances beyond the warm ones that have been idle for `limit`.
    pub(super) fn expire(&mut self, limit: Duration, now: Instant) -> Vec<I> {
        let mut expired = Vec::new();
        while self.idle.len() as u32 > self.warm
            && let Some((since, _)) = self.idle.front()
            && now.saturating_duration_since(*since) >= limit
        {
            expired.extend(self.idle.pop_front().map(|(_, instance)| instance));
        }
        expired
    }

    /// Takes out the idle instances that `unwanted` says are.
    pub(super) fn remove_idle(&mut self, unwanted: impl Fn(&I) -> bool) -> Vec<I> {
        let (gone, kept) = std::mem::take(&mut self.idle)
            .into_iter()
            .partition(|(_, instance)| unwanted(instance));
        self.idle = kept;
        let gone: VecDeque<(Instant, I)> = gone;
        gone.into_iter().map(|(_, instance)| instance).collect()
    }
}
