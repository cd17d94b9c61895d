//! What a runtime says when it refuses.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sandbox_core::{Error, ErrorKind};
use serde::Deserialize;

/// How much of a log's end is read: a runtime's last words are short, and a container can make some of them.
const LOG_END: u64 = 16 << 10;

/// One line of a log.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// Why a runtime's command failed, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint(pub String);

/// The last thing that a log in JSON, or without form, complains of.
pub fn complaint(log: &Path) -> Complaint {
    let text = end_of(log).unwrap_or_default();
    let mut last = None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str::<Line>(line) {
            Ok(line) if matches!(line.level.as_str(), "error" | "fatal" | "") => last = Some(line.msg),
            Ok(line) => last = last.or(Some(line.msg)),
            Err(_) => last = Some(line.to_owned()),
        }
    }
    Complaint(last.unwrap_or_default().trim().to_owned())
}

fn end_of(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END)))?;
    let mut bytes = Vec::new();
    file.take(LOG_END).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Complaint {
    /// Whether the program that was to run is missing from the container, or cannot be run there.
    pub fn is_about_the_program(&self) -> bool {
        let text = self.0.to_ascii_lowercase();
        let signs = [
            "executable file",
            "exec format error",
            "no such file or directory\" found",
            "error finding executable",
            "failed to load",
            "failed to find initial",
            "exec failed",
        ];
        signs.iter().any(|sign| text.contains(sign)) || (text.contains("exec: \"") && text.contains("stat "))
    }

    /// The contract's error for a failure of `verb`.
    pub fn into_error(self, verb: &str, runtime: &str, program: &str) -> Error {
        if self.is_about_the_program() {
            let context = format!("{program:?} cannot be run in the container: {}", self.0);
            return Error::new(ErrorKind::NotFound, context).with_field("guest.container.process.args");
        }
        let lower = self.0.to_ascii_lowercase();
        let kind = match () {
            () if lower.contains("permission denied") || lower.contains("operation not permitted") => {
                ErrorKind::PermissionDenied
            }
            () if lower.contains("cannot allocate memory") || lower.contains("resource temporarily unavailable") => {
                ErrorKind::HostExhausted
            }
            () => ErrorKind::HostFailure,
        };
        let words = match self.0.is_empty() {
            true => "it did not say why",
            false => &self.0,
        };
        Error::new(kind, format!("{runtime} could not {verb} the container: {words}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_counts_whatever_its_form() {
        let path = std::env::temp_dir().join(format!("sandbox-log-{}", std::process::id()));
        let json = "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"x\"}\n{\"level\":\"error\",\"msg\":\"second\"}\n\
                    {\"level\":\"warning\",\"msg\":\"third\"}\n";
        std::fs::write(&path, json).unwrap();
        assert_eq!(complaint(&path).0, "second");
        std::fs::write(&path, "plain words\n\n").unwrap();
        assert_eq!(complaint(&path).0, "plain words");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(complaint(&path).0, "");
    }

    #[test]
    fn a_missing_program_is_told_from_a_failing_host() {
        let missing = Complaint("exec: \"nope\": executable file not found in $PATH".to_owned());
        let error = missing.into_error("create", "runc", "nope");
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::NotFound, Some("guest.container.process.args"))
        );
        let denied = Complaint("mkdir /sys/fs/cgroup/x: permission denied".to_owned());
        assert_eq!(
            denied.into_error("create", "runc", "x").kind(),
            ErrorKind::PermissionDenied
        );
    }
}
