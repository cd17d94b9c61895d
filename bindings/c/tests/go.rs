//! The Go package, by Go's own tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::process::Command;

use support::{TempFolder, command, guests, has_kvm, prefix, repository, run};

/// Go as it stands, without its package proxies.
fn go(prefix: &Path, cache: &Path) -> Command {
    let mut go = command("go", prefix);
    go.current_dir(repository().join("bindings/go"))
        .env("GOCACHE", cache)
        .env("GOFLAGS", "-mod=mod")
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("SANDBOX_TEST_GUESTS", guests());
    go
}

#[test]
fn the_go_package_passes_its_tests_under_the_race_detector() {
    let Some(prefix) = prefix() else { return };
    if !has_kvm() {
        return;
    }
    // Kept beside the library, so that Go's standard library is compiled once.
    let cache = prefix.join("../go-cache");
    run(go(&prefix, &cache).args(["vet", "./..."]));
    let output = run(go(&prefix, &cache).args(["test", "-race", "-count=1", "-v", "./..."]));
    for test in ["TestAWholeLife/Worker", "TestSignalsOfGosRuntimeDoNoHarm"] {
        assert!(output.contains(&format!("--- PASS: {test}")), "{output}");
    }
    let folder = TempFolder::new();
    let formatted = run(Command::new("gofmt")
        .arg("-l")
        .arg(repository().join("bindings/go"))
        .current_dir(folder.path()));
    assert_eq!(formatted, "", "not formatted");
}
