//! A web server without an operating system: described, booted, asked for its page, taken apart.

use std::time::Duration;

use anyhow::Result;
use sandbox::{Runtime, SandboxSpec};
use serde_json::json;

use crate::http;
use crate::image::Image;
use crate::network;
use crate::report::Life;

/// Longer than anything here takes, on whatever host: only what hangs runs into it.
const PATIENCE: Duration = Duration::from_secs(30);
const HTTP_PORT: u16 = 80;

/// The whole life of one sandbox.
pub fn run(runtime: &Runtime) -> Result<Life> {
    // The guest is a program of a few kilobytes that runs on the bare virtual machine. A spec names it by its file.
    let image = Image::write(sandbox_guests::HTTP_REPLY)?;
    // One address for either end of the network cable, neither of them in use on this machine.
    let addresses = network::unused_addresses()?;
    let (host_address, guest_address) = (addresses.host(), addresses.guest());
    let interface = format!("quick{}", std::process::id());

    let spec = json!({
        "guest": {"unikernel": {"image": image.path(), "family": "bare"}},
        "memory": 16 << 20,
        "networks": [{
            "id": "net",
            "tap": {"create": {"name": interface, "host_address": host_address.to_string()}},
            "guest_address": guest_address.to_string(),
        }],
        "ready": "boot_port",
        "isolation": "in_process",
    });
    let spec = SandboxSpec::from_json(spec.to_string().as_bytes())?;

    // Opens, checks and sets up everything that the spec names. No guest code runs yet.
    let sandbox = runtime.create(&spec)?;
    sandbox.start()?;
    // The guest itself says when it can serve; nobody has to poll it.
    sandbox.wait_ready(PATIENCE)?;

    let page = http::get((guest_address.address(), HTTP_PORT).into(), "/", PATIENCE)?;

    // The call returns at once. Waiting for what it returns proves that every thread, descriptor and page is gone.
    sandbox.teardown().wait(PATIENCE)?;

    Ok(Life {
        guest: "http-reply".to_owned(),
        said: page.lines().next().unwrap_or_default().to_owned(),
        exit: sandbox.wait(None)?,
        timeline: sandbox.timeline(),
        interface: Some(interface),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_these_very_lines() {
        let readme = include_str!("../../../README.md");
        let (_, rest) = readme.split_once("```rust\n").unwrap();
        let (sample, _) = rest.split_once("```").unwrap();
        let own: Vec<&str> = include_str!("web.rs")
            .lines()
            .map(|line| line.strip_prefix("    ").unwrap_or(line))
            .collect();
        assert!(sample.lines().count() > 10);
        assert!(
            own.join("\n").contains(sample.trim_end()),
            "this is not in web.rs:\n{sample}"
        );
    }
}
