//! A stock Linux guest that ticks on its console: how soon a clone runs, and ticks on.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use sandbox::snapshot::MemoryRestore;
use sandbox::spec::{GuestSpec, Isolation, LinuxGuest};
use sandbox::{Backend, Phase, Restored, Runtime, Sandbox, SandboxSpec, SnapshotOptions};

use super::clones::{Call, tear_down};
use super::parent::stored_bytes;
use super::{Way, runtime, single};
use crate::Options;
use crate::clock;
use crate::cold_start::PATIENCE;
use crate::report::{Report, Unit};

/// What the guest's init says, again and again.
const TICK: &[u8] = b"SANDBOX-TICK";
const WAYS: [Way; 3] = [
    Way::Restore(MemoryRestore::Cow),
    Way::Restore(MemoryRestore::Uffd),
    Way::Fork,
];
/// Clones that are made by one call.
const BURST: u32 = 16;
/// Bytes that the floor of a snapshot writes by one call: so many that the calls themselves do not count.
const COPIED_AT_ONCE: usize = 1 << 20;
/// In MiB: the second shows that the size does not matter.
const SIZES: [u64; 2] = [128, 2048];

/// Measures guests of either size.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    for mib in SIZES {
        let guest = match mib {
            128 => "linux".to_owned(),
            _ => format!("linux-{mib}"),
        };
        let parent = Parent::ticking(options, mib << 20)?;
        parent.measure_snapshot(&format!("sdk/{guest}/in_process"), options.rounds, report)?;
        parent.measure_copy(&format!("floor/{guest}"), options.rounds, report)?;
        parent.sandbox.pause()?;
        for _ in 0..options.rounds {
            parent.burst(&format!("sdk/{guest}/in_process/fork"), report)?;
        }
        for way in WAYS {
            let case = format!("sdk/{guest}/in_process/{}", way.name());
            parent.clones(way, &case, options.rounds, report);
        }
        // The same restore, in VMs that are made ahead of time.
        let kvm = parent.runtime.kvm()?;
        kvm.keep_shells(&parent.spec, 1)?;
        let case = format!("sdk/{guest}/in_process/pool");
        parent.clones(Way::Restore(MemoryRestore::Cow), &case, options.rounds, report);
        kvm.keep_shells(&parent.spec, 0)?;
    }
    Ok(())
}

struct Parent {
    runtime: Runtime,
    spec: SandboxSpec,
    sandbox: Box<dyn Sandbox>,
    folder: PathBuf,
}

impl Parent {
    fn ticking(options: &Options, memory: u64) -> Result<Self> {
        let kernel = options.kernel.clone().context("--kernel is needed")?;
        let initrd = options.initrd.clone().context("--initrd is needed")?;
        let mut spec = SandboxSpec::new(GuestSpec::Linux(LinuxGuest {
            kernel,
            initrd: Some(initrd),
            cmdline: "console=ttyS0 quiet panic=1 reboot=k sandbox.end=tick".to_owned(),
            ..Default::default()
        }));
        spec.isolation = Isolation::InProcess;
        spec.memory = memory;
        crate::data_path::mask_extended_state(&mut spec);
        let runtime = runtime();
        let sandbox = runtime.create(&spec)?;
        sandbox.start()?;
        let ticked = sandbox.console().wait_for(TICK, 0, PATIENCE);
        ticked.with_context(|| format!("the guest does not tick: {}", sandbox.console().tail(5)))?;
        let folder = std::env::temp_dir().join(format!("sandbox-bench-linux-{}", std::process::id()));
        Ok(Self {
            runtime,
            spec,
            sandbox,
            folder,
        })
    }

