//! From a spec to a machine that is ready to be entered.
//!
//! What can be refused is refused first: the spec, the kernel, the command line, every file and interface that is
//! named. Only then is the VM made, in the order that was measured to be the quickest. Whatever fails, everything made
//! so far is dropped on the way out.

mod devices;
mod disk;
mod hvt;
mod network;
mod opened;
mod others;
mod revive;

use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use sandbox_core::limits::Limits;
use sandbox_core::spec::{BootProtocol, HugePages as HugePagesSpec, Isolation, SandboxSpec};
use sandbox_core::{Error, ErrorKind, Phase, Result};

use vm_memory::{Bytes, GuestAddress};

use crate::acpi::{AcpiConfig, EventDevice, GENERATION_ID_START, TableCache, VirtioNode};
use crate::boot::cmdline::{CommandLine, virtio_mmio_token};
use crate::boot::store::{InitrdStore, KernelStore, Placement, StoredInitrd, StoredKernel};
use crate::boot::{self, BootError, BootParameters, Entry, Protocol};
use crate::devices::legacy::{LegacyDevices, PortMap, SERIAL_GSI};
use crate::devices::mmio_bus::MmioBus;
use crate::dialect::{self, BootPlan, Discovery, Identification};
use crate::error::{BootFields, boot_error, with_cause};
use crate::machine::Machine;
use crate::machine::cpuid::{CpuidConfig, CpuidTemplate};
use crate::machine::host::{KvmError, KvmHost};
use crate::machine::shell::{Shell, ShellKind, Shells};
use crate::machine::vcpu::Vcpu;
use crate::machine::vm::{Chipset, GsiLine, Vm};
use crate::memory::fault_server::{FaultRights, FaultServer};
use crate::memory::layout::MMIO_WINDOW_SIZE;
use crate::memory::{GuestMemory, HugePages};
use crate::random::random_bytes;
use crate::renewal::Channel;
use crate::sandbox::life::Assembly;
use crate::sandbox::{Counters, Outlets};
use crate::snapshot::saved::Origin;
use crate::worker;
use devices::{DeviceSet, EVENT_GSI, POWER_BUTTON_GSI, Slot};
pub use network::{OpenNetwork, open_tap};
pub use opened::{OpenDevices, Opened, Prepared, open, open_devices};
pub use revive::{MemorySource, Revival, Revived, revive};

/// Guests below this have small pages unless the spec says otherwise, in bytes.
const SMALL_GUEST: u64 = 64 << 20;
/// Size of a generation identifier, in bytes.
const GENERATION_ID_SIZE: usize = 16;
/// `IA32_MISC_ENABLE`, bit 0: fast string operations.
const MSR_MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// `IA32_MTRR_DEF_TYPE`: MTRRs enabled, write-back by default. Without it Linux maps its memory uncached, or says so.
const MSR_MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 0x806);

/// What sandboxes of one backend share, so that only the first of a kind pays for it.
#[derive(Default)]
pub struct Library {
    kernels: KernelStore,
    initrds: InitrdStore,
    tables: TableCache,
    /// VMs without a guest.
    pub shells: Shells,
}

impl Library {
    /// Reads the files of `spec` that guests are loaded from.
    pub fn preload(&self, spec: &SandboxSpec) -> Result<()> {
        let kernel = self.kernel(spec)?;
        let plan = dialect::select(spec, kernel.image())?.plan(spec, kernel.image())?;
        self.initrd(&plan).map(drop)
    }

    /// What the shell of a guest by `spec` is like.
    pub fn shell_kind(&self, spec: &SandboxSpec) -> Result<ShellKind> {
        let kernel = self.kernel(spec)?;
        let plan = dialect::select(spec, kernel.image())?.plan(spec, kernel.image())?;
        Ok(shell_kind(spec, plan.chipset, plan.dense_memory))
    }

    /// What the kernel file of `spec` is recognised as.
    pub fn identify(&self, spec: &SandboxSpec) -> Result<Identification> {
        dialect::identify(self.kernel(spec)?.image())
    }

    fn kernel(&self, spec: &SandboxSpec) -> Result<Arc<StoredKernel>> {
        let (path, field) = dialect::kernel_file(spec)?;
        let fields = BootFields {
            kernel: field,
            initrd: "guest",
            cmdline: "guest",
        };
        self.kernels.open(path).map_err(|error| boot_error(error, &fields))
    }

