//! What guests say, as the provider API tells it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::{PATIENCE, Platform, in_namespace};

/// The logs of `hello` as they come.
fn follow(platform: &Platform, query: &str) -> impl Iterator<Item = Value> + use<> {
    let mut stream = TcpStream::connect(platform.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("GET /system/logs?name=hello&{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    // Between them stand the lengths of the chunks that the answer comes in.
    lines
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(&line).unwrap())
}

#[test]
fn logs_that_are_followed_tell_of_instances_to_come_and_end_with_the_platform() {
    in_namespace(|| {
        let platform = Platform::demo();
        let mut lines = follow(&platform, "follow=true");
        for number in 0..2 {
            assert_eq!(platform.post("/pre-boot/hello/1", "").status, 200);
            let line = lines.find(|line| line["text"] == "http-reply: ready").unwrap();
            assert_eq!(line["instance"], format!("hello-{number}"));
            assert_eq!(line["name"], "hello");
        }
        // What was said before is told first, as far as it is wanted.
        let mut late = follow(&platform, "follow=true&tail=1");
        let mut instances: Vec<Value> = late.by_ref().take(2).map(|line| line["instance"].clone()).collect();
        instances.sort_by_key(ToString::to_string);
        assert_eq!(instances, ["hello-0", "hello-1"]);
        assert!(platform.end().success());
        assert_eq!(lines.count() + late.count(), 0);
    });
}

#[test]
fn logs_that_are_followed_end_with_their_function() {
    in_namespace(|| {
        let platform = Platform::demo();
        assert_eq!(platform.post("/pre-boot/hello/1", "").status, 200);
        let mut lines = follow(&platform, "follow=1&tail=1");
        assert_eq!(lines.next().unwrap()["text"], "http-reply: ready");
        let removal = r#"{"functionName": "hello"}"#;
        assert_eq!(platform.request("DELETE", "/system/functions", removal).status, 202);
        assert_eq!(lines.count(), 0);
        assert!(platform.end().success());
    });
}
