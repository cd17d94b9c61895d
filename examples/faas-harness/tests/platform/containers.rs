//! Instances that are containers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::processes::children;
use crate::support::{Folder, PATIENCE, Platform, in_namespace, interfaces, skip};

/// A server in a shell's language: each connection is answered by /reply.
const SERVER: &str = "#!/bin/sh\n\
    nc -l -p 80 -e /reply &\n\
    until grep -q ':0050 0*:0000 0A' /proc/net/tcp /proc/net/tcp6; do :; done\n\
    wget -q -O /dev/null --post-data=x \"$READY_URL\"\n\
    wait\n";

/// Begins an answer of 1000 bytes, and ends, and the container with it.
const HALF: &str = "#!/bin/sh\n\
    read request\n\
    printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 1000\\r\\n\\r\\nhalf'\n";

/// Answers nothing at all.
const NOTHING: &str = "#!/bin/sh\nread request\n";

/// The same for any number of connections.
pub const PERSISTENT_SERVER: &str = "#!/bin/sh\n\
    nc -ll -p 80 -e /reply &\n\
    until grep -q ':0050 0*:0000 0A' /proc/net/tcp /proc/net/tcp6; do :; done\n\
    wget -q -O /dev/null --post-data=x \"$READY_URL\"\n\
    wait\n";

/// A document with the server that answers one connection.
fn server(folder: &Folder, name: &str, reply: &str) -> String {
    document(folder, name, [SERVER, reply], "")
}

/// A document with a container whose scripts are `server` and `reply`, and with further `fields`; its root file system is
/// made in `folder`.
pub fn document(folder: &Folder, name: &str, [server, reply]: [&str; 2], fields: &str) -> String {
    let root = folder.path().join(name);
    for directory in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "nc", "grep", "wget", "dd", "head", "wc", "tail", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    for (file, content) in [("server", server), ("reply", reply)] {
        fs::write(root.join(file), content).unwrap();
        fs::set_permissions(root.join(file), fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!(
        r#"{{"name": "{name}", "ready": "post", "sandbox": {{"guest": {{"container": {{"runtime": "runc",
            "rootfs": "{}", "process": {{"args": ["/server"],
            "env": ["PATH=/bin", "READY_URL=${{READY_URL}}"]}}}}}}, "memory": 67108864}}{fields}}}"#,
        root.display()
    )
}

/// Whether this host has what these tests need. Says that a test was skipped where it does not.
pub fn can_run_containers() -> bool {
    for program in ["/usr/sbin/runc", "/usr/sbin/nft", "/bin/busybox"] {
        if !Path::new(program).exists() {
            skip(&format!("needs {program}"));
            return false;
        }
    }
    true
}

#[test]
fn a_container_that_dies_in_mid_response_breaks_off_its_answer_and_nothing_else() {
    if !can_run_containers() {
        return;
    }
    in_namespace(|| {
        let folder = Folder::new();
        let platform = Platform::serve(&[]);
        platform.deploy_document(&server(&folder, "half", HALF));
        platform.deploy_document(&server(&folder, "nothing", NOTHING));
        for _ in 0..2 {
            let mut stream = TcpStream::connect(platform.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
                .write_all(b"GET /function/half HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut answer = Vec::new();
            // How a connection ends that breaks off is the kernel's choice.
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(answer.contains("content-length: 1000\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\nhalf"), "{answer}");
        }
        let answer = platform.get("/function/nothing");
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.reason().contains("instance failed"), "{answer:?}");
        platform.wait_for("half", |stats| stats["running"] == 0);
        assert_eq!(platform.stats("half")["initialisation"]["count"], 2);
        assert!(platform.end().success());
        assert_eq!(interfaces(), 1, "only lo is left");
    });
}

#[test]
fn containers_of_a_killed_platform_are_removed() {
    if !can_run_containers() {
        return;
    }
    in_namespace(|| {
        let folder = Folder::new();
        let document = server(&folder, "left", HALF);
        let platform = Platform::serve(&[]);
        platform.deploy_document(&document);
        assert_eq!(platform.post("/pre-boot/left/2", "").json()["started"], 2);
        assert!(!children(platform.pid()).is_empty(), "no parent of containers");
        let before = interfaces();
        platform.kill();
        // The next one waits for nothing and finds the bridge free, whoever swept it.
        let platform = Platform::serve(&[]);
        platform.deploy_document(&document);
        assert_eq!(platform.post("/pre-boot/left/2", "").json()["started"], 2);
        assert!(interfaces() <= before, "interfaces of the dead one are left");
        assert!(platform.end().success());
        assert_eq!(interfaces(), 1, "only lo is left");
    });
}