    fn initrd(&self, plan: &BootPlan<'_>) -> Result<Option<Arc<StoredInitrd>>> {
        let stored = plan.initrd.map(|(path, _)| self.initrds.open(path));
        stored.transpose().map_err(|error| boot_error(error, &fields(plan)))
    }
}

/// What a sandbox is made of.
pub struct Parts {
    /// The machine and its vCPUs.
    pub assembly: Assembly,
    /// What the devices count.
    pub counters: Counters,
}

/// What follows from a spec and its kernel before anything is made.
pub struct Draft<'a> {
    plan: BootPlan<'a>,
    protocol: Protocol,
    slots: Vec<Slot>,
    cmdline: CommandLine,
    cpuid: CpuidTemplate,
}

impl<'a> Draft<'a> {
    /// Decides all that can be decided without the devices' host resources.
    pub fn new(host: &KvmHost, spec: &'a SandboxSpec, plan: BootPlan<'a>, kernel: &StoredKernel) -> Result<Self> {
        let protocol = protocol(&plan, kernel)?;
        let slots = match plan.hvt {
            true => Vec::new(),
            false => devices::slots(spec)?,
        };
        let cmdline = command_line(&plan, kernel, &slots)?;
        let cpuid = CpuidTemplate::new(
            host.supported_cpuid(),
            &CpuidConfig {
                vcpus: spec.vcpus,
                tsc_deadline: host.has_tsc_deadline() && plan.chipset.irqchip,
                mask: &spec.cpu.mask,
            },
        )?;
        refuse_missing_instructions(&plan, &cpuid)?;
        Ok(Self {
            plan,
            protocol,
            slots,
            cmdline,
            cpuid,
        })
    }

    /// What a machine by `spec` is made by.
    pub fn origin(&self, spec: &SandboxSpec) -> Origin {
        origin(spec, &self.plan)
    }

    /// Whether its kernel comes on demand, where that can be.
    pub fn is_loaded_on_demand(&self, spec: &SandboxSpec) -> bool {
        !self.plan.hvt && huge_pages_of(spec, self.plan.dense_memory) == HugePages::Transparent
    }

    /// Whether the guest is a Solo5 one.
    pub fn has_hypercalls_only(&self) -> bool {
        self.plan.hvt
    }
}

/// Makes everything that `spec` describes, by the draft that was made for it and of what was opened for it.
pub fn assemble(
    host: &KvmHost,
    library: &Library,
    spec: &SandboxSpec,
    draft: &Draft<'_>,
    opened: Opened,
    outlets: &Outlets,
) -> Result<Parts> {
    if draft.plan.hvt {
        return hvt::assemble(host, library, (spec, draft), opened, outlets);
    }
    let recorder = &outlets.recorder;
    let plan = &draft.plan;
    let devices = DeviceSet::new(spec, opened.devices, outlets)?;
    recorder.record(Phase::SpecChecked);

    let kind = shell_kind(spec, plan.chipset, plan.dense_memory);
    let Shell { vm, vcpus } = library.shells.take(host, &kind, recorder)?;
    let memory = vm.memory().clone();
    let handover = Handover {
        kernel: &opened.kernel,
        huge_pages: kind.huge_pages,
        initrd: opened.initrd.as_deref(),
        cmdline: &draft.cmdline,
        slots: &draft.slots,
        vcpus: spec.vcpus,
    };
    let loader = load_kernel(&memory, &handover, opened.faults).map_err(|error| boot_error(error, &fields(plan)))?;
    let entry = load(&memory, plan, draft.protocol, &handover, &library.tables)?;
    recorder.record(Phase::KernelLoaded);
    let mut machine = new_machine(host, vm, (plan.ports, plan.renewal), outlets);
    machine.loader = loader;
    let counters = devices.install(&mut machine, &draft.slots);
    recorder.record(Phase::DevicesReady);
    let vcpus = tell_vcpus(host, vcpus, draft)?;
    set_entry(host, &vcpus[0], &entry)?;
    recorder.record(Phase::VcpusReady);
    Ok(Parts {
        assembly: Assembly {
            machine,
            vcpus,
            deadline: spec.limits.deadline_ms.map(Duration::from_millis),
            origin: origin(spec, plan),
            revived: None,
        },
        counters,
    })
}

