//! Disk and network of a stock Linux guest: what a request costs guest, monitor and host kernel together.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandbox::spec::{DiskSpec, GuestSpec, Isolation, LinuxGuest, NetworkSpec, TapSpec};
use sandbox::{KvmOptions, Runtime, Sandbox, SandboxSpec};

use crate::Options;
use crate::clock::{self, Span};
use crate::ping::Pinger;
use crate::report::Report;

const CASE: &str = "sdk/linux/in_process";
const PATIENCE: Duration = Duration::from_secs(120);
const HOST: Ipv4Addr = Ipv4Addr::new(172, 28, 91, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(172, 28, 91, 2);
const DISK_BYTES: u64 = 64 << 20;
const STREAM_BYTES: usize = 64 << 20;
/// Bytes per call on the host's side of a stream.
const BLOCK: usize = 256 << 10;
/// Requests of the short and of the long run; the difference leaves out what starting `dd` costs.
const FEW: u32 = 200;
const MANY: u32 = 2_200;
const PINGS: u32 = 100;

/// Boots the guest once and measures each way in turn.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let disk = DataDisk::new()?;
    // Into the page cache: the emulated host's clock runs ahead while its own disk is read.
    std::fs::read(options.root.as_deref().context("--root is needed")?)?;
    let runtime = Runtime::with_kvm_options(KvmOptions::default());
    let sandbox = runtime.create(&spec(options, &disk)?)?;
    sandbox.start()?;
    let mut shell = Shell::new(&*sandbox)?;
    for _ in 0..options.rounds {
        report.add_span(
            CASE,
            "blk_read_4k",
            per_request(&mut shell, "if=/dev/vdb of=/dev/null iflag=direct")?,
        );
        report.add_span(
            CASE,
            "blk_write_4k",
            per_request(&mut shell, "if=/dev/zero of=/dev/vdb oflag=direct")?,
        );
        report.add_span(CASE, "ping_rtt", ping()?);
        report.add_span(CASE, "tcp_out_64mib", stream_out(&mut shell)?);
        report.add_span(CASE, "tcp_in_64mib", stream_in(&mut shell)?);
    }
    sandbox.teardown().wait(PATIENCE)?;
    Ok(())
}

fn spec(options: &Options, disk: &DataDisk) -> Result<SandboxSpec> {
    let mut spec = SandboxSpec::new(GuestSpec::Linux(LinuxGuest {
        kernel: options.kernel.clone().context("--kernel is needed")?,
        initrd: Some(options.initrd.clone().context("--initrd is needed")?),
        cmdline: format!("console=ttyS0 quiet panic=1 reboot=k root=/dev/vda sandbox.net0={GUEST}/30,{HOST}"),
        ..Default::default()
    }));
    spec.isolation = Isolation::InProcess;
    spec.memory = 256 << 20;
    spec.disks.push(DiskSpec {
        id: "root".to_owned(),
        path: options.root.clone().context("--root is needed")?,
        read_only: true,
        ..Default::default()
    });
    spec.disks.push(DiskSpec {
        id: "data".to_owned(),
        path: disk.0.clone(),
        ..Default::default()
    });
    spec.networks.push(NetworkSpec {
        id: "net".to_owned(),
        tap: TapSpec::Create {
            name: None,
            host_address: Some(format!("{HOST}/30")),
        },
        ..Default::default()
    });
    mask_extended_state(&mut spec);
    Ok(spec)
}

/// The emulated host does not see a guest's xsetbv.
pub(crate) fn mask_extended_state(spec: &mut SandboxSpec) {
    let features = [
        "xsave", "xsaveopt", "xsavec", "xgetbv1", "xsaves", "avx", "avx2", "fma", "f16c",
    ];
    spec.cpu.mask.extend(features.map(String::from));
}

/// What one 4 KiB request costs in a long run of them.
fn per_request(shell: &mut Shell<'_>, arguments: &str) -> Result<Span> {
    let few = shell.run(&format!("dd bs=4k count={FEW} {arguments}"))?;
    let many = shell.run(&format!("dd bs=4k count={MANY} {arguments}"))?;
    let requests = u64::from(MANY - FEW);
    Ok(Span {
        real: many.real.saturating_sub(few.real) / requests,
        cpu: many.cpu.saturating_sub(few.cpu) / requests,
    })
}

