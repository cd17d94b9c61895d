//! Everything that can be wrong with a spec or a host gives a typed error that names the field, before anything is
//! left behind.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use sandbox::spec::{
    BootProtocol, DiskSpec, GuestSpec, Isolation, LinuxGuest, NetworkSpec, TapSpec, UnikernelFamily, UnikernelGuest,
};
use sandbox::{ErrorKind, KvmBackend, KvmOptions, SandboxSpec};
use support::{HOME, TempFolder, bare, runtime};

/// A spec that is wrong, what kind of error it gives, and which field that names.
struct Case {
    what: &'static str,
    spec: SandboxSpec,
    kind: ErrorKind,
    field: &'static str,
}

fn case(what: &'static str, kind: ErrorKind, field: &'static str, change: impl FnOnce(&mut SandboxSpec)) -> Case {
    let mut spec = bare("hello", &[]);
    change(&mut spec);
    Case {
        what,
        spec,
        kind,
        field,
    }
}

fn kernel(what: &'static str, kind: ErrorKind, path: impl Into<PathBuf>) -> Case {
    let path = path.into();
    case(what, kind, "guest.linux.kernel", |spec| {
        spec.guest = GuestSpec::Linux(LinuxGuest {
            kernel: path,
            ..Default::default()
        });
    })
}

fn linux(spec: &mut SandboxSpec, change: impl FnOnce(&mut LinuxGuest)) {
    let mut guest = LinuxGuest {
        kernel: support::guest("hello"),
        ..Default::default()
    };
    change(&mut guest);
    spec.guest = GuestSpec::Linux(guest);
}

/// A unikernel of `family` whose file is one of the project's own guests with `mark` behind it.
fn marked(
    folder: &TempFolder,
    mark: &[u8],
    family: UnikernelFamily,
    change: impl FnOnce(&mut UnikernelGuest),
) -> impl FnOnce(&mut SandboxSpec) {
    let mut image = fs::read(support::guest("hello")).unwrap();
    image.extend_from_slice(mark);
    let mut guest = UnikernelGuest {
        image: folder.file(&format!("marked-{}", mark.len()), &image),
        family,
        ..Default::default()
    };
    change(&mut guest);
    move |spec| spec.guest = GuestSpec::Unikernel(guest)
}

const UNIKRAFT: &[u8] = b".uk_bootinfo\0";
const NANOS: &[u8] = b"tfs magic mismatch";
const OSV: &[u8] = b"OSv options:";
const HERMIT: &[u8] = b"Hermit Loader version";

fn family_cases(folder: &TempFolder) -> Vec<Case> {
    use ErrorKind::{InvalidSpec, Unsupported};
    use UnikernelFamily::{Auto, Hermit, Nanos, Osv, Unikraft};
    let unchanged = |_: &mut UnikernelGuest| {};
    let wrong_family = "guest.unikernel.family";
    let mut multiboot = fs::read(support::guest("hello")).unwrap();
    // A 32-bit ELF for the 80386, as Unikraft's build for QEMU is.
    (multiboot[4], multiboot[18]) = (1, 3);
    multiboot.extend_from_slice(UNIKRAFT);
    let multiboot = folder.file("multiboot", &multiboot);
    vec![
        case(
            "Unikraft called Nanos",
            InvalidSpec,
            wrong_family,
            marked(folder, UNIKRAFT, Nanos, unchanged),
        ),
        case(
            "Nanos called OSv",
            InvalidSpec,
            wrong_family,
            marked(folder, NANOS, Osv, unchanged),
        ),
        case(
            "OSv called Hermit",
            InvalidSpec,
            wrong_family,
            marked(folder, OSV, Hermit, unchanged),
        ),
        case(
            "Hermit called Unikraft",
            InvalidSpec,
            wrong_family,
            marked(folder, HERMIT, Unikraft, unchanged),
        ),
        case(
            "Nanos without its disk",
            InvalidSpec,
            "disks",
            marked(folder, NANOS, Auto, unchanged),
        ),
        case(
            "OSv without a program",
            InvalidSpec,
            "guest.unikernel.args",
            marked(folder, OSV, Auto, unchanged),
        ),
        case(
            "Hermit's loader without an application",
            InvalidSpec,
            "guest.unikernel.initrd",
            marked(folder, HERMIT, Auto, unchanged),
        ),
        case("too little memory", InvalidSpec, "memory", |spec| {
            marked(folder, HERMIT, Auto, |guest| guest.initrd = Some("i".into()))(spec);
            spec.memory = 8 << 20;
        }),
        case(
            "an instruction that is hidden",
            Unsupported,
            "guest.unikernel.image",
            |spec| {
                let mut mark = UNIKRAFT.to_vec();
                mark.extend_from_slice(&[0x48, 0x0f, 0xc7, 0xf0]);
                marked(folder, &mark, Auto, unchanged)(spec);
                spec.cpu.mask.push("rdrand".to_owned());
            },
        ),
        case(
            "Unikraft for QEMU",
            ErrorKind::BadImage,
            "guest.unikernel.image",
            |spec| {
                spec.guest = GuestSpec::Unikernel(UnikernelGuest {
                    image: multiboot,
                    ..Default::default()
                });
            },
        ),
    ]
}

