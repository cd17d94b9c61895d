//! The page for people, in a browser.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::picture::colours;
use crate::support::{Answer, Folder, Platform, document, in_namespace, skip};

const BROWSER: &str = "/usr/bin/chromium";
/// The colours in which the page draws calls and starts.
const PLOT: [[u8; 3]; 2] = [[0x33, 0x66, 0xcc], [0xee, 0x88, 0x00]];

/// What the browser says to `what`, after half a minute of the page's time: it has its own clock, which does not wait.
fn browse(profile: &Path, what: &str, platform: &Platform) -> String {
    let output = Command::new(BROWSER)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--window-size=1000,800", "--virtual-time-budget=30000", what])
        .arg(format!("http://{}/", platform.address))
        .env("HOME", profile)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The text of the element `id`, tags included.
fn element<'a>(page: &'a str, id: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("id=\"{id}\">")).expect(id);
    rest.split_once("</tbody>").or(rest.split_once("</")).expect(id).0
}

/// Whether a colour is this one, but for what a line's smooth edges take from it.
fn resembles(colour: [u8; 3], drawn: [u8; 3]) -> bool {
    colour.iter().zip(drawn).all(|(one, other)| one.abs_diff(other) < 48)
}

#[test]
fn the_page_shows_functions_instances_and_starts_as_they_happen() {
    in_namespace(|| {
        if !Path::new(BROWSER).exists() {
            return skip("needs chromium");
        }
        let platform = Platform::demo();
        // Each call of this one starts an instance.
        let (_folder, document) = document("busy", "http-reply", "in_process", r#", "scale": {"reuse": false}"#);
        platform.deploy_document(&document);
        assert_eq!(platform.get("/function/hello").status, 200);
        assert_eq!(platform.get("/function/busy").status, 200);
        let (stop, address) = (Arc::new(AtomicBool::new(false)), platform.address);
        let caller = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let request = b"GET /function/busy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(Answer::to(address, request).status, 200);
                }
            })
        };
        let folder = Folder::new();
        let picture = folder.path().join("page.png");
        let page = browse(folder.path(), "--dump-dom", &platform);
        browse(folder.path(), &format!("--screenshot={}", picture.display()), &platform);
        stop.store(true, Ordering::SeqCst);
        caller.join().unwrap();

        let functions = element(&page, "functions");
        assert!(
            functions.contains("<td>hello</td>") && functions.contains("<td>busy</td>"),
            "{functions}"
        );
        let hello = functions
            .split("<tr>")
            .find(|row| row.contains("<td>hello</td>"))
            .unwrap();
        assert!(
            hello.starts_with("<td>hello</td><td>0</td><td>1</td><td>0</td>"),
            "one idle: {hello}"
        );
        assert_ne!(element(&page, "running"), "0");
        let events = element(&page, "events");
        assert!(
            events.contains("busy: ") && events.contains(" started"),
            "no start was shown: {events:?}"
        );

        let colours = colours(&picture);
        assert_eq!(colours.values().sum::<usize>(), 1000 * 800);
        assert!(colours.len() > 20, "a blank picture has few colours: {}", colours.len());
        for drawn in PLOT {
            let is_drawn = colours.keys().any(|colour| resembles(*colour, drawn));
            assert!(is_drawn, "nothing is drawn in {drawn:?}");
        }
    });
}
