//! A temporary folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A new folder, which is removed with all that is in it when the value is dropped.
#[derive(Debug)]
pub struct TempFolder(PathBuf);

impl TempFolder {
    /// An empty folder.
    #[allow(clippy::new_without_default, reason = "it makes a folder, which no default should")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("sandbox-test-{}-{number}", std::process::id()));
            // A dead process of the same number may have left one.
            match fs::create_dir(&path) {
                Ok(()) => return Self(path),
                Err(error) => assert_eq!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists,
                    "{}: {error}",
                    path.display()
                ),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file of this content into it.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