/// What the VM of a sandbox is like.
pub fn shell_kind(spec: &SandboxSpec, chipset: Chipset, dense_memory: bool) -> ShellKind {
    ShellKind {
        memory: spec.memory,
        huge_pages: huge_pages_of(spec, dense_memory),
        track_dirty: spec.track_dirty,
        chipset,
        vcpus: spec.vcpus,
    }
}

fn origin(spec: &SandboxSpec, plan: &BootPlan<'_>) -> Origin {
    Origin {
        spec: spec.clone(),
        chipset: plan.chipset,
        ports: plan.ports,
        renewal: plan.renewal,
        dense_memory: plan.dense_memory,
    }
}

/// A machine with the devices at fixed ports, and no others.
fn new_machine(host: &KvmHost, vm: Arc<Vm>, (ports, renewal): (PortMap, Channel), outlets: &Outlets) -> Machine {
    let console = Arc::clone(&outlets.console);
    let serial_line = Box::new(GsiLine::new(Arc::clone(&vm), SERIAL_GSI));
    Machine {
        ports: LegacyDevices::new(Arc::clone(&console), serial_line, ports),
        mmio: MmioBus::default(),
        devices: Vec::new(),
        console,
        software_kvm: host.is_software(),
        hvt: None,
        power_button: has_power_button(renewal).then(|| GsiLine::new(Arc::clone(&vm), POWER_BUTTON_GSI)),
        vm,
        pager: None,
        loader: None,
    }
}

/// Whether the guest is asked to end by its power button: it is if it listens to the generic event device at all.
fn has_power_button(renewal: Channel) -> bool {
    renewal == Channel::GenerationId
}

/// How much console output is kept, in bytes.
pub fn console_capacity(spec: &SandboxSpec) -> usize {
    usize::try_from(spec.limits.console_bytes).unwrap_or(usize::MAX)
}

/// Refuses what this host and this home of micro-VMs cannot hold.
pub fn refuse_what_is_missing(host: &KvmHost, spec: &SandboxSpec) -> Result<()> {
    if spec.vcpus as usize > host.max_vcpus() {
        let context = format!("is {}; this host's KVM takes at most {}", spec.vcpus, host.max_vcpus());
        return Err(Error::unsupported("vcpus", context));
    }
    let Limits {
        cpu_quota,
        pids,
        disk_read,
        disk_write,
        ..
    } = &spec.limits;
    if cpu_quota.is_some() && spec.isolation == Isolation::InProcess {
        let context = "cannot be held for a micro-VM in the embedder's own process; say worker, or put the process into a \
                       cgroup";
        return Err(Error::unsupported("limits.cpu_quota", context));
    }
    if let Some(pids) = pids {
        refuse_pids(u64::from(*pids), spec)?;
    }
    for (field, limit) in [("limits.disk_read", disk_read), ("limits.disk_write", disk_write)] {
        if !limit.is_none() {
            let context = "is for containers; each disk of a micro-VM has a rate_limit of its own";
            return Err(Error::unsupported(field, context));
        }
    }
    Ok(())
}

/// The processes of a guest are its own kernel's; the host counts those of its worker.
fn refuse_pids(pids: u64, spec: &SandboxSpec) -> Result<()> {
    let least = worker::least_threads(spec);
    let context = match spec.isolation {
        Isolation::InProcess => {
            "a micro-VM in the embedder's own process has none of the host to count; say worker".into()
        }
        Isolation::Worker if pids < least => format!("is {pids}; the worker of this micro-VM has {least} threads"),
        Isolation::Worker => return Ok(()),
    };
    Err(Error::unsupported("limits.pids", context))
}

fn fields(plan: &BootPlan<'_>) -> BootFields {
    BootFields {
        kernel: plan.kernel.1,
        initrd: plan.initrd.map_or("guest", |(_, field)| field),
        cmdline: plan.cmdline_field,
    }
}

