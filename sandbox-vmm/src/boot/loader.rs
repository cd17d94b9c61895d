//! A kernel that comes into guest memory as the guest asks for it, 2 MiB at a time.
//!
//! In huge pages a kernel cannot be mapped: a page of a file is a small one, and Linux rewrites most of its own text when
//! it starts, at the price of two or three nested page faults for each. Copied ahead of time, it keeps the guest
//! waiting for its first instruction. So a thread of ours serves the faults of the pages that the kernel fills: each
//! brings the whole 2 MiB around it, as one huge page, and what the guest never looks at is never copied.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::load::check_room;
use super::store::StoredKernel;
use crate::memory::extent::{self, Extent};
use crate::memory::fault_server::{self, FaultRights, FaultServer, FaultService, Woken};
use crate::memory::userfault::Userfault;
use crate::memory::{GuestMemory, HUGE_PAGE_SIZE, HostMapping, HugePages};

/// What one fault brings, in bytes.
const UNIT: u64 = HUGE_PAGE_SIZE as u64;

/// Has `kernel` come into `memory`, which is fresh, as it is asked for. The server must live as long as anybody uses
/// that memory.
///
/// # Errors
/// This process may not serve page faults of KVM, or the kernel's place cannot be cut into huge pages. The memory is as
/// it was.
pub fn load_on_demand(
    kernel: &Arc<StoredKernel>,
    memory: &GuestMemory,
    rights: FaultRights,
) -> io::Result<FaultServer> {
    let (device, confine): (_, Box<dyn FnOnce() + Send>) = match rights {
        FaultRights::None => return Err(io::ErrorKind::PermissionDenied.into()),
        FaultRights::Own => (None, Box::new(|| ())),
        FaultRights::Handed { device, confine } => (Some(device), confine),
    };
    check_room(kernel, memory).map_err(io::Error::other)?;
    // The thread, confined, could not map it.
    kernel.content().bytes()?;
    let missing = units(kernel, memory).ok_or(io::ErrorKind::Unsupported)?;
    let staging = HostMapping::anonymous(UNIT, HugePages::Transparent)?;
    let runs = extent::union(&missing, &[]);
    let userfault = Userfault::register_parts(device.as_ref(), memory.mapping(), &runs)?;
    let loader = Loader {
        userfault,
        memory: memory.clone(),
        kernel: Arc::clone(kernel),
        missing,
        staging,
    };
    let server = FaultServer::start(loader, confine)?;
    memory.mapping().note_content(&runs);
    for run in runs {
        // Otherwise the kernel prepares a huge page for each fault that it then hands to us.
        memory.mapping().advise_small_pages(run)?;
    }
    Ok(server)
}

/// The huge pages that the kernel fills wholly or in part, by their place in the mapping.
fn units(kernel: &StoredKernel, memory: &GuestMemory) -> Option<Vec<Extent>> {
    let mut units: Vec<Extent> = Vec::new();
    for (address, len) in kernel.content().places()? {
        let offset = memory.mapping_offset(address, len)?;
        let first = offset - offset % UNIT;
        for offset in (first..offset + len).step_by(HUGE_PAGE_SIZE) {
            let inside = memory.mapping_offset(offset, UNIT) == Some(offset);
            match units.last() {
                _ if !inside => return None,
                Some(last) if last.offset == offset => {}
                _ => units.push(Extent { offset, len: UNIT }),
            }
        }
    }
    Some(units)
}

struct Loader {
    // The mapping must outlive the registration.
    userfault: Userfault,
    memory: GuestMemory,
    kernel: Arc<StoredKernel>,
    /// What nobody has asked for yet.
    missing: Vec<Extent>,
    /// Where a huge page is filled before it is put in its place.
    staging: HostMapping,
}

impl FaultService for Loader {
    fn serve(&mut self, stop: &EventFd) -> io::Result<()> {
        while !self.missing.is_empty() {
            match fault_server::wait(stop, &self.userfault, -1)? {
                Woken::Stop => return Ok(()),
                Woken::Fault => {
                    while let Some(offset) = self.userfault.next()? {
                        self.load(offset - offset % UNIT)?;
                    }
                }
                Woken::Nothing => {}
            }
        }
        Ok(())
    }

    fn userfault(&self) -> &Userfault {
        &self.userfault
    }

    fn failed(&self) -> &'static str {
        "the host has no memory for the guest's kernel"
    }
}

