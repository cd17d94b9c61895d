//! The instances of one function: who waits, who serves, who stands by.
//!
//! An instance serves one request at a time. A request takes the instance that became idle last, whose memory is the
//! warmest; where none is idle it waits in a queue, in order, for whichever comes first: one that is given back or one
//! that is being started. How many are started follows from one sum ([`State::wanted`]) after every change, so that no
//! event can leave a request behind without somebody on the way to it.

mod state;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::function::Scale;
use state::State;

/// How instances come and go.
pub trait Instances: Send + Sync + 'static {
    /// An instance.
    type Instance: Send + 'static;
    /// Why one could not be started.
    type Error: Clone + Send + 'static;

    /// Starts an instance; it is ready when this returns.
    fn start(&self) -> impl Future<Output = Result<Self::Instance, Self::Error>> + Send;

    /// Whether an instance can serve a request. Does not wait.
    fn is_alive(&self, instance: &Self::Instance) -> bool;

    /// Gives an instance up. Does not wait for its end.
    fn discard(&self, instance: Self::Instance);
}

/// Why there is no instance for a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcquireError<E> {
    /// The queue is full.
    #[error("all instances are busy and the queue is full")]
    QueueFull,
    /// The wait is over.
    #[error("no instance was free within {0:?}")]
    TimedOut(Duration),
    /// The function is being removed, or the platform ends.
    #[error("the function is being removed")]
    Closed,
    /// An instance could not be started.
    #[error("no instance could be started: {0}")]
    Start(E),
}

/// What there is of instances now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Serving a request.
    pub busy: u32,
    /// Ready and without work.
    pub idle: u32,
    /// Being started.
    pub starting: u32,
    /// Requests that wait.
    pub waiting: usize,
}

/// The instances of one function.
pub struct Pool<S: Instances> {
    instances: S,
    scale: Scale,
    state: Mutex<State<Waiter<S>, S::Instance>>,
    /// An instance has left, or a start has ended.
    changed: Notify,
}

type Waiter<S> = oneshot::Sender<Result<Lease<S>, AcquireError<<S as Instances>::Error>>>;

