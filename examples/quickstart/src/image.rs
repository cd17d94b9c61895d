//! A guest's image, from this program's own memory to a file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A temporary file that is deleted on drop. The SDK reads it while a sandbox is created, and not afterwards.
pub struct Image(PathBuf);

impl Image {
    /// Writes `content` to a new file, which only this user can read and write.
    pub fn write(content: &[u8]) -> io::Result<Self> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;

        let path = std::env::temp_dir().join(format!("quickstart-guest-{}", std::process::id()));
        // An existing file or link of this name is somebody else's: it is refused, not followed.
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let image = Self(path);
        file.write_all(content)?;
        Ok(image)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // A file that cannot be deleted is the temporary folder's to clean up.
        let _ = fs::remove_file(&self.0);
    }
}
