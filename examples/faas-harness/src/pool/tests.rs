//! The pool with instances that are numbers.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;

use super::*;

/// Instances that start when a permit is given, numbered from 0.
struct Numbers {
    permits: Semaphore,
    started: AtomicU32,
    discarded: Mutex<Vec<u32>>,
    dead: Mutex<Vec<u32>>,
    failing: AtomicU32,
}

impl Numbers {
    fn new(permits: usize) -> Self {
        Self {
            permits: Semaphore::new(permits),
            started: AtomicU32::new(0),
            discarded: Mutex::default(),
            dead: Mutex::default(),
            failing: AtomicU32::new(0),
        }
    }

    fn discarded(&self) -> Vec<u32> {
        self.discarded.lock().unwrap().clone()
    }
}

impl Instances for Numbers {
    type Instance = u32;
    type Error = &'static str;

    async fn start(&self) -> Result<u32, &'static str> {
        self.permits.acquire().await.unwrap().forget();
        if self.failing.load(Ordering::SeqCst) > 0 {
            self.failing.fetch_sub(1, Ordering::SeqCst);
            return Err("told to fail");
        }
        Ok(self.started.fetch_add(1, Ordering::SeqCst))
    }

    fn is_alive(&self, instance: &u32) -> bool {
        !self.dead.lock().unwrap().contains(instance)
    }

    fn discard(&self, instance: u32) {
        self.discarded.lock().unwrap().push(instance);
    }
}

fn scale(max: u32) -> Scale {
    Scale {
        max,
        queue: 1,
        queue_ms: 60_000,
        ..Scale::default()
    }
}

fn pool(permits: usize, scale: Scale) -> Arc<Pool<Numbers>> {
    Pool::new(Numbers::new(permits), scale, 0)
}

async fn settled(pool: &Arc<Pool<Numbers>>, expected: Census) {
    while pool.census() != expected {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_instance_serves_one_request_after_the_other() {
    let pool = pool(9, scale(9));
    for _ in 0..3 {
        let mut lease = pool.acquire().await.unwrap();
        assert_eq!(lease.instance().copied(), Some(0));
        lease.begin();
        lease.finish();
    }
    settled(
        &pool,
        Census {
            idle: 1,
            ..Census::default()
        },
    )
    .await;
}

#[tokio::test]
async fn an_instance_whose_request_did_not_end_is_given_up() {
    let pool = pool(9, scale(9));
    let mut lease = pool.acquire().await.unwrap();
    lease.begin();
    drop(lease);
    assert_eq!(pool.instances().discarded(), [0]);
    assert_eq!(pool.census(), Census::default());
}

#[tokio::test]
async fn requests_beyond_maximum_and_queue_are_refused_and_those_in_the_queue_served_in_order() {
    let pool = pool(9, scale(1));
    let first = pool.acquire().await.unwrap();
    let second = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.acquire().await.map(drop) }
    });
    settled(
        &pool,
        Census {
            busy: 1,
            waiting: 1,
            ..Census::default()
        },
    )
    .await;
    assert!(matches!(pool.acquire().await, Err(AcquireError::QueueFull)));
    drop(first);
    second.await.unwrap().unwrap();
    assert_eq!(pool.instances().started.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_wait_that_is_over_leaves_the_instance_to_the_next_one() {
    let mut scale = scale(1);
    scale.queue_ms = 1;
    let pool = Pool::new(Numbers::new(0), scale, 0);
    assert!(matches!(pool.acquire().await, Err(AcquireError::TimedOut(_))));
    pool.instances().permits.add_permits(1);
    settled(
        &pool,
        Census {
            idle: 1,
            ..Census::default()
        },
    )
    .await;
    assert_eq!(pool.acquire().await.unwrap().instance().copied(), Some(0));
}

#[tokio::test]
async fn a_start_that_fails_is_told_to_one_request_alone() {
    let pool = pool(2, scale(2));
    pool.instances().failing.store(1, Ordering::SeqCst);
    let answers = tokio::join!(pool.acquire(), pool.acquire());
    let failures = [answers.0.is_err(), answers.1.is_err()];
    assert_eq!(failures.iter().filter(|failed| **failed).count(), 1);
}

#[tokio::test]
async fn warm_instances_stand_by_and_are_replaced() {
    let pool = Pool::new(Numbers::new(100), scale(4), 2);
    pool.tend();
    settled(
        &pool,
        Census {
            idle: 2,
            ..Census::default()
        },
    )
    .await;
    let mut lease = pool.acquire().await.unwrap();
    lease.begin();
    drop(lease);
    settled(
        &pool,
        Census {
            idle: 2,
            ..Census::default()
        },
    )
    .await;
}

#[tokio::test]
async fn starts_that_nobody_waits_for_are_not_retried_before_the_next_look() {
    let pool = Pool::new(Numbers::new(100), scale(4), 1);
    pool.instances().failing.store(1, Ordering::SeqCst);
    pool.tend();
    while pool.instances().failing.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
    settled(&pool, Census::default()).await;
    pool.tend();
    settled(
        &pool,
        Census {
            idle: 1,
            ..Census::default()
        },
    )
    .await;
}

#[tokio::test]
async fn a_dead_instance_serves_nobody() {
    let pool = pool(9, scale(9));
    drop(pool.acquire().await.unwrap());
    pool.instances().dead.lock().unwrap().push(0);
    assert_eq!(pool.acquire().await.unwrap().instance().copied(), Some(1));
    assert_eq!(pool.instances().discarded(), [0]);
}

#[tokio::test]
async fn idle_instances_go_in_time_but_for_the_warm_ones() {
    let mut scale = scale(9);
    scale.idle_ms = 0;
    let pool = Pool::new(Numbers::new(9), scale, 1);
    assert_eq!(pool.pre_boot(3).await.unwrap(), 3);
    assert_eq!(pool.census().idle, 3);
    pool.tend();
    assert_eq!(pool.census().idle, 1);
}

#[tokio::test]
async fn pre_boot_stays_below_the_maximum() {
    let pool = pool(9, scale(2));
    assert_eq!(pool.pre_boot(5).await.unwrap(), 2);
}

#[tokio::test]
async fn a_closed_pool_refuses_and_keeps_nothing() {
    let pool = pool(9, scale(9));
    let busy = pool.acquire().await.unwrap();
    drop(pool.acquire().await.unwrap());
    pool.close();
    assert!(matches!(pool.acquire().await, Err(AcquireError::Closed)));
    tokio::join!(pool.emptied(), async { drop(busy) });
    let mut discarded = pool.instances().discarded();
    discarded.sort_unstable();
    assert_eq!(discarded, [0, 1]);
}

#[tokio::test]
async fn an_instance_that_may_not_be_used_again_serves_once() {
    let mut scale = scale(9);
    scale.reuse = false;
    let pool = Pool::new(Numbers::new(9), scale, 0);
    for number in 0..3 {
        let mut lease = pool.acquire().await.unwrap();
        assert_eq!(lease.instance().copied(), Some(number));
        lease.begin();
        lease.finish();
    }
    assert_eq!(pool.instances().discarded(), [0, 1, 2]);
}
