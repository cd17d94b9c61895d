//! What clients and guests get wrong, and what they are told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::support::{Answer, Folder, PATIENCE, Platform, document, in_namespace, program};

#[test]
fn deployments_that_cannot_be_are_refused_with_the_field() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        for (document, word) in [
            ("", "EOF"),
            ("{}", "service"),
            (r#"{"service": "f"}"#, "image"),
            (r#"{"service": "f f", "image": "builtin:hello"}"#, "name"),
            (r#"{"service": "f", "image": "nginx:latest"}"#, "image"),
            (
                r#"{"service": "f", "image": "builtin:hello", "limits": {"memory": "many"}}"#,
                "limits.memory",
            ),
            (
                r#"{"service": "f", "image": "builtin:hello", "surprise": 1}"#,
                "surprise",
            ),
            (
                r#"{"name": "f", "sandbox": {"guest": {"unikernel": {"image": "/x"}}, "memory": 1}}"#,
                "memory",
            ),
            (
                r#"{"name": "f", "sandbox": {"guest": {"unikernel": {"image": "/x"}}, "memory": 4294967296},
                "scale": {"max": 1000, "warm": 1000}}"#,
                "scale.warm",
            ),
            (
                r#"{"name": "f", "sandbox": {"guest": {"unikernel": {"image": "/x"}}, "memory": 4294967296},
                "start": "pool", "scale": {"max": 1000, "pool": 1000}}"#,
                "scale.pool",
            ),
            (
                r#"{"name": "f", "sandbox": {"guest": {"unikernel": {"image": "/x"}}, "memory": 4194304},
                "scale": {"pool": 2}}"#,
                "scale.pool",
            ),
            (
                r#"{"name": "f", "sandbox": {"guest": {"container": {"runtime": "runc", "rootfs": "/x"}}},
                "start": "fork"}"#,
                "start",
            ),
        ] {
            let answer = platform.post("/system/functions", document);
            assert_eq!(answer.status, 400, "{document}: {answer:?}");
            assert!(answer.reason().contains(word), "{document}: {answer:?}");
        }
        assert_eq!(platform.get("/system/functions").body, "[]");
    });
}

#[test]
fn requests_that_lead_nowhere_are_answered_with_a_reason() {
    in_namespace(|| {
        let platform = Platform::demo();
        for (method, path, status) in [
            ("GET", "/function/none", 404),
            ("GET", "/nowhere", 404),
            ("GET", "/system/function/none", 404),
            ("GET", "/system/logs", 400),
            ("PATCH", "/system/functions", 404),
            ("POST", "/pre-boot/hello/many", 400),
        ] {
            let answer = platform.request(method, path, "");
            assert_eq!(answer.status, status, "{method} {path}");
            assert!(!answer.reason().is_empty());
        }
    });
}

#[test]
fn an_image_that_is_not_there_fails_the_call_with_its_name() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        let answer = platform.post("/system/functions", r#"{"service": "f", "image": "/no/such/image"}"#);
        assert_eq!(answer.status, 202);
        let answer = platform.get("/function/f");
        assert_eq!(answer.status, 502);
        assert!(
            answer.reason().contains("/no/such/image") || answer.reason().contains("isolation"),
            "{answer:?}"
        );
    });
}

#[test]
fn an_image_that_is_no_program_fails_the_call_with_its_field() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        let (folder, document) = document("bad", "http-reply", "in_process", "");
        std::fs::write(folder.path().join("http-reply"), "no program").unwrap();
        assert_eq!(platform.post("/system/functions", &document).status, 202);
        let answer = platform.get("/function/bad");
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.reason().contains("guest.unikernel.image"), "{answer:?}");
        assert_eq!(platform.stats("bad")["running"], 0);
    });
}

#[test]
fn a_guest_that_never_gets_ready_is_a_gateway_timeout() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        // The web server runs, but nobody POSTs.
        let (_folder, document) = document(
            "mute",
            "http-reply",
            "in_process",
            r#", "ready": "post", "scale": {"start_ms": 50}"#,
        );
        assert_eq!(platform.post("/system/functions", &document).status, 202);
        let answer = platform.get("/function/mute");
        assert_eq!(answer.status, 504, "{answer:?}");
        let answer = platform.post("/pre-boot/mute/1", "");
        assert_eq!(answer.status, 504, "{answer:?}");
        assert!(!answer.reason().is_empty());
        assert_eq!(platform.stats("mute")["running"], 0);
    });
}