fn disk(id: &str, path: &Path) -> DiskSpec {
    DiskSpec {
        id: id.to_owned(),
        path: path.to_owned(),
        ..Default::default()
    }
}

fn tap(name: &str) -> NetworkSpec {
    NetworkSpec {
        id: "net".to_owned(),
        tap: TapSpec::Name(name.to_owned()),
        ..Default::default()
    }
}

fn kernel_cases(folder: &TempFolder) -> Vec<Case> {
    let image = fs::read(support::guest("hello")).unwrap();
    let with = |offset: usize, bytes: &[u8]| {
        let mut damaged = image.clone();
        damaged[offset..offset + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let huge = folder.file("huge", b"");
    fs::File::create(&huge).unwrap().set_len(1 << 43).unwrap();
    vec![
        kernel("missing", ErrorKind::NotFound, "/nonexistent/kernel"),
        kernel("a directory", ErrorKind::BadImage, folder.path()),
        kernel("empty", ErrorKind::BadImage, folder.file("empty", b"")),
        kernel(
            "a text",
            ErrorKind::BadImage,
            folder.file("text", &b"not a kernel\n".repeat(500)),
        ),
        kernel("cut short", ErrorKind::BadImage, folder.file("short", &image[..200])),
        kernel("huge", ErrorKind::BadImage, huge),
        kernel(
            "a 32-bit ELF",
            ErrorKind::BadImage,
            folder.file("elf32", &with(4, &[1])),
        ),
        kernel(
            "an ELF for ARM",
            ErrorKind::BadImage,
            folder.file("arm", &with(18, &183u16.to_le_bytes())),
        ),
        kernel("a program", ErrorKind::BadImage, "/proc/self/exe"),
    ]
}

fn guest_cases(folder: &TempFolder) -> Vec<Case> {
    let initrd = folder.file("initrd", &vec![0; 32 << 20]);
    vec![
        case("a kernel that does not fit", ErrorKind::InvalidSpec, "memory", |spec| {
            spec.memory = 64 << 10
        }),
        case(
            "an initrd that does not fit",
            ErrorKind::InvalidSpec,
            "guest.linux.initrd",
            |spec| {
                linux(spec, |guest| guest.initrd = Some(initrd));
            },
        ),
        case("no initrd there", ErrorKind::NotFound, "guest.linux.initrd", |spec| {
            linux(spec, |guest| guest.initrd = Some("/nonexistent/initrd".into()));
        }),
        case(
            "a long command line",
            ErrorKind::InvalidSpec,
            "guest.linux.cmdline",
            |spec| {
                linux(spec, |guest| guest.cmdline = "x".repeat(70_000));
            },
        ),
        case(
            "a command line with NUL",
            ErrorKind::InvalidSpec,
            "guest.linux.cmdline",
            |spec| {
                linux(spec, |guest| guest.cmdline = "a\0b".to_owned());
            },
        ),
        case("no processors", ErrorKind::InvalidSpec, "vcpus", |spec| spec.vcpus = 0),
        case("too many processors", ErrorKind::InvalidSpec, "vcpus", |spec| {
            spec.vcpus = 33
        }),
        case("no memory", ErrorKind::InvalidSpec, "memory", |spec| spec.memory = 0),
        case("half a page", ErrorKind::InvalidSpec, "memory", |spec| {
            spec.memory = (16 << 20) + 2048
        }),
        case(
            "more memory than there are addresses",
            ErrorKind::HostExhausted,
            "memory",
            |spec| {
                spec.memory = 1 << 60;
            },
        ),
        case("an unknown feature", ErrorKind::InvalidSpec, "cpu.mask", |spec| {
            spec.cpu.mask.push("warp-drive".to_owned());
        }),
        case(
            "a processor quota",
            ErrorKind::Unsupported,
            "limits.cpu_quota",
            |spec| {
                spec.isolation = Isolation::InProcess;
                spec.limits.cpu_quota = Some(500);
            },
        ),
        case(
            "an address that nobody is told",
            ErrorKind::Unsupported,
            "networks[0].guest_address",
            |spec| {
                linux(spec, |guest| guest.protocol = BootProtocol::Linux64);
                spec.networks.push(NetworkSpec {
                    id: "net".to_owned(),
                    guest_address: Some("10.0.0.2/24".to_owned()),
                    ..Default::default()
                });
            },
        ),
    ]
}

fn device_cases(folder: &TempFolder) -> Vec<Case> {
    let image = folder.file("disk", &[0; 4096]);
    let read_only = folder.file("read-only", &[0; 4096]);
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o444)).unwrap();
    vec![
        case("no disk there", ErrorKind::NotFound, "disks[0].path", |spec| {
            spec.disks.push(disk("a", Path::new("/nonexistent/disk")));
        }),
        case(
            "a directory for a disk",
            ErrorKind::InvalidSpec,
            "disks[0].path",
            |spec| {
                spec.disks.push(disk("a", folder.path()));
            },
        ),
        case(
            "a disk used twice writable",
            ErrorKind::InUse,
            "disks[1].path",
            |spec| {
                spec.disks.extend([disk("a", &image), disk("b", &image)]);
            },
        ),
        case(
            "a read-only medium opened writable",
            ErrorKind::PermissionDenied,
            "disks[0].path",
            |spec| {
                spec.disks.push(disk("a", &read_only));
            },
        ),
        case(
            "more devices than there is room for",
            ErrorKind::Unsupported,
            "disks",
            |spec| {
                let disks = (0..17).map(|number| {
                    let path = folder.file(&format!("disk{number}"), &[0; 512]);
                    disk(&format!("d{number}"), &path)
                });
                spec.disks.extend(disks);
            },
        ),
        case("no tap there", ErrorKind::NotFound, "networks[0].tap.name", |spec| {
            spec.networks.push(tap("sbxnone0"));
        }),
        case(
            "no tap behind a descriptor",
            ErrorKind::InvalidSpec,
            "networks[0].tap.fd",
            |spec| {
                spec.networks.push(NetworkSpec {
                    tap: TapSpec::Fd(0),
                    ..tap("unused")
                });
            },
        ),
        case(
            "a multicast address",
            ErrorKind::InvalidSpec,
            "networks[0].mac",
            |spec| {
                spec.networks.push(NetworkSpec {
                    mac: Some("01:00:5e:00:00:01".to_owned()),
                    ..tap("unused")
                });
            },
        ),
    ]
}

