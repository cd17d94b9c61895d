//! A running platform in a network namespace of its own, and a client.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use sandbox_net::{LinkControl, LinkSettings};
pub use sandbox_testing::{TempFolder as Folder, skip};
use serde_json::Value;

/// Longer than anything here takes: only what hangs runs into it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `test` with an empty network namespace, in which the platforms it starts live too. Skipped where that cannot be
/// had.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or("unnamed").to_owned();
    sandbox_testing::in_namespace(&name, || {
        if !Path::new("/dev/kvm").exists() {
            return skip("needs KVM");
        }
        let settings = LinkSettings {
            bring_up: true,
            ..LinkSettings::default()
        };
        LinkControl::open().unwrap().configure("lo", &settings).unwrap();
        test();
    });
}

/// A document of this harness around a guest of the project, and the folder of its image.
pub fn document(name: &str, guest: &str, isolation: &str, fields: &str) -> (Folder, String) {
    let folder = Folder::new();
    sandbox_guests::write_to(folder.path()).unwrap();
    let image = folder.path().join(guest).display().to_string();
    let document = format!(
        r#"{{"name": "{name}", "sandbox": {{"guest": {{"unikernel": {{"image": "{image}", "family": "bare"}}}},
            "memory": 8388608, "isolation": "{isolation}", "ready": "boot_port"}}{fields}}}"#
    );
    (folder, document)
}

/// Whether the full number of rounds is wanted, which takes long.
pub fn full_rounds() -> bool {
    std::env::var_os("SANDBOX_TEST_ROUNDS").is_some_and(|rounds| rounds == "full")
}

/// A platform that runs.
pub struct Platform {
    process: Child,
    /// Kept open, so that the platform can go on writing.
    _output: BufReader<ChildStdout>,
    /// What it would leave behind when it is killed.
    _state: Folder,
    pub address: SocketAddr,
}

impl Platform {
    /// A platform without functions.
    pub fn serve(arguments: &[&str]) -> Self {
        Self::start("serve", arguments)
    }

    /// A platform with the function `hello`.
    pub fn demo() -> Self {
        let platform = Self::start("demo", &[]);
        assert_eq!(platform.get("/system/function/hello").status, 200);
        platform
    }

    fn start(command: &str, arguments: &[&str]) -> Self {
        let state = Folder::new();
        // Bridges are known by their names, whatever namespace they are in.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bridge = format!("f{:x}b{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut process = program(&[command, "--listen", "127.0.0.1:0", "--bridge", &bridge, "--state"])
            .arg(state.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let (_, url) = line
            .split_once("http://")
            .unwrap_or_else(|| panic!("the platform said {line:?}"));
        let address = url.trim().trim_end_matches('/').parse().unwrap();
        if command == "demo" {
            // The function is deployed once the next line is there.
            output.read_line(&mut line).unwrap();
        }
        Self {
            process,
            _output: output,
            _state: state,
            address,
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, body)
    }

    pub fn request(&self, method: &str, path: &str, body: &str) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: platform\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Answer::to(self.address, format!("{head}{body}").as_bytes())
    }

    /// Deploys a guest that comes with the harness, with further fields of OpenFaaS' document.
    pub fn deploy(&self, name: &str, fields: &str) {
        let document = format!(r#"{{"service": "{name}", "image": "builtin:hello"{fields}}}"#);
        let answer = self.post("/system/functions", &document);
        assert_eq!(answer.status, 202, "{}", answer.body);
    }

    /// One function's part of `/stats`.
    pub fn stats(&self, function: &str) -> Value {
        self.get("/stats").json()["functions"][function].clone()
    }

    /// Waits until `condition` holds of a function's part of `/stats`.
    pub fn wait_for(&self, function: &str, condition: impl Fn(&Value) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !condition(&self.stats(function)) {
            assert!(std::time::Instant::now() < deadline, "{}", self.get("/stats").body);
            // There is no event to wait for: this is what a monitoring client does.
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process.
    pub fn pid(&self) -> libc::pid_t {
        self.process.id() as libc::pid_t
    }

    /// Deploys a document of this harness.
    pub fn deploy_document(&self, document: &str) {
        let answer = self.post("/system/functions", document);
        assert_eq!(answer.status, 202, "{}", answer.body);
    }

    /// Tells it to end, and waits until it has.
    pub fn end(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.process.wait().unwrap()
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: sends a signal to a child that was not waited for yet; no memory is touched.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program with these arguments.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faas-harness"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Sends these bytes and reads until the connection ends.
    pub fn to(address: SocketAddr, request: &[u8]) -> Self {
        Self::within(address, request, PATIENCE)
    }

    /// The same with another patience.
    pub fn within(address: SocketAddr, request: &[u8], patience: Duration) -> Self {
        let mut stream = TcpStream::connect_timeout(&address, patience).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        // A platform that refuses early need not read all of it.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        // A refusal may end with a reset, when not all was read.
        let _ = stream.read_to_end(&mut answer);
        Self::parse(&String::from_utf8(answer).unwrap())
    }

    fn parse(answer: &str) -> Self {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no answer but {answer:?}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The reason that a refusal gives.
    pub fn reason(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// How many network interfaces this thread's namespace has.
pub fn interfaces() -> usize {
    let own = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    // Two lines of heads.
    own.lines().count() - 2
}
