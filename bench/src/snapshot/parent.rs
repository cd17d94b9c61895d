//! The web server that clones are made of.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sandbox::spec::{NetworkSpec, ReadyCheck};
use sandbox::{RestoreOptions, Runtime, Sandbox, SnapshotOptions};

use super::tap::NamedTap;
use crate::clock;
use crate::cold_start::{self, Image, PATIENCE};
use crate::report::{Report, Unit};

/// Its network's id.
pub(super) const NETWORK: &str = "net";

/// The running server.
pub(super) struct Parent {
    pub(super) sandbox: Box<dyn Sandbox>,
    folder: PathBuf,
    /// For clones, one at a time.
    pub(super) tap: NamedTap,
    _image: Image,
    _own_tap: NamedTap,
}

impl Parent {
    /// Starts the server, which has answered once.
    pub(super) fn serving(runtime: &Runtime) -> Result<Self> {
        let image = Image::write("http-reply", sandbox_guests::HTTP_REPLY)?;
        let own_tap = NamedTap::make(0)?;
        let mut spec = cold_start::bare_spec(image.path());
        spec.memory = 128 << 20;
        spec.ready = Some(ReadyCheck::BootPort);
        spec.networks.push(NetworkSpec {
            id: NETWORK.to_owned(),
            tap: own_tap.spec(),
            mac: Some(own_tap.mac()),
            guest_address: Some(format!("{}/30", own_tap.guest())),
            ..NetworkSpec::default()
        });
        let sandbox = runtime.create(&spec)?;
        sandbox.start()?;
        sandbox.wait_ready(PATIENCE)?;
        get(own_tap.guest())?;
        let folder = std::env::temp_dir().join(format!("sandbox-bench-snapshot-{}", std::process::id()));
        Ok(Self {
            sandbox,
            folder,
            tap: NamedTap::make(1)?,
            _image: image,
            _own_tap: own_tap,
        })
    }

    /// Writes snapshots, the last of which stays for restores.
    pub(super) fn measure_snapshot(&self, rounds: usize, report: &mut Report) -> Result<()> {
        let case = "sdk/http-reply/in_process";
        for round in 0..=rounds {
            self.forget_snapshot();
            let before = clock::now();
            let written = self.sandbox.snapshot(&self.folder, &SnapshotOptions::default());
            let span = clock::now().since(before);
            match written {
                Ok(_) if round > 0 => report.add_span(case, "snapshot", span),
                Ok(_) => {}
                Err(error) => {
                    report.failed(case, format!("snapshot: {}", error.report()));
                    return Ok(());
                }
            }
        }
        report.add(
            case,
            "snapshot_bytes",
            Unit::Bytes,
            stored_bytes(&self.folder)? as f64,
            None,
        );
        Ok(())
    }

    /// The snapshot's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Options of a clone at `tap` that runs at once.
    pub(super) fn options(&self, tap: &NamedTap) -> RestoreOptions {
        let mut options = RestoreOptions {
            start: true,
            ..RestoreOptions::default()
        };
        options.overrides.networks.insert(NETWORK.to_owned(), tap.overrides());
        options
    }

    fn forget_snapshot(&self) {
        // There is none the first time.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.forget_snapshot();
        let _ = self.sandbox.teardown().wait(PATIENCE);
    }
}

/// What the folder's files take on their disk; holes take nothing.
pub(super) fn stored_bytes(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

/// Fetches the server's page.
pub(super) fn get(server: Ipv4Addr) -> Result<()> {
    let address = SocketAddr::from((server, 80));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("{server}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{server} answered otherwise");
    Ok(())
}
