//! Compressed data of Debian's packages, handled by Debian's own programs.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Package};
use crate::process;

/// A compression format of kernels and modules, and the program that undoes it.
pub(super) struct Compression {
    magic: &'static [u8],
    program: &'static str,
    package: Package,
    /// Whether the kernel's build appends the unpacked size as 4 bytes, since
    /// the format itself does not end with it.
    pub(super) size_appended: bool,
}

const COMPRESSIONS: [Compression; 4] = [
    Compression {
        magic: &[0x02, 0x21, 0x4c, 0x18],
        program: "lz4",
        package: Package {
            name: "lz4",
            why: "unpacks Debian's kernel",
        },
        size_appended: true,
    },
    Compression {
        magic: &[0xfd, b'7', b'z', b'X', b'Z', 0],
        program: "xz",
        package: Package {
            name: "xz-utils",
            why: "unpacks Debian's kernel and modules",
        },
        size_appended: true,
    },
    Compression {
        magic: &[0x28, 0xb5, 0x2f, 0xfd],
        program: "zstd",
        package: Package {
            name: "zstd",
            why: "unpacks Debian's kernel and modules",
        },
        size_appended: true,
    },
    Compression {
        magic: &[0x1f, 0x8b],
        program: "gzip",
        package: Package {
            name: "gzip",
            why: "unpacks Debian's kernel and modules",
        },
        size_appended: false,
    },
];

impl Compression {
    /// The format that `data` begins like.
    pub(super) fn of(data: &[u8]) -> Option<&'static Self> {
        COMPRESSIONS
            .iter()
            .find(|compression| data.starts_with(compression.magic))
    }

    /// Unpacks data of this format.
    pub(super) fn undo(&self, packed: &[u8]) -> Result<Vec<u8>> {
        packages::ensure(&[self.package])?;
        let mut command = process::tool(self.program);
        command.args(["-d", "-c"]);
        filter(&mut command, packed).with_context(|| format!("{} failed", self.program))
    }
}

/// Packs data by gzip, the same result for the same data.
pub(super) fn gzip(data: &[u8]) -> Result<Vec<u8>> {
    filter(process::tool("gzip").args(["-9", "-n", "-c"]), data).context("gzip failed")
}

/// Feeds `input` to a command and returns its output.
fn filter(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("the command has no input")?;
    let (fed, output) = std::thread::scope(|scope| {
        let feeder = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output();
        (feeder.join(), output)
    });
    let output = output?;
    if !output.status.success() {
        bail!(
            "ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    match fed {
        Ok(written) => written?,
        Err(_) => bail!("the thread that fed the command failed"),
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_data_comes_back_whole() {
        // More than a pipe holds, so that feeding and reading must overlap.
        let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let packed = gzip(&data).unwrap();
        assert!(packed.len() < data.len());
        assert_eq!(Compression::of(&packed).unwrap().undo(&packed).unwrap(), data);
    }

    #[test]
    fn broken_data_is_an_error() {
        let packed = gzip(b"text").unwrap();
        let broken = &packed[..packed.len() - 6];
        assert!(Compression::of(broken).unwrap().undo(broken).is_err());
        assert!(Compression::of(b"plain").is_none());
    }
}
