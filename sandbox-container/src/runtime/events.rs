//! What a runtime itself counts: the answer to its command `events --stats`, which runc and runsc have.

use sandbox_core::stats::DiskStats;
use serde_json::Value;

use super::Kind;
use crate::cgroup::{Usage, disks_by_operation};

/// Reads the answer of a runtime: a JSON document on a line of its own. What is left out, or 0, was not counted.
pub fn usage(kind: Kind, answer: &str) -> Usage {
    let documents = answer
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let Some(event) = documents.into_iter().find(|event| event["type"] == "stats") else {
        return Usage::default();
    };
    let data = &event["data"];
    let counted = |value: &Value| value.as_u64().filter(|number| *number > 0);
    let raw = |names: [&str; 2]| names.iter().find_map(|name| counted(&data["memory"]["raw"][name]));
    Usage {
        memory: counted(&data["memory"]["usage"]["usage"]),
        anonymous: raw(["anon", "total_rss"]),
        mapped: raw(["file_mapped", "total_mapped_file"]),
        // gVisor adds up the cgroup that its processes are in, which is not the container's where that has none.
        cpu: counted(&data["cpu"]["usage"]["total"]).filter(|_| kind != Kind::Runsc),
        disks: disks(&data["blkio"]),
        oom_kills: None,
    }
}

/// The sum of entries such as `{"major": 254, "minor": 0, "op": "Read", "value": 4096}`, in bytes and in requests.
fn disks(counters: &Value) -> Option<DiskStats> {
    let (bytes, requests) = (
        counters["ioServiceBytesRecursive"].as_array()?,
        counters["ioServicedRecursive"].as_array()?,
    );
    let sum = |entries: &Vec<Value>, operation: &str| {
        let of_it = |entry: &&Value| {
            entry["op"]
                .as_str()
                .is_some_and(|op| op.eq_ignore_ascii_case(operation))
        };
        let numbers = entries.iter().filter(of_it).filter_map(|entry| entry["value"].as_u64());
        numbers.sum()
    };
    Some(disks_by_operation(|operation| {
        (sum(requests, operation), sum(bytes, operation))
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_with_cgroups_counts_everything() {
        let answer = r#"{"type":"stats","id":"x","data":{"cpu":{"usage":{"total":3000,"kernel":1000,"user":2000}},
            "memory":{"usage":{"limit":9000,"usage":4096,"max":5000},"raw":{"anon":100,"file_mapped":20}},
            "blkio":{"ioServiceBytesRecursive":[{"major":254,"op":"Read","value":4096},{"major":7,"op":"read","value":4},
            {"major":254,"op":"Write","value":512}],"ioServicedRecursive":[{"major":254,"op":"Read","value":2}]}}}"#;
        let usage = usage(Kind::Runc, &answer.replace('\n', ""));
        assert_eq!(
            (usage.memory, usage.anonymous, usage.mapped),
            (Some(4096), Some(100), Some(20))
        );
        assert_eq!(usage.cpu, Some(3000));
        let disks = usage.disks.unwrap();
        assert_eq!(
            (disks.read_bytes, disks.written_bytes, disks.reads, disks.writes),
            (4100, 512, 2, 0)
        );
    }

    #[test]
    fn what_was_not_counted_is_not_said_to_be_nothing() {
        // As runc 1.1 says it without cgroups, and runsc of the host's own cgroup.
        let runc = r#"{"type":"stats","id":"x","data":{"cpu":{"usage":{"kernel":0,"user":0},"throttling":{}},
            "memory":{"usage":{"limit":0,"failcnt":0}},"pids":{},"blkio":{}}}"#;
        assert_eq!(usage(Kind::Runc, &runc.replace('\n', "")), Usage::default());
        let runsc = r#"{"type":"stats","id":"x","data":{"cpu":{"usage":{"total":43894256334252}},
            "memory":{"usage":{"limit":0,"usage":2035712}},"pids":{"current":1}}}"#;
        let counted = usage(Kind::Runsc, &runsc.replace('\n', ""));
        assert_eq!((counted.memory, counted.cpu), (Some(2_035_712), None));
        assert_eq!(usage(Kind::Runc, "container does not exist\n"), Usage::default());
    }
}
