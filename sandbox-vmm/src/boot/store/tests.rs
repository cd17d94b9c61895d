use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::boot::image::ImageError;
use crate::boot::test_support::{ElfBuilder, TempFile};

/// A store for which every file's last change is long past.
fn store<T: Stored>(limits: StoreLimits) -> FileStore<T> {
    FileStore {
        clock: || SystemTime::now() + Duration::from_secs(3600),
        ..FileStore::new(limits)
    }
}

fn kernel_file(fill: u8, size: usize) -> TempFile {
    let code = vec![fill; size];
    TempFile::new(
        &ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, &code, size as u64)
            .build(),
    )
}

#[test]
fn the_second_open_of_an_unchanged_file_shares_the_first() {
    let store: KernelStore = store(StoreLimits::default());
    let file = kernel_file(1, 0x2_0000);
    let first = store.open(file.path()).unwrap();
    let second = store.open(file.path()).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let by_descriptor = store.from_file(&File::open(file.path()).unwrap()).unwrap();
    assert!(Arc::ptr_eq(&first, &by_descriptor));
    assert_eq!(store.len(), 1);
}

#[test]
fn a_changed_file_is_read_again() {
    let store: KernelStore = store(StoreLimits::default());
    let file = kernel_file(1, 100);
    let first = store.open(file.path()).unwrap();
    std::fs::write(
        file.path(),
        ElfBuilder::new(0x10_0000).segment(0x10_0000, &[2; 101], 101).build(),
    )
    .unwrap();
    let second = store.open(file.path()).unwrap();
    assert_eq!(first.image().loaded_size(), 100);
    assert_eq!(second.image().loaded_size(), 101);
}

#[test]
fn a_file_that_changed_just_now_is_not_kept() {
    let store = KernelStore::default();
    let file = kernel_file(1, 100);
    let first = store.open(file.path()).unwrap();
    let second = store.open(file.path()).unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(store.is_empty());
}

#[test]
fn the_least_recently_used_kernel_leaves_first() {
    let store: KernelStore = store(StoreLimits {
        files: 2,
        bytes: u64::MAX,
    });
    let files: Vec<TempFile> = (0..3).map(|fill| kernel_file(fill, 100)).collect();
    let first = store.open(files[0].path()).unwrap();
    let second = store.open(files[1].path()).unwrap();
    assert!(Arc::ptr_eq(&first, &store.open(files[0].path()).unwrap()));
    store.open(files[2].path()).unwrap();
    assert_eq!(store.len(), 2);
    assert!(Arc::ptr_eq(&first, &store.open(files[0].path()).unwrap()));
    assert!(!Arc::ptr_eq(&second, &store.open(files[1].path()).unwrap()));
    // Evicted, and yet there for who holds it.
    assert_eq!(second.image().loaded_size(), 100);
}

#[test]
fn the_bytes_kept_are_bounded() {
    let store: KernelStore = store(StoreLimits {
        files: 8,
        bytes: 0x3_0000,
    });
    let files: Vec<TempFile> = (0..2).map(|fill| kernel_file(fill, 0x2_0000)).collect();
    store.open(files[0].path()).unwrap();
    store.open(files[1].path()).unwrap();
    assert_eq!(store.len(), 1);
    let too_large = kernel_file(9, 0x4_0000);
    assert_eq!(store.open(too_large.path()).unwrap().stored_size(), 0x4_0000);
    assert!(store.is_empty());
}

#[test]
fn simultaneous_opens_read_the_file_once() {
    let store: KernelStore = store(StoreLimits::default());
    let file = kernel_file(1, 0x10_0000);
    let kernels: Vec<Arc<StoredKernel>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| store.open(file.path()).unwrap()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(kernels.iter().all(|kernel| Arc::ptr_eq(kernel, &kernels[0])));
}

#[test]
fn files_that_are_no_kernel_are_refused_and_leave_nothing() {
    let store: KernelStore = store(StoreLimits::default());
    let missing = store.open(Path::new("/nonexistent/vmlinuz")).unwrap_err();
    assert!(
        matches!(
            missing,
            BootError::Open {
                subject: Subject::Kernel,
                ..
            }
        ),
        "{missing}"
    );
    let directory = store.open(Path::new("/")).unwrap_err();
    assert!(
        matches!(
            directory,
            BootError::NotAFile {
                found: "a directory",
                ..
            }
        ),
        "{directory}"
    );
    let device = store.open(Path::new("/dev/zero")).unwrap_err();
    assert!(
        matches!(device, BootError::NotAFile { found: "a device", .. }),
        "{device}"
    );
    let empty = store.open(TempFile::new(b"").path()).unwrap_err();
    assert!(matches!(empty, BootError::Image(ImageError::Empty)), "{empty}");
    let text = store.open(TempFile::new(b"hello").path()).unwrap_err();
    assert!(
        matches!(text, BootError::Image(ImageError::NotAKernel { .. })),
        "{text}"
    );
    assert!(store.is_empty());
}

#[test]
fn a_pipe_is_refused_without_waiting_for_its_writer() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    let error = KernelStore::default().open(&path).unwrap_err();
    assert!(matches!(error, BootError::NotAFile { found: "a pipe", .. }), "{error}");
}

#[test]
fn a_huge_sparse_file_is_refused_without_reading_it() {
    let file = TempFile::new(b"\x7fELF");
    File::options()
        .write(true)
        .open(file.path())
        .unwrap()
        .set_len(1 << 42)
        .unwrap();
    let error = KernelStore::default().open(file.path()).unwrap_err();
    assert!(matches!(error, BootError::Image(_)), "{error}");
}

#[test]
fn initrds_are_kept_like_kernels() {
    let store: InitrdStore = store(StoreLimits::default());
    let file = TempFile::new(&[1; 5000]);
    let first = store.open(file.path()).unwrap();
    assert!(Arc::ptr_eq(&first, &store.open(file.path()).unwrap()));
    assert_eq!(first.size(), 5000);
    let empty = store.open(TempFile::new(b"").path()).unwrap_err();
    assert!(matches!(empty, BootError::InitrdEmpty), "{empty}");
    let huge = TempFile::new(b"x");
    File::options()
        .write(true)
        .open(huge.path())
        .unwrap()
        .set_len(1 << 42)
        .unwrap();
    let huge = store.open(huge.path()).unwrap_err();
    assert!(matches!(huge, BootError::InitrdTooLarge { .. }), "{huge}");
}