fn protocol(plan: &BootPlan<'_>, kernel: &StoredKernel) -> Result<Protocol> {
    let image = kernel.image();
    let protocol = match plan.protocol {
        _ if plan.hvt => Protocol::Hvt,
        BootProtocol::Linux64 => Protocol::Linux64,
        BootProtocol::Pvh => Protocol::Pvh,
        BootProtocol::Auto if image.linux_entry.is_some() => Protocol::Linux64,
        BootProtocol::Auto => Protocol::Pvh,
    };
    let has_entry = match protocol {
        Protocol::Linux64 => image.linux_entry.is_some(),
        Protocol::Pvh => image.pvh_entry.is_some(),
        Protocol::Hvt => image.hvt_entry.is_some(),
    };
    match has_entry {
        true => Ok(protocol),
        false => Err(boot_error(BootError::NoSuchEntry { protocol }, &fields(plan))),
    }
}

fn command_line(plan: &BootPlan<'_>, kernel: &StoredKernel, slots: &[Slot]) -> Result<CommandLine> {
    let mut tokens: Vec<String> = match plan.discovery {
        Discovery::Acpi => Vec::new(),
        Discovery::CommandLine => slots
            .iter()
            .map(|slot| virtio_mmio_token(slot.window, slot.gsi))
            .collect(),
    };
    tokens.extend(plan.renewal.token());
    let limit = kernel.image().cmdline_limit();
    CommandLine::new(&plan.cmdline, &tokens, limit).map_err(|error| boot_error(error, &fields(plan)))
}

/// Refuses a kernel that would end at once because the processor, or what of it the spec does not hide, lacks an
/// instruction that the kernel takes its random numbers from.
fn refuse_missing_instructions(plan: &BootPlan<'_>, cpuid: &CpuidTemplate) -> Result<()> {
    let missing = [
        (
            "RDRAND",
            plan.executes.rdrand && cpuid.feature_word(1, |leaf| leaf.ecx) & (1 << 30) == 0,
        ),
        (
            "RDSEED",
            plan.executes.rdseed && cpuid.feature_word(7, |leaf| leaf.ebx) & (1 << 18) == 0,
        ),
    ];
    match missing.into_iter().find(|(_, missing)| *missing) {
        None => Ok(()),
        Some((name, _)) => {
            let context = format!(
                "takes its random numbers from the instruction {name}, which this host's processor lacks or cpu.mask \
                 hides; use another host, or build the image without it"
            );
            Err(Error::unsupported(plan.kernel.1, context))
        }
    }
}

fn huge_pages_of(spec: &SandboxSpec, dense_memory: bool) -> HugePages {
    match spec.huge_pages {
        HugePagesSpec::Never => HugePages::Never,
        HugePagesSpec::Transparent => HugePages::Transparent,
        HugePagesSpec::Auto if dense_memory && spec.memory >= SMALL_GUEST => HugePages::Transparent,
        HugePagesSpec::Auto => HugePages::Never,
    }
}

/// A kernel in huge pages is copied, if it cannot come on demand: a mapped page can only be a small one, and Linux
/// rewrites most of its own text when it starts, at the price of several page faults for each. In small pages it is
/// mapped: the first instruction comes sooner, and what is not written is shared.
fn kernel_placement(huge_pages: HugePages) -> Placement {
    match huge_pages {
        HugePages::Never => Placement::Mapped,
        HugePages::Transparent => Placement::Copied,
    }
}

/// What goes into guest memory before it runs.
struct Handover<'a> {
    kernel: &'a Arc<StoredKernel>,
    huge_pages: HugePages,
    initrd: Option<&'a StoredInitrd>,
    cmdline: &'a CommandLine,
    slots: &'a [Slot],
    vcpus: u32,
}

/// Writes all that goes into guest memory beside the kernel.
fn load(
    memory: &GuestMemory,
    plan: &BootPlan<'_>,
    protocol: Protocol,
    handover: &Handover<'_>,
    tables: &TableCache,
) -> Result<Entry> {
    let failed = |error| boot_error(error, &fields(plan));
    let image = handover.kernel.image();
    let initrd = handover
        .initrd
        .map(|initrd| boot::initrd::load_stored(initrd, image, memory));
    let rsdp = match plan.discovery {
        Discovery::Acpi => Some(write_acpi(memory, plan, handover, tables)?),
        Discovery::CommandLine => None,
    };
    let parameters = BootParameters {
        kernel: image,
        cmdline: handover.cmdline,
        initrd: initrd.transpose().map_err(failed)?,
        rsdp,
        memory_map: plan.memory_map,
    };
    boot::prepare(memory, protocol, &parameters).map_err(failed)
}

