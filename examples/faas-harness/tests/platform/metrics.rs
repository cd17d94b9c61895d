//! `/metrics` and `/stats`, as those read them who watch the platform.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Platform, in_namespace};

/// A sample of Prometheus' text format (version 0.0.4).
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn is_name(text: &str) -> bool {
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins_well && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').expect(line)),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    let pairs = labels.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (label, value) = pair.split_once('=').expect(line);
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .expect(line);
        assert!(is_name(label) && !value.contains(['"', '\\', '\n']), "{line}");
        (label.to_owned(), value.to_owned())
    });
    Sample {
        name: name.to_owned(),
        labels: pairs.collect(),
        value: value.parse().expect(line),
    }
}

/// The kinds of the page's metrics and their samples; panics where Prometheus would not take the page.
fn parse(page: &str) -> (BTreeMap<String, String>, Vec<Sample>) {
    let (mut kinds, mut helped, mut samples) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    let mut current = String::new();
    assert!(page.ends_with('\n'), "the last line ends");
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect(line);
            assert!(helped.insert(name.to_owned()) && !text.is_empty(), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            current = name.to_owned();
        } else {
            let sample = sample(line);
            let family = match kinds.get(&current).map(String::as_str) {
                Some("histogram") => ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| sample.name.strip_suffix(end)),
                _ => Some(sample.name.as_str()),
            };
            assert_eq!(
                family,
                Some(current.as_str()),
                "all samples of a metric stand together: {line}"
            );
            samples.push(sample);
        }
    }
    (kinds, samples)
}

/// Checks that the buckets of each histogram are cumulative and end with all.
fn check_histograms(kinds: &BTreeMap<String, String>, samples: &[Sample]) {
    for name in kinds
        .iter()
        .filter(|(_, kind)| *kind == "histogram")
        .map(|(name, _)| name)
    {
        let of = |end: &str, function: &str| -> Vec<&Sample> {
            let wanted = format!("{name}{end}");
            let all = samples.iter();
            all.filter(|sample| sample.name == wanted && sample.labels["function"] == function)
                .collect()
        };
        for function in ["hello", "other"] {
            let buckets = of("_bucket", function);
            let bounds: Vec<f64> = buckets
                .iter()
                .map(|bucket| bucket.labels["le"].parse().unwrap())
                .collect();
            assert!(
                bounds.is_sorted() && bounds.last() == Some(&f64::INFINITY),
                "{name}: {bounds:?}"
            );
            let counts: Vec<f64> = buckets.iter().map(|bucket| bucket.value).collect();
            assert!(counts.is_sorted(), "{name}: {counts:?}");
            assert_eq!(counts.last().copied(), Some(of("_count", function)[0].value), "{name}");
            assert_eq!(of("_sum", function).len(), 1, "{name}");
        }
    }
}

#[test]
fn prometheus_would_take_the_metrics() {
    in_namespace(|| {
        let platform = Platform::demo();
        platform.deploy("other", "");
        for path in ["/function/hello", "/function/hello", "/function/other"] {
            assert_eq!(platform.get(path).status, 200);
        }
        let answer = platform.get("/metrics");
        assert!(
            answer.head.contains("content-type: text/plain; version=0.0.4"),
            "{}",
            answer.head
        );
        let (kinds, samples) = parse(&answer.body);
        check_histograms(&kinds, &samples);
        for (name, kind) in [
            ("faas_invocations_total", "counter"),
            ("faas_instances", "gauge"),
            ("faas_initialisation_seconds", "histogram"),
            ("faas_execution_seconds", "histogram"),
        ] {
            assert_eq!(kinds.get(name).map(String::as_str), Some(kind), "{name}");
        }
        let hello = samples
            .iter()
            .find(|sample| sample.name == "faas_invocations_total" && sample.labels["function"] == "hello");
        let hello = hello.unwrap();
        assert_eq!((hello.value, hello.labels["code"].as_str()), (2.0, "200"));
    });
}

#[test]
fn the_stats_are_those_of_the_thesis() {
    in_namespace(|| {
        let platform = Platform::demo();
        for _ in 0..3 {
            assert_eq!(platform.get("/function/hello").status, 200);
        }
        let stats = platform.get("/stats").json();
        assert_eq!(stats["running_instances"], 1);
        let hello = &stats["functions"]["hello"];
        for (times, count) in [("initialisation", 1), ("execution", 3)] {
            let summary = &hello[times];
            assert_eq!(summary["count"], count, "{times}");
            let value = |field: &str| {
                summary[field]
                    .as_f64()
                    .unwrap_or_else(|| panic!("no {field} in {summary}"))
            };
            assert!(value("standard_deviation") >= 0.0);
            assert!(
                value("average") > 0.0 && value("average") <= value("maximum"),
                "{summary}"
            );
            assert!(value("p95") <= value("maximum"), "{summary}");
        }
        assert_eq!(platform.request("DELETE", "/stats", "").status, 204);
        assert_eq!(platform.stats("hello")["execution"]["count"], 0);
    });
}
