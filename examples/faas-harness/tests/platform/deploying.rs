//! The provider API, and what outlives the platform.

use serde_json::Value;

use crate::support::{Folder, Platform, in_namespace, interfaces};

#[test]
fn functions_are_deployed_listed_updated_and_removed() {
    in_namespace(|| {
        let platform = Platform::serve(&[]);
        assert_eq!(platform.get("/system/functions").json(), Value::Array(Vec::new()));
        platform.deploy("one", r#", "labels": {"team": "a"}"#);
        let again = platform.post("/system/functions", r#"{"service": "one", "image": "builtin:hello"}"#);
        assert_eq!(again.status, 409);
        assert_eq!(platform.get("/function/one").status, 200);

        let status = platform.get("/system/function/one").json();
        assert_eq!(status["name"], "one");
        assert_eq!(status["labels"]["team"], "a");
        assert_eq!(status["invocationCount"], 1);
        assert_eq!(status["availableReplicas"], 1);

        let update = r#"{"service": "one", "image": "builtin:hello", "labels": {"team": "b"}}"#;
        assert_eq!(platform.request("PUT", "/system/functions", update).status, 202);
        assert_eq!(platform.get("/system/function/one").json()["labels"]["team"], "b");
        assert_eq!(platform.get("/function/one").body, "hello from http-reply\nrequest 1\n");

        let removal = r#"{"functionName": "one"}"#;
        assert_eq!(platform.request("DELETE", "/system/functions", removal).status, 202);
        assert_eq!(platform.request("DELETE", "/system/functions", removal).status, 404);
        assert_eq!(platform.get("/function/one").status, 404);
    });
}

#[test]
fn what_a_guest_says_is_in_the_logs() {
    in_namespace(|| {
        let platform = Platform::demo();
        platform.get("/function/hello");
        let line = platform.get("/system/logs?name=hello&tail=1").json();
        assert_eq!(line["text"], "http-reply: ready");
        assert_eq!(line["instance"], "hello-0");
    });
}

#[test]
fn the_platform_says_what_it_is() {
    in_namespace(|| {
        let platform = Platform::demo();
        assert_eq!(platform.get("/system/info").json()["provider"], "faas-harness");
        assert_eq!(platform.get("/healthz").status, 200);
        assert_eq!(platform.post("/async-function/hello", "").status, 501);
        assert!(platform.get("/").body.contains("<title>faas-harness</title>"));
        platform.get("/function/hello");
        let metrics = platform.get("/metrics").body;
        assert!(
            metrics.contains("faas_invocations_total{function=\"hello\",code=\"200\"} 1\n"),
            "{metrics}"
        );
        assert!(
            metrics.contains("faas_instances{function=\"hello\",state=\"idle\"} 1\n"),
            "{metrics}"
        );
    });
}

#[test]
fn functions_outlive_a_crash_and_instances_do_not() {
    in_namespace(|| {
        let folder = Folder::new();
        let state = ["--state", folder.path().to_str().unwrap()];
        let platform = Platform::serve(&state);
        platform.deploy("kept", r#", "annotations": {"sandbox.port": "80"}"#);
        assert_eq!(platform.get("/function/kept").status, 200);
        platform.kill();
        let platform = Platform::serve(&state);
        assert_eq!(
            platform.get("/function/kept").body,
            "hello from http-reply\nrequest 1\n"
        );
        assert_eq!(interfaces(), 2, "lo and the new instance's tap");
    });
}

#[test]
fn functions_come_from_a_file() {
    in_namespace(|| {
        let folder = Folder::new();
        std::fs::write(folder.path().join("guest"), sandbox_guests::HTTP_REPLY).unwrap();
        let image = folder.path().join("guest");
        let file = folder.path().join("functions.toml");
        let text = format!(
            "[[functions]]\nname = 'filed'\n[functions.sandbox]\nmemory = 8388608\nready = 'boot_port'\n\
             isolation = 'in_process'\n[functions.sandbox.guest.unikernel]\nimage = '{}'\nfamily = 'bare'\n",
            image.display()
        );
        std::fs::write(&file, text).unwrap();
        let platform = Platform::serve(&["--functions", file.to_str().unwrap()]);
        assert_eq!(
            platform.get("/function/filed").body,
            "hello from http-reply\nrequest 1\n"
        );
    });
}