impl<S: Instances> Pool<S> {
    /// A pool that keeps `warm` idle instances standing by; the first are started by the first [`Pool::tend`].
    pub fn new(instances: S, scale: Scale, warm: u32) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(scale.max, warm)),
            instances,
            scale,
            changed: Notify::new(),
        })
    }

    /// How instances come and go.
    pub fn instances(&self) -> &S {
        &self.instances
    }

    /// What there is now.
    pub fn census(&self) -> Census {
        self.lock().census()
    }

    /// An instance for one request.
    ///
    /// # Errors
    /// See [`AcquireError`]; the request holds no place in the queue then.
    pub async fn acquire(self: &Arc<Self>) -> Result<Lease<S>, AcquireError<S::Error>> {
        let waiting = match self.take_or_queue()? {
            Place::Served(lease) => return Ok(lease),
            Place::Queued(waiting) => waiting,
        };
        let wait = self.scale.queue_wait();
        match tokio::time::timeout(wait, waiting).await {
            Ok(Ok(answer)) => answer,
            // The pool was dropped with its queue.
            Ok(Err(_)) => Err(AcquireError::Closed),
            Err(_) => Err(AcquireError::TimedOut(wait)),
        }
    }

    fn take_or_queue(self: &Arc<Self>) -> Result<Place<S>, AcquireError<S::Error>> {
        let mut dead = Vec::new();
        let mut state = self.lock();
        if state.closed {
            return Err(AcquireError::Closed);
        }
        while let Some(instance) = state.take_idle() {
            if self.instances.is_alive(&instance) {
                drop(state);
                self.discard_all(dead);
                return Ok(Place::Served(self.lease(instance)));
            }
            state.busy -= 1;
            dead.push(instance);
        }
        let place = match state.has_place(self.scale.queue) {
            true => {
                let (sender, receiver) = oneshot::channel();
                state.waiters.push_back(sender);
                Ok(Place::Queued(receiver))
            }
            false => Err(AcquireError::QueueFull),
        };
        drop(state);
        self.discard_all(dead);
        self.start_wanted();
        place
    }

    /// Starts `count` further instances that stand by until they are used or idle for too long, and waits until each is
    /// ready; gives the number of those that are.
    pub async fn pre_boot(self: &Arc<Self>, count: u32) -> Result<u32, AcquireError<S::Error>> {
        let room = {
            let mut state = self.lock();
            if state.closed {
                return Err(AcquireError::Closed);
            }
            let room = count.min(state.room());
            state.starting += room;
            room
        };
        let starts: Vec<_> = (0..room).map(|_| tokio::spawn(Arc::clone(self).start_one())).collect();
        let mut ready = 0;
        for start in starts {
            match start.await {
                Ok(Ok(())) => ready += 1,
                Ok(Err(error)) => return Err(AcquireError::Start(error)),
                Err(_) => return Err(AcquireError::Closed),
            }
        }
        Ok(ready)
    }

    /// Changes how many idle instances stand by; those that are too many go at once.
    pub fn set_warm(self: &Arc<Self>, warm: u32) {
        let surplus = {
            let mut state = self.lock();
            state.warm = warm.min(self.scale.max);
            state.expire(Duration::ZERO, Instant::now())
        };
        self.discard_all(surplus);
        self.start_wanted();
    }

    /// Gives up instances that are idle for too long or dead, and starts those that should stand by. To be called now
    /// and then.
    pub fn tend(self: &Arc<Self>) {
        let surplus = {
            let mut state = self.lock();
            state.may_retry = true;
            let mut surplus = state.remove_idle(|instance| !self.instances.is_alive(instance));
            surplus.extend(state.expire(self.scale.idle(), Instant::now()));
            surplus
        };
        self.discard_all(surplus);
        self.start_wanted();
    }

    /// Gives up all idle instances and refuses requests from now on. Those that are busy go when they are given back.
    pub fn close(&self) {
        let (idle, waiters) = {
            let mut state = self.lock();
            state.closed = true;
            (state.remove_idle(|_| true), std::mem::take(&mut state.waiters))
        };
        self.discard_all(idle);
        for waiter in waiters {
            // Whoever has gone needs no answer.
            let _ = waiter.send(Err(AcquireError::Closed));
        }
    }

    /// Waits until a closed pool has no instance left.
    pub async fn emptied(&self) {
        self.reaches(|census| census == Census::default()).await;
    }

    /// Waits until no instance serves a request or is being started.
    pub async fn settled(&self) {
        self.reaches(|census| census.busy + census.starting == 0).await;
    }

    async fn reaches(&self, condition: impl Fn(Census) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self.census()) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<Waiter<S>, S::Instance>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(self: &Arc<Self>, instance: S::Instance) -> Lease<S> {
        Lease {
            pool: Arc::clone(self),
            instance: Some(instance),
            in_use: false,
        }
    }

    fn discard_all(&self, instances: Vec<S::Instance>) {
        for instance in instances {
            self.instances.discard(instance);
        }
    }

    /// Starts as many instances as are wanted now.
    fn start_wanted(self: &Arc<Self>) {
        let wanted = {
            let mut state = self.lock();
            let wanted = state.wanted();
            state.starting += wanted;
            wanted
        };
        for _ in 0..wanted {
            tokio::spawn(Arc::clone(self).start_one());
        }
    }

    /// Starts an instance that is counted as starting already.
    async fn start_one(self: Arc<Self>) -> Result<(), S::Error> {
        let counted = Counted(&self);
        let started = self.instances.start().await;
        let outcome = started.map(|instance| self.put(instance));
        if let Err(error) = &outcome {
            self.start_failed(error.clone());
        }
        drop(counted);
        self.start_wanted();
        outcome
    }

    /// Tells the request that has waited longest, unless others are on the way for all that wait.
    fn start_failed(self: &Arc<Self>, error: S::Error) {
        let waiter = {
            let mut state = self.lock();
            // Instances that nobody waits for are tried again by and by, not at once and for ever.
            state.may_retry = false;
            // This start is still counted.
            match state.waiters.len() >= state.starting as usize {
                true => state.waiters.pop_front(),
                false => None,
            }
        };
        if let Some(waiter) = waiter {
            let _ = waiter.send(Err(AcquireError::Start(error)));
        }
    }

    /// Takes an instance that is free into service: for who waits longest, or for later.
    fn put(self: &Arc<Self>, mut instance: S::Instance) {
        loop {
            let waiter = {
                let mut state = self.lock();
                if state.closed {
                    break;
                }
                match state.waiters.pop_front() {
                    Some(waiter) => {
                        state.busy += 1;
                        waiter
                    }
                    None => {
                        state.push_idle(instance, Instant::now());
                        return;
                    }
                }
            };
            match waiter.send(Ok(self.lease(instance))) {
                Ok(()) => return,
                // It has gone meanwhile; the next one gets it.
                Err(Ok(mut lease)) => match lease.instance.take() {
                    Some(returned) => {
                        self.lock().busy -= 1;
                        instance = returned;
                    }
                    None => return,
                },
                Err(Err(_)) => return,
            }
        }
        self.instances.discard(instance);
    }

    fn give_back(self: &Arc<Self>, instance: S::Instance, sound: bool) {
        match sound && self.instances.is_alive(&instance) {
            true => self.put(instance),
            false => self.instances.discard(instance),
        }
        self.lock().busy -= 1;
        self.changed.notify_waiters();
        self.start_wanted();
    }
}

/// Where a request stands that asked for an instance.
enum Place<S: Instances> {
    Served(Lease<S>),
    Queued(oneshot::Receiver<Result<Lease<S>, AcquireError<S::Error>>>),
}

/// An instance that is counted as starting, until this is dropped, be it by a panic.
struct Counted<'a, S: Instances>(&'a Arc<Pool<S>>);

impl<S: Instances> Drop for Counted<'_, S> {
    fn drop(&mut self) {
        self.0.lock().starting -= 1;
        self.0.changed.notify_waiters();
    }
}

/// An instance that serves one request. Dropping it gives it back; after [`Lease::begin`] without [`Lease::finish`] it
/// is given up, since nobody knows what it is doing.
pub struct Lease<S: Instances> {
    pool: Arc<Pool<S>>,
    instance: Option<S::Instance>,
    in_use: bool,
}

impl<S: Instances> Lease<S> {
    /// The instance; `None` only while the lease is being dropped.
    pub fn instance(&mut self) -> Option<&mut S::Instance> {
        self.instance.as_mut()
    }

    /// A request is on its way into the instance.
    pub fn begin(&mut self) {
        self.in_use = true;
    }

    /// The request is answered in full.
    pub fn finish(&mut self) {
        self.in_use = !self.pool.scale.reuse;
    }
}

impl<S: Instances> Drop for Lease<S> {
    fn drop(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.pool.give_back(instance, !self.in_use);
        }
    }
}