    /// Writes snapshots of the running guest, the last of which stays for restores.
    fn measure_snapshot(&self, case: &str, rounds: usize, report: &mut Report) -> Result<()> {
        for _ in 0..rounds {
            let _ = std::fs::remove_dir_all(&self.folder);
            let before = clock::now();
            self.sandbox.snapshot(&self.folder, &SnapshotOptions::default())?;
            report.add_span(case, "snapshot", clock::now().since(before));
        }
        let stored = stored_bytes(&self.folder)?;
        report.add(case, "snapshot_bytes", Unit::Bytes, stored as f64, None);
        Ok(())
    }

    /// What the kernel takes for writing as many bytes to a file in the same place: no snapshot can cost less.
    fn measure_copy(&self, case: &str, rounds: usize, report: &mut Report) -> Result<()> {
        let chunk = vec![1; COPIED_AT_ONCE];
        let path = self.folder.with_extension("copy");
        for _ in 0..rounds {
            let mut left = stored_bytes(&self.folder)? as usize;
            let before = clock::now();
            let mut file = File::create(&path)?;
            while left > 0 {
                let count = left.min(chunk.len());
                file.write_all(&chunk[..count])?;
                left -= count;
            }
            file.sync_all()?;
            report.add_span(case, "snapshot", clock::now().since(before));
            std::fs::remove_file(&path)?;
        }
        Ok(())
    }

    /// Clones one after the other; the first is not counted.
    fn clones(&self, way: Way, case: &str, rounds: usize, report: &mut Report) {
        for round in 0..=rounds {
            if let Err(error) = self.clone_once(way, case, (round > 0).then_some(&mut *report)) {
                report.failed(case, format!("{error:#}"));
                return;
            }
        }
    }

    fn clone_once(&self, way: Way, case: &str, report: Option<&mut Report>) -> Result<()> {
        let options = sandbox::RestoreOptions {
            start: true,
            ..Default::default()
        };
        let kvm = self.runtime.kvm()?;
        if kvm.shell_metrics(&self.spec)?.is_some() {
            ensure!(
                kvm.wait_for_shells(&self.spec, 1, PATIENCE)?,
                "no VM is made ahead of time"
            );
        }
        let call = Call::now();
        let clone: Restored = match way {
            Way::Fork => single(self.sandbox.as_fork().context("forks are missing")?.fork(1, &options)?)?,
            Way::Restore(memory) => {
                let options = sandbox::RestoreOptions { memory, ..options };
                kvm.restore(&self.folder, &options)?
            }
        };
        let ticked = clone.sandbox.console().wait_for(TICK, 0, PATIENCE);
        let first_tick = call.till_now();
        ticked.context("the clone does not tick")?;
        let timeline = clone.sandbox.timeline();
        if let Some(report) = report {
            let entry = call.to(&timeline, Phase::FirstEntry).context("it never ran")?;
            report.add_span(case, "call_to_first_entry", entry);
            if let Some(exit) = call.to(&timeline, Phase::FirstExit) {
                report.add_span(case, "call_to_first_exit", exit);
            }
            for stamp in timeline.entries() {
                if let Some(span) = call.to(&timeline, stamp.phase) {
                    report.add_span(case, &format!("call_to_phase_{}", stamp.phase.name()), span);
                }
            }
            report.add_span(case, "call_to_first_tick", first_tick);
            report.add_span(case, "teardown", tear_down(clone)?);
        } else {
            tear_down(clone)?;
        }
        Ok(())
    }
}

impl Parent {
    /// Many clones by one call: what each takes of it, until it is about to run.
    fn burst(&self, case: &str, report: &mut Report) -> Result<()> {
        let before = clock::now();
        let clones = self
            .sandbox
            .as_fork()
            .context("forks are missing")?
            .fork(BURST, &sandbox::RestoreOptions::default())?;
        let span = clock::now().since(before);
        let each = clock::Span {
            real: span.real / u64::from(BURST),
            cpu: span.cpu / u64::from(BURST),
        };
        report.add_span(case, "per_clone", each);
        for clone in clones {
            tear_down(clone)?;
        }
        Ok(())
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = self.sandbox.teardown().wait(PATIENCE);
    }
}
