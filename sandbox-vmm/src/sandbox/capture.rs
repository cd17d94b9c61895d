//! Standing still for a snapshot or a fork.

use std::sync::{Arc, Mutex, PoisonError};

use sandbox_core::{Error, ErrorKind, Result, State, Verb};

use super::life::{Holding, Life};
use crate::devices::persist::Frozen;
use crate::machine::Machine;
use crate::machine::host::KvmHost;
use crate::machine::vcpu::Vcpu;
use crate::machine::vcpu_state::{VcpuState, VcpuStateError, share_tsc};
use crate::memory::GuestMemory;
use crate::memory::image::FreezeError;
use crate::snapshot::saved::SavedMachine;

/// A machine that stands still for as long as this is lent: neither a vCPU nor a device touches its memory.
pub struct Captured<'a> {
    /// All but its memory.
    pub saved: SavedMachine,
    /// The machine, with its memory.
    pub machine: &'a Machine,
}

/// Why the work on a captured machine failed.
pub enum CaptureError {
    /// The guest can go on.
    Harmless(Error),
    /// It cannot.
    Fatal(Error),
}

impl From<Error> for CaptureError {
    fn from(error: Error) -> Self {
        Self::Harmless(error)
    }
}

impl From<FreezeError> for CaptureError {
    fn from(error: FreezeError) -> Self {
        let fatal = matches!(error, FreezeError::Map(_));
        let error = Error::new(ErrorKind::HostExhausted, "the guest's memory cannot be shared").with_source(error);
        match fatal {
            true => Self::Fatal(error),
            false => Self::Harmless(error),
        }
    }
}

impl Captured<'_> {
    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        self.machine.vm.memory()
    }
}

impl Life {
    /// Has the guest stand still where it is, running or paused, lends it to `work`, and lets it go on as it was, unless
    /// it is to `stay` held. The state does not change, and nobody can change it meanwhile.
    ///
    /// # Errors
    /// The wrong state, a guest that ends at the same time, and those of `work`; after one that is fatal the sandbox has
    /// failed.
    pub(super) fn capture<T>(
        &self,
        verb: Verb,
        host: &Arc<KvmHost>,
        stay: bool,
        work: impl FnOnce(Captured<'_>) -> std::result::Result<T, CaptureError>,
    ) -> Result<T> {
        let mut lifecycle = self.lifecycle();
        lifecycle.check(verb)?;
        let was_running = lifecycle.state() == State::Running;
        if was_running && !self.crew.hold() {
            return Err(self.is_ending(verb));
        }
        let result = self.lend(verb, host, work);
        let stay = stay && result.is_ok();
        if was_running && !stay {
            self.crew.release();
        }
        result.map_err(|error| match error {
            CaptureError::Harmless(error) => error,
            CaptureError::Fatal(error) => {
                self.break_down(&mut lifecycle, error.report());
                error
            }
        })
    }

    fn lend<T>(
        &self,
        verb: Verb,
        host: &Arc<KvmHost>,
        work: impl FnOnce(Captured<'_>) -> std::result::Result<T, CaptureError>,
    ) -> std::result::Result<T, CaptureError> {
        let holding = self.holding();
        let machine = match &*holding {
            Holding::Assembled(assembly) => &assembly.machine,
            Holding::Launched(machine) => machine,
            Holding::Nothing => return Err(self.is_ending(verb).into()),
        };
        if machine.hvt.is_some() {
            let context = "a Solo5 guest cannot be saved: its disks and cards have no state that is";
            return Err(CaptureError::Harmless(Error::unsupported(
                "guest.unikernel.family",
                context,
            )));
        }
        let mut devices = Frozen::new(machine);
        let device_state = devices.save();
        let vm = machine.vm.save(self.origin.chipset).map_err(Error::from)?;
        let irqchip = self.origin.chipset.irqchip;
        let vcpus: std::result::Result<Vec<VcpuState>, VcpuStateError> = match &*holding {
            Holding::Assembled(assembly) => assembly
                .vcpus
                .iter()
                .map(|vcpu| VcpuState::save(host, vcpu, irqchip))
                .collect(),
            _ => self.vcpus_by_their_threads(verb, host, irqchip)?,
        };
        let mut vcpus = vcpus.map_err(Error::from)?;
        share_tsc(&mut vcpus);
        let saved = SavedMachine {
            origin: self.origin.clone(),
            ready: self.ready.is_given(),
            vm,
            vcpus,
            devices: device_state,
        };
        // The devices stay frozen until the work is done.
        let result = work(Captured { saved, machine });
        drop(devices);
        result
    }

    /// Has each held vCPU thread read its vCPU.
    fn vcpus_by_their_threads(
        &self,
        verb: Verb,
        host: &Arc<KvmHost>,
        irqchip: bool,
    ) -> Result<std::result::Result<Vec<VcpuState>, VcpuStateError>> {
        type Read = Vec<Option<std::result::Result<VcpuState, VcpuStateError>>>;
        let count = self.crew.members().len();
        let read: Arc<Mutex<Read>> = Arc::new(Mutex::new((0..count).map(|_| None).collect()));
        let places = Arc::clone(&read);
        let host = Arc::clone(host);
        let errand = move |vcpu: &Vcpu| {
            let state = VcpuState::save(&host, vcpu, irqchip);
            if let Some(place) = places
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_mut(vcpu.id as usize)
            {
                *place = Some(state);
            }
        };
        if !self.crew.run_errand(Arc::new(errand)) {
            return Err(self.is_ending(verb));
        }
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        let states: Option<Vec<_>> = read.iter_mut().map(Option::take).collect();
        // A thread that left before has no state to give: its guest is ending.
        let states = states.ok_or_else(|| self.is_ending(verb))?;
        Ok(states.into_iter().collect())
    }

    fn is_ending(&self, verb: Verb) -> Error {
        let context = format!("cannot {verb} a sandbox whose guest is ending");
        Error::new(ErrorKind::WrongState, context)
    }
}
