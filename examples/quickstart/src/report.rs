//! What came of it, for people and as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sandbox::{Exit, Timeline};
use serde_json::{Value, json};

use crate::holdings::Holdings;
use crate::timeline::{self, Share, Step};

/// The life of one sandbox, over.
pub struct Life {
    /// What ran in it.
    pub guest: String,
    /// What the guest had to say: a page's first line, a console's output.
    pub said: String,
    /// How it ended.
    pub exit: Exit,
    /// When which phase was reached.
    pub timeline: Timeline,
    /// The network interface that was made for it.
    pub interface: Option<String>,
}

/// What is there still although everything was given back.
pub struct Left {
    /// Of this process.
    pub holdings: Holdings,
    /// Whether the network interface is.
    pub interface: bool,
}

impl Left {
    /// Whether it is nothing, as it should be.
    pub fn is_nothing(&self) -> bool {
        let Holdings { descriptors, threads } = self.holdings;
        descriptors == 0 && threads == 0 && !self.interface
    }
}

/// A life and what is left of it.
pub struct Report {
    /// The life.
    pub life: Life,
    /// What is left.
    pub left: Left,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let Life { guest, said, exit, .. } = &self.life;
        let said = indented(said);
        let table = timeline::table(&timeline::steps(&self.life.timeline));
        let left = self.left_text();
        format!("  {guest} said:{said}\n  it ended by: {exit}\n\n{table}  left behind: {left}\n")
    }

    fn left_text(&self) -> String {
        let Holdings { descriptors, threads } = self.left.holdings;
        let interface = match (&self.life.interface, self.left.interface) {
            (None, _) => String::new(),
            (Some(name), false) => format!(", interface {name} is gone"),
            (Some(name), true) => format!(", interface {name} is still there"),
        };
        format!("{descriptors} descriptors, {threads} threads{interface}")
    }

    /// Writes it as one JSON object, times in nanoseconds.
    pub fn write_json(&self, file: &Path) -> Result<()> {
        let text = format!("{:#}\n", self.json());
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    fn json(&self) -> Value {
        let steps = timeline::steps(&self.life.timeline);
        let shares = Share::ALL.map(|share| (share.name().to_owned(), timeline::total(&steps, share).into()));
        json!({
            "guest": self.life.guest,
            "said": self.life.said,
            "exit": self.life.exit.to_string(),
            "timeline": steps.iter().map(step_json).collect::<Vec<_>>(),
            "share_ns": Value::Object(shares.into_iter().collect()),
            "left": {
                "descriptors": self.left.holdings.descriptors,
                "threads": self.left.holdings.threads,
                "interfaces": usize::from(self.left.interface),
            },
        })
    }
}

/// One line behind the colon, or several below it.
fn indented(text: &str) -> String {
    match text.contains('\n') {
        false => format!(" {text}"),
        true => text.lines().map(|line| format!("\n    {}", line.trim_end())).collect(),
    }
}

fn step_json(step: &Step) -> Value {
    json!({
        "phase": step.phase.name(),
        "at_ns": step.at,
        "took_ns": step.took,
        "share": step.share.name(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::Phase;
    use sandbox::timeline::Recorder;

    fn report(interface_left: bool) -> Report {
        let recorder = Recorder::start(None);
        recorder.record(Phase::Created);
        Report {
            life: Life {
                guest: "http-reply".to_owned(),
                said: "hello".to_owned(),
                exit: Exit::Killed,
                timeline: recorder.timeline(),
                interface: Some("quick1".to_owned()),
            },
            left: Left {
                holdings: Holdings {
                    descriptors: 0,
                    threads: 0,
                },
                interface: interface_left,
            },
        }
    }

    #[test]
    fn an_interface_that_stays_is_told() {
        assert!(report(false).text().contains("quick1 is gone"));
        assert!(report(true).text().contains("quick1 is still there"));
        assert!(report(false).left.is_nothing());
        assert!(!report(true).left.is_nothing());
    }

    #[test]
    fn several_lines_stand_below_each_other() {
        assert_eq!(indented("one"), " one");
        assert_eq!(indented("one\r\ntwo"), "\n    one\n    two");
    }

    #[test]
    fn json_has_the_result_and_every_phase() {
        let json = report(false).json();
        assert_eq!(json["said"], "hello");
        assert_eq!(json["exit"], "killed");
        assert_eq!(json["timeline"][1]["phase"], "created");
        assert_eq!(json["share_ns"]["sdk"], json["timeline"][1]["at_ns"]);
        assert_eq!(json["left"]["interfaces"], 0);
    }
}