/// In huge pages a kernel comes on demand where this process may serve page faults, and is copied where not.
fn load_kernel(
    memory: &GuestMemory,
    handover: &Handover<'_>,
    rights: FaultRights,
) -> std::result::Result<Option<FaultServer>, BootError> {
    if handover.huge_pages == HugePages::Transparent {
        match boot::loader::load_on_demand(handover.kernel, memory, rights) {
            Ok(server) => return Ok(Some(server)),
            Err(error) => tracing::debug!(%error, "the kernel is copied ahead of time"),
        }
    }
    let placement = kernel_placement(handover.huge_pages);
    boot::load::load_with(handover.kernel, memory, placement).map(|()| None)
}

fn write_acpi(memory: &GuestMemory, plan: &BootPlan<'_>, handover: &Handover<'_>, tables: &TableCache) -> Result<u64> {
    let node = |slot: &Slot| VirtioNode {
        window: slot.window,
        size: MMIO_WINDOW_SIZE,
        gsi: slot.gsi,
    };
    let config = AcpiConfig {
        // Validated to be at most 32.
        vcpus: handover.vcpus as u8,
        virtio: handover.slots.iter().map(node).collect(),
        serial: true,
        rtc: true,
        keyboard_controller: false,
        events: Some(EventDevice {
            gsi: EVENT_GSI,
            generation_id: Some(GENERATION_ID_START),
            power_button: has_power_button(plan.renewal).then_some(POWER_BUTTON_GSI),
        }),
    };
    let generation = random_bytes::<GENERATION_ID_SIZE>().map_err(|error| {
        let context = "the host gives no random numbers for the generation identifier";
        Error::new(ErrorKind::HostFailure, context).with_source(error)
    })?;
    memory
        .write_slice(&generation, GuestAddress(GENERATION_ID_START))
        .map_err(|error| {
            let context = "cannot write the generation identifier to guest memory";
            Error::new(ErrorKind::HostFailure, context).with_source(error)
        })?;
    tables
        .write(memory, &config)
        .map_err(|error| with_cause(ErrorKind::HostFailure, error))
}

/// The vCPUs. All but the first wait for their start-up interrupt.
fn tell_vcpus(host: &KvmHost, fds: Vec<VcpuFd>, draft: &Draft<'_>) -> Result<Vec<Vcpu>> {
    let mut vcpus = Vec::with_capacity(fds.len());
    for (id, fd) in (0..).zip(fds) {
        let tsc_khz = match draft.plan.timing_leaf {
            true => host.tsc_khz(&fd),
            false => None,
        };
        let leaves = draft.cpuid.for_vcpu(id, tsc_khz)?;
        fd.set_cpuid2(&leaves).map_err(KvmError::call("KVM_SET_CPUID2"))?;
        if draft.plan.firmware_msrs {
            set_firmware_msrs(&fd)?;
        }
        vcpus.push(Vcpu { fd, id, cpuid: leaves });
    }
    Ok(vcpus)
}

fn set_firmware_msrs(vcpu: &VcpuFd) -> Result<()> {
    let entries = [MSR_MISC_ENABLE, MSR_MTRR_DEF_TYPE].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let too_many = |_| Error::new(ErrorKind::HostFailure, "the list of MSRs is too long");
    let msrs = Msrs::from_entries(&entries).map_err(too_many)?;
    vcpu.set_msrs(&msrs).map_err(KvmError::call("KVM_SET_MSRS"))?;
    Ok(())
}

/// Where the boot vCPU begins.
fn set_entry(host: &KvmHost, boot: &Vcpu, entry: &Entry) -> Result<()> {
    let reset = host.reset_sregs(&boot.fd)?;
    boot.fd
        .set_sregs(&entry.sregs(&reset))
        .map_err(KvmError::call("KVM_SET_SREGS"))?;
    boot.fd
        .set_regs(&entry.regs())
        .map_err(KvmError::call("KVM_SET_REGS"))?;
    Ok(())
}
