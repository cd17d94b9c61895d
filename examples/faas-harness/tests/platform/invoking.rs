//! Requests and the instances that answer them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use crate::support::{Answer, PATIENCE, Platform, document, in_namespace, interfaces};

#[test]
fn a_cold_function_answers_and_its_instance_serves_the_next_request() {
    in_namespace(|| {
        let platform = Platform::demo();
        assert_eq!(
            platform.get("/function/hello").body,
            "hello from http-reply\nrequest 1\n"
        );
        assert_eq!(platform.get("/invoke").body, "hello from http-reply\nrequest 2\n");
        assert_eq!(platform.get("/invoke/hello").body, "hello from http-reply\nrequest 3\n");
        let stats = platform.stats("hello");
        assert_eq!(stats["running"], 1);
        assert_eq!(stats["initialisation"]["count"], 1);
        assert_eq!(stats["execution"]["count"], 3);
    });
}

#[test]
fn a_hundred_cold_starts_at_once_all_answer() {
    for isolation in ["in_process", "worker"] {
        in_namespace(move || {
            let platform = Platform::serve(&[]);
            // No instance serves a second request, so that each request has a cold start of its own.
            let fields = r#", "scale": {"max": 100, "reuse": false, "queue_ms": 60000, "start_ms": 60000}"#;
            let (_folder, document) = document("burst", "http-reply", isolation, fields);
            platform.deploy_document(&document);
            let address = platform.address;
            // The connections are there before the first request is sent.
            let streams: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
            let clients: Vec<_> = streams
                .into_iter()
                .map(|mut stream| {
                    thread::spawn(move || {
                        stream.set_read_timeout(Some(PATIENCE)).unwrap();
                        stream
                            .write_all(b"GET /function/burst HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                            .unwrap();
                        let mut answer = String::new();
                        stream.read_to_string(&mut answer).unwrap();
                        answer
                    })
                })
                .collect();
            for client in clients {
                let answer = client.join().unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                assert!(answer.ends_with("\nrequest 1\n"), "{answer}");
            }
            let stats = platform.stats("burst");
            assert_eq!(stats["initialisation"]["count"], 100, "{stats}");
            let failures = "faas_instance_start_failures_total{function=\"burst\"} 0\n";
            assert!(platform.get("/metrics").body.contains(failures));
            assert!(platform.end().success());
            assert_eq!(interfaces(), 1, "only lo is left");
        });
    }
}

#[test]
fn a_pool_has_sandboxes_ready_before_any_request_whatever_they_are() {
    for isolation in ["in_process", "worker"] {
        in_namespace(move || {
            let platform = Platform::serve(&[]);
            let fields = r#", "start": "pool", "scale": {"pool": 3}"#;
            let (_folder, document) = document("pooled", "http-reply", isolation, fields);
            platform.deploy_document(&document);
            platform.wait_for("pooled", |stats| stats["standing_by"] == 3);
            assert_eq!(platform.stats("pooled")["running"], 0, "{isolation}");
            assert_eq!(platform.get("/function/pooled").status, 200, "{isolation}");
            // What was taken is made again.
            platform.wait_for("pooled", |stats| stats["standing_by"] == 3);
            assert!(platform.end().success());
            assert_eq!(interfaces(), 1, "{isolation}: only lo is left");
        });
    }
}

#[test]
fn a_thousand_invocations_lose_none() {
    in_namespace(|| {
        let platform = Platform::demo();
        let address = platform.address;
        let clients: Vec<_> = (0..8)
            .map(|_| {
                thread::spawn(move || {
                    let request = b"GET /function/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                    (0..125).filter(|_| Answer::to(address, request).status == 200).count()
                })
            })
            .collect();
        let good: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert_eq!(good, 1000);
        assert_eq!(platform.stats("hello")["invocations"], 1000);
    });
}

#[test]
fn instances_booted_ahead_are_there_for_the_first_request() {
    in_namespace(|| {
        let platform = Platform::demo();
        assert_eq!(platform.post("/pre-boot/hello/3", "").json()["started"], 3);
        assert_eq!(platform.stats("hello")["idle"], 3);
        platform.get("/function/hello");
        assert_eq!(platform.stats("hello")["initialisation"]["count"], 3);
    });
}

#[test]
fn a_function_scales_to_zero_when_nobody_calls() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        platform.deploy("brief", r#", "labels": {"com.openfaas.scale.zero-duration": "1ms"}"#);
        assert_eq!(platform.get("/function/brief").status, 200);
        platform.wait_for("brief", |stats| stats["running"] == 0);
        assert_eq!(platform.get("/function/brief").status, 200);
    });
}

#[test]
fn warm_instances_stand_by_before_any_request() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        platform.deploy("warm", r#", "annotations": {"sandbox.start": "warm"}"#);
        platform.wait_for("warm", |stats| stats["idle"] == 1);
        assert_eq!(
            platform
                .post("/system/scale-function/warm", r#"{"replicas": 3}"#)
                .status,
            202
        );
        platform.wait_for("warm", |stats| stats["idle"] == 3);
        assert_eq!(
            platform
                .post("/system/scale-function/warm", r#"{"replicas": 0}"#)
                .status,
            202
        );
        platform.wait_for("warm", |stats| stats["running"] == 0);
    });
}

#[test]
fn clones_answer_each_at_an_address_of_its_own() {
    for (isolation, start) in ["in_process", "worker"]
        .into_iter()
        .flat_map(|isolation| ["fork", "restore", "pool"].map(|start| (isolation, start)))
    {
        in_namespace(move || {
            let platform = Platform::serve(&[]);
            let (_folder, document) = document("clone", "http-reply", isolation, &format!(r#", "start": "{start}""#));
            platform.deploy_document(&document);
            assert_eq!(platform.post("/pre-boot/clone/3", "").json()["started"], 3, "{start}");
            for _ in 0..3 {
                assert_eq!(platform.get("/function/clone").status, 200, "{start}");
            }
            assert!(platform.end().success());
            assert_eq!(interfaces(), 1, "{start}: only lo is left");
        });
    }
}

#[test]
fn the_end_leaves_no_interface_and_no_request_unanswered() {
    in_namespace(|| {
        let platform = Platform::demo();
        assert_eq!(platform.get("/function/hello").status, 200);
        assert!(interfaces() > 1);
        assert!(platform.end().success());
        assert_eq!(interfaces(), 1, "only lo is left");
    });
}