impl Loader {
    /// Puts the huge page at `offset` in its place, unless it is there, and lets go on who waits for it.
    fn load(&mut self, offset: u64) -> io::Result<()> {
        if let Some(index) = self.missing.iter().position(|unit| unit.offset == offset) {
            let unit = self.missing.swap_remove(index);
            // Below the gap, guest memory stands in the mapping as the guest sees it.
            self.kernel.content().copy_to(unit.offset, &self.staging)?;
            self.memory.mapping().take_pages(unit.offset, &self.staging)?;
        }
        self.userfault.wake(Extent { offset, len: UNIT })
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::boot::load::load;
    use crate::boot::test_support::ElfBuilder;

    const SIZE: u64 = 16 << 20;

    /// 5 MB of code from 3 MiB on, and data behind a gap.
    fn kernel() -> Arc<StoredKernel> {
        let code: Vec<u8> = (0..5_000_000u32).map(|index| (index % 251) as u8).collect();
        let file = ElfBuilder::new(0x30_0000)
            .segment(0x30_0000, &code, code.len() as u64)
            .segment(0xc0_0000, &[7; 0x10_0000], 0x20_0000)
            .build();
        Arc::new(StoredKernel::from_bytes(&file).unwrap())
    }

    fn memory() -> GuestMemory {
        GuestMemory::new(SIZE, HugePages::Transparent, false).unwrap()
    }

    fn content(memory: &GuestMemory) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    fn resident(memory: &GuestMemory) -> u64 {
        memory.mapping().resident_bytes().unwrap()
    }

    #[test]
    fn a_kernel_that_comes_on_demand_is_the_one_that_is_mapped() {
        let (kernel, on_demand, mapped) = (kernel(), memory(), memory());
        // Not every host lets a process serve faults; the kernel is copied then.
        let Ok(server) = load_on_demand(&kernel, &on_demand, FaultRights::Own) else {
            return;
        };
        load(&kernel, &mapped).unwrap();
        let noted = on_demand.mapping().overlays();
        assert!(content(&on_demand) == content(&mapped));
        let places = extent::union(&noted, &on_demand.private_pages().unwrap());
        assert!(extent::total(&places) >= 0x60_0000, "a snapshot would miss some of it");
        drop(server);
        assert!(content(&on_demand) == content(&mapped), "it stays without the server");
    }

    #[test]
    fn only_what_is_asked_for_takes_memory() {
        let memory = memory();
        let Ok(_server) = load_on_demand(&kernel(), &memory, FaultRights::Own) else {
            return;
        };
        assert_eq!(resident(&memory), 0);
        assert_eq!(
            memory.read_obj::<u8>(GuestAddress(0x40_0001)).unwrap(),
            ((0x10_0001) % 251) as u8
        );
        assert_eq!(resident(&memory), UNIT);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x90_0000)).unwrap(), 0);
        assert!(
            resident(&memory) > UNIT,
            "what the kernel does not fill is served by the host"
        );
    }

    #[test]
    fn what_the_guest_writes_first_stays_and_every_thread_is_served() {
        let memory = memory();
        let Ok(_server) = load_on_demand(&kernel(), &memory, FaultRights::Own) else {
            return;
        };
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let memory = &memory;
                scope.spawn(move || {
                    for unit in 0..4 {
                        let address = GuestAddress(0x30_0000 + unit * UNIT / 2 + thread);
                        memory.write_obj(0xee_u8, address).unwrap();
                    }
                });
            }
        });
        let bytes = content(&memory);
        for unit in 0..4 {
            let start = (0x30_0000 + unit * UNIT / 2) as usize;
            assert_eq!(bytes[start..start + 4], [0xee; 4]);
            assert_eq!(bytes[start + 4], ((start + 4 - 0x30_0000) % 251) as u8);
        }
    }

    #[test]
    fn memory_that_was_frozen_meanwhile_is_left_alone() {
        use crate::memory::image::MemoryImage;
        let (kernel, memory) = (kernel(), memory());
        let Ok(_server) = load_on_demand(&kernel, &memory, FaultRights::Own) else {
            return;
        };
        let before = self::memory();
        load(&kernel, &before).unwrap();
        MemoryImage::freeze(&memory).unwrap();
        assert!(content(&memory) == content(&before));
        memory.write_obj(0xee_u8, GuestAddress(0x30_0000)).unwrap();
        let staging = HostMapping::anonymous(UNIT, HugePages::Transparent).unwrap();
        memory.mapping().take_pages(UNIT, &staging).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x30_0000)).unwrap(), 0xee);
    }

    #[test]
    fn a_kernel_that_does_not_fit_is_refused_and_memory_stays_free() {
        let small = GuestMemory::new(4 << 20, HugePages::Transparent, false).unwrap();
        assert!(load_on_demand(&kernel(), &small, FaultRights::Own).is_err());
        small.write_obj(1u8, GuestAddress(0x30_0000)).unwrap();
    }
}
