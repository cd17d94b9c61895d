//! Cold starts of each family's stand-in: from the call to the guest's own line, in a VM that is made then and in one
//! that was made ahead of time; and many at once.

use std::thread;

use anyhow::{Context, Result, ensure};
use sandbox::spec::{DiskSpec, GuestSpec, Isolation, ReadyCheck, UnikernelGuest};
use sandbox::{Runtime, Sandbox, SandboxSpec};

use crate::Options;
use crate::clock;
use crate::cold_start::{Image, PATIENCE, WARM_UP, add_timeline, cold_start, runtime};
use crate::report::Report;

/// How many start at once.
const BURST: usize = 30;
/// As small as what the stand-ins check of it allows.
const FILE_BYTES: usize = 64 << 10;

/// A family's stand-in.
struct StandIn {
    name: &'static str,
    spec: SandboxSpec,
    /// Its files, which go with it.
    _files: Vec<Image>,
}

impl StandIn {
    /// The guest `name` in `memory` MiB, which prints `marker` when it is up.
    fn new(name: &'static str, memory: u64, marker: &str) -> Result<Self> {
        let (_, image) = sandbox_guests::all()
            .iter()
            .find(|(known, _)| *known == name)
            .with_context(|| format!("there is no guest {name}"))?;
        let image = Image::write(name, image)?;
        let mut spec = SandboxSpec::new(GuestSpec::Unikernel(UnikernelGuest {
            image: image.path().to_owned(),
            ..Default::default()
        }));
        spec.isolation = Isolation::InProcess;
        spec.memory = memory << 20;
        spec.ready = Some(ReadyCheck::Console {
            marker: marker.to_owned(),
        });
        Ok(Self {
            name,
            spec,
            _files: vec![image],
        })
    }

    fn with_disk(mut self) -> Result<Self> {
        let file = Image::write("disk", &[0; FILE_BYTES])?;
        self.spec.disks.push(DiskSpec {
            id: "root".to_owned(),
            path: file.path().to_owned(),
            ..Default::default()
        });
        self._files.push(file);
        Ok(self)
    }

    fn with_application(mut self) -> Result<Self> {
        let file = Image::write("application", &[1; FILE_BYTES])?;
        let path = file.path().to_owned();
        self._files.push(file);
        Ok(self.changed(|guest| guest.initrd = Some(path)))
    }

    fn changed(mut self, change: impl FnOnce(&mut UnikernelGuest)) -> Self {
        if let GuestSpec::Unikernel(guest) = &mut self.spec.guest {
            change(guest);
        }
        self
    }

    fn all() -> Result<[Self; 5]> {
        Ok([
            Self::new("as-unikraft", 2, "as-unikraft: ok")?,
            Self::new("as-nanos", 11, "as-nanos: ok")?.with_disk()?,
            Self::new("as-osv", 14, "as-osv: ok")?.changed(|guest| guest.args.push("/program".to_owned())),
            Self::new("as-hermit", 10, "as-hermit: ok")?.with_application()?,
            Self::new("hvt-plain", 4, "hvt-plain: ")?,
        ])
    }
}

/// All families in turn, cold and from the pool, then a burst.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let guests = StandIn::all()?;
    let (cold, pooled) = (runtime(0), runtime(0));
    for guest in &guests {
        pooled.kvm()?.keep_shells(&guest.spec, 1)?;
    }
    for round in 0..options.rounds + WARM_UP {
        for guest in &guests {
            let made = pooled.kvm()?.wait_for_shells(&guest.spec, 1, PATIENCE)?;
            ensure!(made, "no virtual machine could be made ahead for {}", guest.name);
            for (way, runtime) in [("cold", &cold), ("pool", &pooled)] {
                let case = format!("sdk/{}/in_process/{way}", guest.name);
                let start = cold_start(runtime, &guest.spec)?;
                ensure!(start.exit.is_success(), "{case}: ended by {}", start.exit);
                if round >= WARM_UP {
                    add_timeline(report, &case, &start);
                }
            }
        }
        if round >= WARM_UP {
            let case = format!("sdk/as-unikraft/in_process/{BURST}-at-once");
            report.add_span(&case, "first_call_to_last_exit", burst(&cold, &guests[0].spec)?);
        }
    }
    Ok(())
}

/// From the first call until all have ended.
fn burst(runtime: &Runtime, spec: &SandboxSpec) -> Result<clock::Span> {
    let before = clock::now();
    let one = || -> Result<Box<dyn Sandbox>> {
        let sandbox = runtime.create(spec)?;
        sandbox.start()?;
        let exit = sandbox.wait(Some(PATIENCE))?;
        ensure!(exit.is_success(), "one of {BURST} ended by {exit}");
        Ok(sandbox)
    };
    let ended = thread::scope(|scope| {
        let threads: Vec<_> = (0..BURST).map(|_| scope.spawn(one)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().ok().context("a thread panicked")?;
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let span = clock::now().since(before);
    for sandbox in ended {
        sandbox.teardown().wait(PATIENCE)?;
    }
    Ok(span)
}
