//! Kernel files, and an initial RAM disk behind them: recognised, stored and loaded into a small guest's memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox_vmm::boot::image::{KernelImage, Source};
use sandbox_vmm::boot::store::{StoredInitrd, StoredKernel};
use sandbox_vmm::boot::{initrd, load};
use sandbox_vmm::memory::{GuestMemory, HugePages};

fuzz_target!(|data: &[u8]| {
    if KernelImage::parse(Source::Bytes(data)).is_err() {
        return;
    }
    if let Ok(kernel) = StoredKernel::from_bytes(data)
        && let Ok(memory) = GuestMemory::new(4 << 20, HugePages::Never, false)
    {
        let _ = load::load(&kernel, &memory);
        // The larger the kernel, the larger its initrd: both have to find room.
        let repeated = data.repeat(1 + usize::from(data[data.len() - 1]));
        if let Ok(initrd) = StoredInitrd::from_bytes(&repeated)
            && let Ok(loaded) = initrd::load_stored(&initrd, kernel.image(), &memory)
        {
            assert!(loaded.address + loaded.size <= 4 << 20, "an initrd beyond memory");
        }
    }
});