fn ping() -> Result<Span> {
    let mut pinger = Pinger::new(GUEST)?;
    // Resolves the address.
    pinger.round_trip(0)?;
    let before = clock::now();
    for sequence in 1..=PINGS {
        pinger.round_trip(sequence as u16)?;
    }
    let span = clock::now().since(before);
    Ok(Span {
        real: span.real / u64::from(PINGS),
        cpu: span.cpu / u64::from(PINGS),
    })
}

/// A program in the guest sends, with writes of 64 KiB, as large as the kernel makes its segments.
fn stream_out(shell: &mut Shell<'_>) -> Result<Span> {
    let listener = TcpListener::bind((HOST, 0))?;
    let port = listener.local_addr()?.port();
    shell.begin(&format!("exercise tcp-send {HOST} {port} {STREAM_BYTES}"))?;
    let (mut stream, _) = listener.accept()?;
    let before = clock::now();
    let mut buffer = vec![0; BLOCK];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            count => total += count,
        }
    }
    let span = clock::now().since(before);
    ensure!(total == STREAM_BYTES, "the guest's stream ended after {total} bytes");
    shell.finish()?;
    Ok(span)
}

/// A program in the guest reads what we send, 64 KiB at a time.
fn stream_in(shell: &mut Shell<'_>) -> Result<Span> {
    let listener = TcpListener::bind((HOST, 0))?;
    let port = listener.local_addr()?.port();
    shell.begin(&format!("exercise tcp-receive {HOST} {port}"))?;
    let (mut stream, _) = listener.accept()?;
    let block = vec![0x5a; BLOCK];
    let before = clock::now();
    for _ in 0..STREAM_BYTES / BLOCK {
        stream.write_all(&block)?;
    }
    drop(stream);
    shell.finish()?;
    Ok(clock::now().since(before))
}

/// The guest's shell on its console, which says how each command ended.
struct Shell<'a> {
    sandbox: &'a dyn Sandbox,
    /// Where the output of the next command begins.
    position: u64,
}

impl<'a> Shell<'a> {
    fn new(sandbox: &'a dyn Sandbox) -> Result<Self> {
        let ready = sandbox.console().wait_for(b"SANDBOX-SHELL-READY", 0, PATIENCE);
        let position = ready.with_context(|| format!("no shell came up: {}", sandbox.console().tail(30)))?;
        Ok(Self { sandbox, position })
    }

    /// Runs `command` and measures from sending it to its end.
    fn run(&mut self, command: &str) -> Result<Span> {
        let before = clock::now();
        self.begin(command)?;
        self.finish()?;
        Ok(clock::now().since(before))
    }

    fn begin(&mut self, command: &str) -> Result<()> {
        let line = format!("{command}\n");
        ensure!(
            self.sandbox.console_write(line.as_bytes())? == line.len(),
            "the guest's console is full"
        );
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let console = self.sandbox.console();
        let end = console
            .wait_for(b"SANDBOX-STATUS ", self.position, PATIENCE)
            .context("a command does not end")?;
        let line = console
            .wait_for(b"\n", end, PATIENCE)
            .context("a status line does not end")?;
        let text = console.read_from(end).bytes;
        ensure!(text.starts_with(b"0"), "a command failed: {}", console.tail(10));
        self.position = line;
        Ok(())
    }
}

/// A disk image in memory-backed storage, which goes with the value.
struct DataDisk(std::path::PathBuf);

impl DataDisk {
    fn new() -> Result<Self> {
        let path = Path::new("/dev/shm").join(format!("sandbox-bench-disk-{}", std::process::id()));
        let mut file = File::create(&path)?;
        let block = vec![0xa5; 1 << 20];
        for _ in 0..DISK_BYTES / block.len() as u64 {
            file.write_all(&block)?;
        }
        Ok(Self(path))
    }
}

impl Drop for DataDisk {
    fn drop(&mut self) {
        // A file that stays is in the way of nobody.
        let _ = std::fs::remove_file(&self.0);
    }
}
