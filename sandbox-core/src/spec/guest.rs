//! What runs inside.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What runs inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GuestSpec {
    /// A Linux kernel in a micro-VM.
    Linux(LinuxGuest),
    /// A unikernel in a micro-VM.
    Unikernel(UnikernelGuest),
    /// A container.
    Container(ContainerGuest),
}

/// A Linux kernel in a micro-VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LinuxGuest {
    /// Kernel file: a bzImage or an uncompressed ELF.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line, passed on as it is.
    #[serde(default)]
    pub cmdline: String,
    /// How the kernel is entered.
    #[serde(default)]
    pub protocol: BootProtocol,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BootProtocol {
    /// The 64-bit Linux boot protocol where the file has it, else PVH.
    #[default]
    Auto,
    /// The 64-bit Linux boot protocol.
    Linux64,
    /// PVH: 32-bit protected mode at the entry that the ELF note names.
    Pvh,
}

/// A unikernel in a micro-VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnikernelGuest {
    /// Kernel image: an ELF.
    pub image: PathBuf,
    /// Which family's customs are followed.
    #[serde(default)]
    pub family: UnikernelFamily,
    /// Arguments of the application.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment of the application, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Raw command line in the family's own syntax, instead of `args` and `env`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Initial RAM disk, for families that take one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// How the kernel is entered.
    #[serde(default)]
    pub protocol: BootProtocol,
}

/// A family of unikernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnikernelFamily {
    /// Recognised from the file.
    #[default]
    Auto,
    /// A bare program, such as the project's own guests.
    Bare,
    /// Unikraft.
    Unikraft,
    /// Nanos.
    Nanos,
    /// OSv.
    Osv,
    /// Hermit.
    Hermit,
    /// Solo5, by its hvt interface.
    Solo5,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ContainerGuest {
    /// The OCI runtime: `runc`, `crun`, `runsc`, or a path to one.
    pub runtime: String,
    /// Root file system: a folder or a tar file. This or `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// OCI image layout: a folder or a tar file. This or `rootfs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Which image of the layout, by its annotation `org.opencontainers.image.ref.name`; may be left out where there is
    /// only one for this host's platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// What is run; an image's own default if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessSpec>,
    /// Host name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Further mounts.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Let the container write to its root file system; what it writes is private to it.
    #[serde(default)]
    pub writable_root: bool,
}

/// A process in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// User, `name`, `uid` or `uid:gid`; root if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// Give it a pseudo-terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Give it a standard input that the embedder writes to; without, and without a terminal, it has nothing to read.
    #[serde(default)]
    pub stdin: bool,
}

/// A bind mount into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside, absolute.
    pub destination: PathBuf,
    /// Whether the container may not write there.
    #[serde(default)]
    pub read_only: bool,
}