/// Descriptors of this process, but for the sealed copies that the backend keeps of the files that it has read.
fn open_descriptors() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    targets
        .filter(|target| !target.to_string_lossy().contains("memfd:sandbox-kernel"))
        .count()
}

#[test]
fn every_wrong_spec_gives_a_typed_error_and_leaves_nothing() {
    let folder = TempFolder::new();
    let kvm = runtime().kvm().unwrap();
    if HOME == Isolation::Worker {
        kvm.prepare_workers().unwrap();
    }
    let cases = [
        kernel_cases(&folder),
        guest_cases(&folder),
        family_cases(&folder),
        device_cases(&folder),
    ];
    for case in cases.into_iter().flatten() {
        let before = open_descriptors();
        let error = match runtime().create(&case.spec) {
            Ok(_) => panic!("{} was accepted", case.what),
            Err(error) => error,
        };
        assert_eq!(error.kind(), case.kind, "{}: {}", case.what, error.report());
        assert_eq!(error.field(), Some(case.field), "{}: {}", case.what, error.report());
        assert_eq!(open_descriptors(), before, "{} left descriptors", case.what);
    }
}

#[test]
fn a_wrong_family_is_told_what_the_file_looks_like_and_why() {
    let folder = TempFolder::new();
    let mut spec = bare("hello", &[]);
    marked(&folder, UNIKRAFT, UnikernelFamily::Nanos, |_| {})(&mut spec);
    let error = runtime().create(&spec).err().unwrap();
    for word in ["nanos", "unikraft", ".uk_bootinfo"] {
        assert!(error.context().contains(word), "{}", error.report());
    }
    let found = runtime().kvm().unwrap().identify(&spec).unwrap();
    assert_eq!(found.family, UnikernelFamily::Unikraft);
}

#[test]
fn a_host_without_kvm_is_told_with_its_remedy() {
    let options = KvmOptions {
        device: "/nonexistent/kvm".into(),
        ..KvmOptions::default()
    };
    let error = KvmBackend::open(&options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.context().contains("kvm_intel"), "{error}");
}

/// Runs `test` on a thread that has no rights beyond its user's, not even root's.
fn without_capabilities(test: impl FnOnce() + Send + 'static) {
    /// `_LINUX_CAPABILITY_VERSION_3`, and the calling thread.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    let thread = thread::spawn(move || {
        let none = [0u32; 6];
        // SAFETY: the structures have the layout of version 3, and live for the call.
        let result = unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), none.as_ptr()) };
        assert_eq!(result, 0);
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn who_may_not_open_kvm_is_told_with_the_remedy() {
    let folder = TempFolder::new();
    let device = folder.file("kvm", b"");
    fs::set_permissions(&device, fs::Permissions::from_mode(0o0)).unwrap();
    without_capabilities(move || {
        let options = KvmOptions {
            device,
            ..KvmOptions::default()
        };
        let error = KvmBackend::open(&options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.context().contains("add the user to the group"), "{error}");
    });
}

#[test]
fn who_may_not_make_a_tap_is_told_which() {
    let mut spec = bare("hello", &[]);
    spec.networks.push(NetworkSpec {
        id: "net".to_owned(),
        tap: TapSpec::Create {
            name: None,
            host_address: None,
        },
        ..Default::default()
    });
    runtime().kvm().unwrap();
    without_capabilities(move || {
        let error = runtime().create(&spec).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
        assert_eq!(error.field(), Some("networks[0].tap.create"), "{}", error.report());
    });
}
