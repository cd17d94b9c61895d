//! A snapshot of a running guest, a sandbox restored from it, and ten forks.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sandbox::{RestoreOptions, Runtime, Sandbox, SandboxSpec, SnapshotOptions, Timeline};
use serde_json::json;

use crate::image::Image;
use crate::timeline;

const PATIENCE: Duration = Duration::from_secs(30);
const FORKS: u32 = 10;

/// What came of it.
pub struct Clones {
    snapshot: Duration,
    restored: Timeline,
    forks: Duration,
    forked: Timeline,
}

/// Snapshots, restores and forks one guest, and takes all of them apart.
pub fn run(runtime: &Runtime) -> Result<Clones> {
    let image = Image::write(sandbox_guests::CLONE_CHECK)?;
    let spec = json!({
        "guest": {"unikernel": {"image": image.path(), "family": "bare"}},
        "memory": 16 << 20,
        "ready": "boot_port",
        "isolation": "in_process",
    });
    let original = runtime.create(&SandboxSpec::from_json(spec.to_string().as_bytes())?)?;
    original.start()?;
    original.wait_ready(PATIENCE)?;

    // The guest stands still while its folder is written, and goes on.
    let folder = std::env::temp_dir().join(format!("sandbox-quickstart-{}", std::process::id()));
    let began = Instant::now();
    original.snapshot(&folder, &SnapshotOptions::default())?;
    let snapshot = began.elapsed();

    let options = RestoreOptions {
        start: true,
        ..RestoreOptions::default()
    };
    let restored = runtime.restore(&folder, &options);
    // Nothing of the folder is needed any more, whatever became of it.
    std::fs::remove_dir_all(&folder)?;
    let restored = restored?.sandbox;
    let expected = nonce(&*original)?;
    ensure!(nonce(&*restored)? == expected, "the guest was started anew");

    let Some(fork) = original.as_fork() else {
        anyhow::bail!("this sandbox cannot be forked");
    };
    let began = Instant::now();
    let forks = fork.fork(FORKS, &options)?;
    let took = began.elapsed();
    for clone in &forks {
        ensure!(nonce(&*clone.sandbox)? == expected, "a fork was started anew");
    }
    for sandbox in forks.iter().map(|clone| &clone.sandbox).chain([&restored, &original]) {
        sandbox.teardown().wait(PATIENCE)?;
    }
    Ok(Clones {
        snapshot,
        restored: restored.timeline(),
        forks: took,
        forked: forks[0].sandbox.timeline(),
    })
}

/// What only this guest and its clones know.
fn nonce(sandbox: &dyn Sandbox) -> Result<String> {
    let console = sandbox.console();
    let from = console.read_from(u64::MAX).end();
    sandbox.console_write(b"\n")?;
    ensure!(
        console.wait_for(b"\n", from, PATIENCE).is_some(),
        "the guest does not answer"
    );
    let line = String::from_utf8(console.read_from(from).bytes)?;
    let nonce = line.split_whitespace().find(|word| word.starts_with("nonce="));
    Ok(nonce.unwrap_or_default().to_owned())
}

impl Clones {
    /// For people.
    pub fn text(&self) -> String {
        let table = |timeline| timeline::table(&timeline::steps(timeline));
        format!(
            "\n  snapshot of a running guest: {:?}\n\n  a sandbox restored from it:\n\n{}\n  {FORKS} forks: {:?}; the first of \
             them:\n\n{}",
            self.snapshot,
            table(&self.restored),
            self.forks,
            table(&self.forked)
        )
    }
}
