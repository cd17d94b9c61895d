//! What a container is held to (OCI runtime-spec, "Control groups").

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder,
};
use sandbox_core::{Error, Result, SandboxSpec};

use super::Plan;
use crate::disks::DiskLimits;
use crate::runtime::Kind;

/// Time over which a processor quota is shared out, in microseconds: the kernel's default.
pub const CPU_PERIOD: u64 = 100_000;
/// Processes of a container unless the spec says otherwise: it bounds a fork bomb.
pub const DEFAULT_PIDS: u32 = 2048;

/// Processor time per [`CPU_PERIOD`], in microseconds: that of the spec's processors, or of its quota if that is less.
pub fn cpu_quota(spec: &SandboxSpec) -> u64 {
    let thousandths = u64::from(spec.vcpus) * 1000;
    let thousandths = spec
        .limits
        .cpu_quota
        .map_or(thousandths, |quota| thousandths.min(u64::from(quota)));
    thousandths * CPU_PERIOD / 1000
}

/// The resources that the runtime itself is to see to.
///
/// # Errors
/// A size that the kernel has no number for.
pub fn all(plan: &Plan<'_>) -> Result<Option<LinuxResources>> {
    // With gVisor the SDK makes the cgroup; without root's rights there is none.
    if plan.cgroup.is_none() {
        return Ok(None);
    }
    let limit =
        i64::try_from(plan.spec.memory).map_err(|_| Error::invalid("memory", "is more than any machine can have"))?;
    let mut memory = LinuxMemory::default();
    // Memory and swap together: what is beyond the limit is not to be had from a disk either.
    memory.set_limit(Some(limit)).set_swap(Some(limit));
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(i64::try_from(cpu_quota(plan.spec)).ok())
        .set_period(Some(CPU_PERIOD));
    let mut pids = LinuxPids::default();
    pids.set_limit(i64::from(plan.spec.limits.pids.unwrap_or(DEFAULT_PIDS)));
    let mut nothing = LinuxDeviceCgroup::default();
    nothing.set_allow(false).set_access(Some("rwm".to_owned()));
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(vec![nothing]))
        .set_memory(Some(memory))
        .set_cpu(Some(cpu))
        .set_pids(Some(pids));
    if !plan.disk_limits.disks.is_empty() {
        resources.set_block_io(Some(block_io(plan.disk_limits)));
    }
    if plan.is_unified && plan.kind != Kind::Runsc {
        // All of it ends when it is out of memory, not the process alone that the kernel picks.
        let group = HashMap::from([("memory.oom.group".to_owned(), "1".to_owned())]);
        resources.set_unified(Some(group));
    }
    Ok(Some(resources))
}

fn block_io(limits: &DiskLimits) -> LinuxBlockIo {
    let throttled = |rate: Option<u64>| -> Option<Vec<LinuxThrottleDevice>> {
        let on = |(major, minor): &(i64, i64)| {
            let device = LinuxThrottleDeviceBuilder::default().major(*major).minor(*minor);
            device.rate(rate?).build().ok()
        };
        rate.map(|_| limits.disks.iter().filter_map(on).collect())
    };
    let mut block_io = LinuxBlockIo::default();
    block_io
        .set_throttle_read_bps_device(throttled(limits.read.bytes))
        .set_throttle_read_iops_device(throttled(limits.read.operations))
        .set_throttle_write_bps_device(throttled(limits.write.bytes))
        .set_throttle_write_iops_device(throttled(limits.write.operations));
    block_io
}
