//! The host's disks: what is held beyond what the conformance suite asks of every backend.

use std::time::{Duration, Instant};

use sandbox::limits::{Limits, RateLimit, TokenBucket};
use sandbox::snapshot::{AfterSnapshot, Overrides};
use sandbox::spec::MountSpec;
use sandbox::{Capability, ErrorKind, RestoreOptions, SnapshotOptions};

use crate::support::container::{file_on_a_disk, guest, runtimes, script};
use crate::support::{PATIENCE, TempFolder, await_console, console_text, created, runtime};

const RATE: u64 = 4 << 20;
const FIELD: &str = "limits.disk_read";

fn limits(refill_time_ms: u64, one_time_burst: u64) -> Limits {
    let bucket = TokenBucket {
        size: RATE,
        refill_time_ms,
        one_time_burst,
    };
    Limits {
        disk_read: RateLimit {
            bandwidth: Some(bucket),
            operations: None,
        },
        ..Limits::default()
    }
}

#[test]
fn what_goes_on_from_a_snapshot_is_held_to_the_limits_that_it_is_given() {
    for name in runtimes() {
        let (folder, saved) = (TempFolder::new(), TempFolder::new());
        let mut spec = script(
            name,
            "echo waiting; until [ -e /tmp/go/now ]; do sleep 0.05; done; i=0; while [ $i -lt 40 ]; do \
             dd if=/tmp/file of=/dev/null bs=1M count=1 skip=$i status=none; i=$((i + 1)); echo MiB; done; sleep 1000000",
        );
        let file = file_on_a_disk(name);
        let mount = |source, destination: &str| MountSpec {
            source,
            destination: destination.into(),
            read_only: true,
        };
        guest(&mut spec).mounts = vec![mount(file, "/tmp/file"), mount(folder.path().to_owned(), "/tmp/go")];
        let sandbox = created(&spec);
        if !sandbox.capabilities().contains(&Capability::Snapshot) {
            continue;
        }
        sandbox.start().unwrap();
        await_console(&*sandbox, "waiting");
        let snapshot = saved.path().join("snapshot");
        let stop = SnapshotOptions {
            after: AfterSnapshot::Stop,
            ..SnapshotOptions::default()
        };
        if let Err(error) = sandbox.snapshot(&snapshot, &stop) {
            panic!("{name}: {}", error.report());
        }
        sandbox.teardown().wait(PATIENCE).unwrap();

        let id = format!("restored-{name}-{}", std::process::id());
        let restore = |limits| {
            let options = RestoreOptions {
                start: true,
                overrides: Overrides {
                    id: Some(id.clone()),
                    limits: Some(limits),
                    ..Overrides::default()
                },
                ..RestoreOptions::default()
            };
            runtime().restore(&snapshot, &options)
        };
        // A burst is nothing that the kernel knows.
        let error = restore(limits(1000, 1)).unwrap_err();
        let field = format!("{FIELD}.bandwidth.one_time_burst");
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::Unsupported, Some(&*field)),
            "{name}"
        );

        let restored = match restore(limits(1000, 0)) {
            Ok(restored) => restored.sandbox,
            Err(error) => panic!("{name}: {}", error.report()),
        };
        assert_eq!(restored.id(), id, "{name}");
        let begin = Instant::now();
        folder.file("now", b"");
        await_console(&*restored, "MiB");
        restored.wait(Some(Duration::from_secs(2))).unwrap_err();
        let told = (console_text(&*restored).matches("MiB").count() as u64) << 20;
        let counted: u64 = restored.stats().unwrap().disks.iter().map(|disk| disk.read_bytes).sum();
        let allowed = RATE + RATE * (begin.elapsed().as_millis() as u64 + 1) / 1000;
        let moved = told.min(counted);
        assert!(
            moved > 0 && moved <= allowed,
            "{name}: {told} bytes, {counted} counted, of {allowed}"
        );
        restored.teardown().wait(PATIENCE).unwrap();
    }
}
