//! What guests are held to, as far as the backend says that it holds.

use std::time::{Duration, Instant};

use sandbox::limits::{Limits, RateLimit, TokenBucket};
use sandbox::stats::DiskStats;
use sandbox::{Capability, ErrorKind, Exit, Sandbox, SandboxSpec};

use crate::Finding;
use crate::subject::Subject;
use crate::support::{console_text, container, created, runtime};

pub fn ends_at_the_deadline(subject: &dyn Subject) -> Finding {
    let mut guest = subject.runner();
    guest.spec.limits.deadline_ms = Some(50);
    let sandbox = created(&guest.spec);
    sandbox.start().unwrap();
    assert_eq!(sandbox.wait(Some(subject.patience())).unwrap(), Exit::Deadline);
    Finding::Kept
}

pub fn bounds_memory(subject: &dyn Subject) -> Finding {
    let Some(spec) = subject.hog() else {
        let sandbox = subject.idler().start(subject);
        let touched = sandbox.stats().unwrap().memory.guest_touched.unwrap();
        assert!(touched <= subject.idler().spec.memory, "{touched} bytes");
        return Finding::Kept;
    };
    let sandbox = created(&spec);
    if !sandbox.capabilities().contains(&Capability::LimitMemory) {
        return Finding::Absent("memory is not limited");
    }
    sandbox.start().unwrap();
    let exit = sandbox.wait(Some(subject.patience())).unwrap();
    assert_eq!(exit, Exit::OutOfMemory);
    Finding::Kept
}

/// A spec that the backend must refuse if it cannot hold a guest to it.
fn is_refused(spec: &SandboxSpec, field: &str) -> bool {
    match runtime().create(spec) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());
            assert_eq!(error.field(), Some(field));
            true
        }
    }
}

pub fn bounds_processor_time(subject: &dyn Subject) -> Finding {
    const QUOTA: u32 = 200;
    let mut guest = subject.runner();
    guest.spec.limits.cpu_quota = Some(QUOTA);
    if is_refused(&guest.spec, "limits.cpu_quota") {
        return Finding::Absent("no quota of processor time");
    }
    let sandbox = guest.start(subject);
    assert!(sandbox.capabilities().contains(&Capability::LimitCpuQuota));
    let begin = (Instant::now(), used(&*sandbox));
    // It uses what it gets; how much that is in this time, the kernel says.
    sandbox.wait(Some(Duration::from_secs(2))).unwrap_err();
    let spent = used(&*sandbox) - begin.1;
    let real = begin.0.elapsed().as_nanos() as u64;
    // Two periods' worth more than the quota, which shares them out in pieces.
    let allowed = real / 1000 * u64::from(QUOTA) + 2 * 100_000_000;
    assert!(spent > 0 && spent <= allowed, "{spent} ns of {allowed}");
    sandbox.stop(Duration::ZERO).unwrap();
    Finding::Kept
}

fn used(sandbox: &dyn Sandbox) -> u64 {
    sandbox.stats().unwrap().cpu.guest.unwrap()
}

pub fn bounds_processes(subject: &dyn Subject) -> Finding {
    let breeder = subject.breeder();
    let mut spec = breeder.clone().unwrap_or_else(|| subject.idler().spec);
    spec.limits.pids = Some(16);
    if is_refused(&spec, "limits.pids") {
        return Finding::Absent("no limit of processes");
    }
    let sandbox = created(&spec);
    assert!(sandbox.capabilities().contains(&Capability::LimitPids));
    sandbox.start().unwrap();
    if breeder.is_none() {
        // A guest has no processes of the host; what its worker could start, a worker that its guest has taken over
        // shows (in_worker).
        sandbox.stop(Duration::ZERO).unwrap();
        return Finding::Kept;
    }
    let exit = sandbox.wait(Some(subject.patience())).unwrap();
    assert!(matches!(exit, Exit::Code(1..)), "{exit}");
    Finding::Kept
}

pub fn bounds_disk_reads(subject: &dyn Subject) -> Finding {
    let idler = || vec![subject.idler().spec];
    let directions = |limits: &mut Limits, limit| limits.disk_read = limit;
    for spec in subject.readers().unwrap_or_else(idler) {
        if !is_held(subject, spec, "limits.disk_read", directions, |disk| disk.read_bytes) {
            return Finding::Absent("no limit of disks but each disk's own");
        }
    }
    Finding::Kept
}

pub fn bounds_disk_writes(subject: &dyn Subject) -> Finding {
    let disk = container::Disk::new();
    let idler = || vec![subject.idler().spec];
    let directions = |limits: &mut Limits, limit| limits.disk_write = limit;
    for spec in subject.writers(disk.path()).unwrap_or_else(idler) {
        if !is_held(subject, spec, "limits.disk_write", directions, |disk| {
            disk.written_bytes
        }) {
            return Finding::Absent("no limit of what is written to all disks");
        }
    }
    Finding::Kept
}

/// Has a guest read or write more than it may, a line for each MiB, and compares what it could with its limit. False if
/// the backend refuses to hold it.
fn is_held(
    subject: &dyn Subject,
    mut spec: SandboxSpec,
    field: &str,
    set: fn(&mut Limits, RateLimit),
    count: fn(&DiskStats) -> u64,
) -> bool {
    const RATE: u64 = 4 << 20;
    let bucket = TokenBucket {
        size: RATE,
        refill_time_ms: 1000,
        one_time_burst: 0,
    };
    let limit = RateLimit {
        bandwidth: Some(bucket),
        operations: None,
    };
    set(&mut spec.limits, limit);
    if is_refused(&spec, field) {
        return false;
    }
    let sandbox = created(&spec);
    assert!(sandbox.capabilities().contains(&Capability::LimitDisk));
    let begin = Instant::now();
    sandbox.start().unwrap();
    // It takes as much as it gets; how long that was, the clock says.
    let first = sandbox.console().wait_for(b"MiB\n", 0, subject.patience());
    assert!(first.is_some(), "nothing came through: {}", console_text(&*sandbox));
    sandbox.wait(Some(Duration::from_secs(2))).unwrap_err();
    let text = console_text(&*sandbox);
    let told = (text.lines().count() as u64) << 20;
    let counted: u64 = sandbox.stats().unwrap().disks.iter().map(count).sum();
    // What the bucket holds at the start, and what has come since.
    let allowed = RATE + RATE * (begin.elapsed().as_millis() as u64 + 1) / 1000;
    // Some kernels count what waits for its turn as well, and what was in memory or is a hole is read without being
    // counted: what came from the disk, or got there, is at most the smaller one.
    let moved = told.min(counted);
    assert!(
        moved > 0 && moved <= allowed,
        "{field}: {told} bytes, {counted} counted, of {allowed}"
    );
    sandbox.stop(Duration::ZERO).unwrap();
    true
}

pub fn counts_what_is_used(subject: &dyn Subject) -> Finding {
    let sandbox = subject.writer().start(subject);
    let end = sandbox.console().wait_from(0, subject.patience()).end();
    assert!(end > 0);
    let stats = sandbox.stats().unwrap();
    assert!(stats.memory.guest_touched.unwrap() > 0, "{stats:?}");
    assert!(stats.cpu.guest.unwrap() > 0, "{stats:?}");
    Finding::Kept
}