#[test]
fn a_guest_that_ends_before_it_is_ready_is_a_bad_gateway_with_its_last_words() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        let (_folder, document) = document("dead", "hello", "in_process", "");
        assert_eq!(platform.post("/system/functions", &document).status, 202);
        let answer = platform.get("/function/dead");
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.reason().contains("console ends with"), "{answer:?}");
    });
}

#[test]
fn a_queue_that_is_full_sends_clients_away_for_a_while() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        let fields = r#", "ready": "post", "scale": {"max": 1, "queue": 0, "start_ms": 5000, "queue_ms": 100}"#;
        let (_folder, document) = document("slow", "http-reply", "in_process", fields);
        assert_eq!(platform.post("/system/functions", &document).status, 202);
        let address = platform.address;
        let first = std::thread::spawn(move || {
            Answer::to(
                address,
                b"GET /function/slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            )
        });
        platform.wait_for("slow", |stats| stats["waiting"] == 1);
        let second = platform.get("/function/slow");
        assert_eq!(second.status, 429, "{second:?}");
        assert!(second.head.contains("retry-after: 1"), "{second:?}");
        let first = first.join().unwrap();
        assert_eq!(first.status, 503, "{first:?}");
        assert!(first.head.contains("retry-after: 1"), "{first:?}");
    });
}

#[test]
fn bodies_and_heads_beyond_the_limits_are_refused_unread() {
    in_namespace(|| {
        let platform = Platform::demo();
        let gigabyte = b"POST /function/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n";
        assert_eq!(Answer::to(platform.address, gigabyte).status, 413);
        let answer = Answer::to(platform.address, gigabyte);
        assert!(answer.reason().contains("16777216"), "{answer:?}");
        let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
        let long = format!("x-long: {}\r\n", "1".repeat(40 << 10));
        for headers in [many, long] {
            let flood = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
            let answer = Answer::to(platform.address, flood.as_bytes());
            assert_eq!(answer.status, 431, "{answer:?}");
            assert!(answer.reason().contains("headers"), "{answer:?}");
        }
        let path = format!(
            "GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "x".repeat(20 << 10)
        );
        let answer = Answer::to(platform.address, path.as_bytes());
        assert_eq!(answer.status, 414, "{answer:?}");
        assert!(answer.reason().contains("path"), "{answer:?}");
        // What is larger still is not even read.
        let headers: String = (0..100_000).map(|number| format!("x-{number}: 1\r\n")).collect();
        let flood = format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        assert_eq!(Answer::to(platform.address, flood.as_bytes()).status, 431);
        assert_eq!(platform.get("/function/hello").status, 200);
    });
}

#[test]
fn clients_that_dawdle_are_sent_away_while_others_are_served() {
    in_namespace(|| {
        let platform = Platform::demo();
        let mut dawdling: Vec<TcpStream> = [
            "GET /function/hello HTTP/1.1\r\nHost:",
            "POST /system/functions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{",
        ]
        .iter()
        .map(|begun| {
            let mut stream = TcpStream::connect(platform.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(begun.as_bytes()).unwrap();
            stream
        })
        .collect();
        assert_eq!(platform.get("/function/hello").status, 200);
        for stream in &mut dawdling {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            assert!(answer.contains("too slowly\"}"), "{answer}");
        }
    });
}

#[test]
fn a_state_folder_that_another_platform_has_is_said_at_once() {
    in_namespace(|| {
        let folder = Folder::new();
        let state = folder.path().to_str().unwrap();
        let _holder = Platform::serve(&["--state", state]);
        let output = program(&["serve", "--listen", "127.0.0.1:0", "--state", state])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(state) && message.contains("--state"), "{message}");
    });
}

#[test]
fn a_port_that_is_taken_is_said_at_once() {
    in_namespace(|| {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap().to_string();
        let output = program(&["serve", "--listen", &address]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(&address) && message.contains("--listen"), "{message}");
    });
}
