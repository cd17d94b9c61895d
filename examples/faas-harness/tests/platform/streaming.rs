//! Requests and answers that are passed on while they come, with their headers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::containers::{PERSISTENT_SERVER, can_run_containers, document};
use crate::support::{Answer, Folder, PATIENCE, Platform, in_namespace, interfaces};

/// More than an instance has memory.
const LARGE: usize = 256 << 20;
/// What the platform may take for passing it on.
const PLATFORM_MEMORY: usize = 48 << 20;
/// Reads the head of a request and forgets it.
const SKIP_HEAD: &str = "#!/bin/sh\nwhile read -r line && [ ${#line} -gt 1 ]; do :; done\n";

/// Answers with the body of the request, five bytes at a time.
fn echo() -> String {
    let piece = "dd bs=5 count=1 2>/dev/null\n";
    format!("{SKIP_HEAD}printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\n'\n{piece}{piece}")
}

/// Answers with many zeros.
fn zeros() -> String {
    format!(
        "{SKIP_HEAD}printf 'HTTP/1.1 200 OK\\r\\nContent-Length: {LARGE}\\r\\n\\r\\n'\n\
         exec dd if=/dev/zero bs=1048576 count={} 2>/dev/null\n",
        LARGE >> 20
    )
}

/// Answers with the length of the request's body.
fn count() -> String {
    format!(
        "{SKIP_HEAD}count=$(head -c {LARGE} | wc -c)\n\
         printf 'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s' ${{#count}} $count\n"
    )
}

/// Answers with the head of the request, and with headers of its own.
const HEADERS: &str = "#!/bin/sh\n\
    head=$(while read -r line && [ ${#line} -gt 1 ]; do echo \"$line\"; done)\n\
    printf 'HTTP/1.1 201 Created\\r\\nX-Answer: yes\\r\\nSet-Cookie: a=1\\r\\nSet-Cookie: b=2\\r\\n'\n\
    printf 'Connection: close, x-hop\\r\\nX-Hop: 1\\r\\nContent-Length: %d\\r\\n\\r\\n%s' ${#head} \"$head\"\n";

/// Runs `test` with a platform whose function `f` has the script `reply`.
fn with_function(reply: String, fields: &'static str, test: impl FnOnce(Platform) + Send + 'static) {
    if !can_run_containers() {
        return;
    }
    in_namespace(move || {
        let folder = Folder::new();
        let platform = Platform::serve(&[]);
        platform.deploy_document(&document(&folder, "f", [PERSISTENT_SERVER, &reply], fields));
        test(platform);
        assert_eq!(interfaces(), 1, "only lo is left");
    });
}

/// A connection on which `request` was sent.
fn send(platform: &Platform, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(platform.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Reads until `end` has come; gives all that came.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
    String::from_utf8(read).unwrap()
}

/// What the platform's process has of the host's memory, in bytes.
fn resident(platform: &Platform) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", platform.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

const HALF_A_REQUEST: &str =
    "POST /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\nfirst";

#[test]
fn an_answer_begins_before_its_request_has_ended() {
    with_function(echo(), "", |platform| {
        let mut stream = send(&platform, HALF_A_REQUEST);
        assert!(read_until(&mut stream, "\r\n\r\nfirst").starts_with("HTTP/1.1 200 OK\r\n"));
        stream.write_all(b"again").unwrap();
        assert_eq!(read_until(&mut stream, "again"), "again");
        assert!(platform.end().success());
    });
}

#[test]
fn a_request_under_way_is_answered_whole_when_the_platform_is_told_to_end() {
    with_function(echo(), "", |platform| {
        let mut stream = send(&platform, HALF_A_REQUEST);
        read_until(&mut stream, "\r\n\r\nfirst");
        platform.signal(libc::SIGTERM);
        // It takes no more connections from some moment on.
        while TcpStream::connect(platform.address).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
        stream.write_all(b"again").unwrap();
        assert_eq!(read_until(&mut stream, "again"), "again");
        assert!(platform.end().success());
    });
}

#[test]
fn headers_are_kept_both_ways_but_for_those_of_a_connection() {
    with_function(HEADERS.to_owned(), "", |platform| {
        let request = "GET /function/f/a/b?c=d HTTP/1.1\r\nHost: x\r\nX-Question: 1\r\nX-Question: 2\r\nCookie: c=3\r\n\
            Connection: close, x-mine\r\nX-Mine: 1\r\n\r\n";
        let answer = Answer::to(platform.address, request.as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
        for header in ["\r\nx-answer: yes", "\r\nset-cookie: a=1", "\r\nset-cookie: b=2"] {
            assert!(answer.head.contains(header), "{header}: {answer:?}");
        }
        assert!(!answer.head.contains("x-hop"), "{answer:?}");
        let asked = answer.body.to_ascii_lowercase();
        for header in ["get /a/b?c=d http/1.1", "x-question: 1", "x-question: 2", "cookie: c=3"] {
            assert!(asked.contains(header), "{header}: {asked}");
        }
        assert!(!asked.contains("x-mine"), "{asked}");
        assert!(platform.end().success());
    });
}

#[test]
fn an_answer_that_is_larger_than_any_memory_costs_the_platform_little_however_slowly_it_is_read() {
    with_function(zeros(), "", |platform| {
        let mut stream = send(
            &platform,
            "GET /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        read_until(&mut stream, "\r\n\r\n");
        // Time in which the instance could flood the platform.
        thread::sleep(Duration::from_millis(300));
        let (mut length, mut largest) = (0, resident(&platform));
        let mut piece = vec![0; 1 << 20];
        loop {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                read => length += read,
            }
            largest = largest.max(resident(&platform));
        }
        assert_eq!(length, LARGE);
        assert!(largest < PLATFORM_MEMORY, "{largest} bytes are resident");
        assert!(platform.end().success());
    });
}

#[test]
fn a_request_that_is_larger_than_any_memory_costs_the_platform_little() {
    with_function(count(), r#", "max_body_bytes": 1073741824"#, |platform| {
        let head =
            format!("POST /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {LARGE}\r\n\r\n");
        let mut stream = send(&platform, &head);
        let piece = vec![0; 1 << 20];
        let mut largest = 0;
        for _ in 0..LARGE / piece.len() {
            stream.write_all(&piece).unwrap();
            largest = largest.max(resident(&platform));
        }
        let answer = read_until(&mut stream, &format!("\r\n\r\n{LARGE}"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(largest < PLATFORM_MEMORY, "{largest} bytes are resident");
        assert!(platform.end().success());
    });
}

#[test]
fn a_body_that_grows_beyond_the_limit_without_announcing_it_is_refused() {
    with_function(count(), r#", "max_body_bytes": 1000"#, |platform| {
        let piece = format!("{:x}\r\n{}\r\n", 800, "x".repeat(800));
        let request = format!(
            "POST /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             {piece}{piece}0\r\n\r\n"
        );
        let answer = Answer::to(platform.address, request.as_bytes());
        assert_eq!(answer.status, 413, "{answer:?}");
        assert!(answer.reason().contains("1000"), "{answer:?}");
        assert!(platform.end().success());
    });
}

#[test]
fn a_client_that_does_not_read_keeps_no_instance_beyond_the_functions_time() {
    with_function(zeros(), r#", "timeout_ms": 1000"#, |platform| {
        let mut stream = send(
            &platform,
            "GET /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        platform.wait_for("f", |stats| stats["busy"] == 1);
        platform.wait_for("f", |stats| stats["running"] == 0);
        // What it finds when it reads after all is not the whole.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < LARGE, "{} bytes", answer.len());
        assert!(platform.end().success());
    });
}
