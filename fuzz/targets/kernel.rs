//! Kernel files: recognised, stored and loaded into a small guest's memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_vmm::boot::image::{KernelImage, Source};
use sandbox_vmm::boot::load;
use sandbox_vmm::boot::store::StoredKernel;
use sandbox_vmm::memory::{GuestMemory, HugePages};

fuzz_target!(|data: &[u8]| {
    if KernelImage::parse(Source::Bytes(data)).is_err() {
        return;
    }
    if let Ok(kernel) = StoredKernel::from_bytes(data)
        && let Ok(memory) = GuestMemory::new(4 << 20, HugePages::Never, false)
    {
        let _ = load::load(&kernel, &memory);
    }
});
