//! Setting one field of a JSON document by its dotted path, the way that errors name fields: `disks[0].path`.

use serde_json::{Map, Value};

use crate::entry::{Failure, Outcome};

/// Longest path, in steps.
const MAX_STEPS: usize = 32;
/// Largest array that can be made by setting its elements.
const MAX_ELEMENTS: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Field(&'a str),
    Element(usize),
}

/// Sets the field of `document` at `path`; objects and arrays on the way are made. An array's element must exist or be
/// the next one.
pub fn set(document: &mut Value, path: &str, value: Value) -> Outcome<()> {
    let mut place = document;
    for step in parse(path)? {
        place = match step {
            Step::Field(name) => field(place, name, path)?,
            Step::Element(index) => element(place, index, path)?,
        };
    }
    *place = value;
    Ok(())
}

fn field<'a>(place: &'a mut Value, name: &str, path: &str) -> Outcome<&'a mut Value> {
    if place.is_null() {
        *place = Value::Object(Map::new());
    }
    match place {
        Value::Object(fields) => Ok(fields.entry(name).or_insert(Value::Null)),
        _ => Err(wrong(
            path,
            format!("has the field {name} in something that is no object"),
        )),
    }
}

fn element<'a>(place: &'a mut Value, index: usize, path: &str) -> Outcome<&'a mut Value> {
    if place.is_null() {
        *place = Value::Array(Vec::new());
    }
    let Value::Array(elements) = place else {
        return Err(wrong(
            path,
            format!("has the element {index} of something that is no array"),
        ));
    };
    if index == elements.len() && index < MAX_ELEMENTS {
        elements.push(Value::Null);
    }
    let count = elements.len();
    let element = elements.get_mut(index);
    element.ok_or_else(|| {
        wrong(
            path,
            format!("has the element {index} of an array of {count}; the next is {count}"),
        )
    })
}

fn parse(path: &str) -> Outcome<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (name, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
        if name.is_empty() {
            return Err(wrong(path, "has a field without a name"));
        }
        steps.push(Step::Field(name));
        while !rest.is_empty() {
            let inner = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let parsed = inner.and_then(|(number, rest)| Some((number.parse().ok()?, rest)));
            let Some((index, left)) = parsed else {
                return Err(wrong(path, "has no number between [ and ]"));
            };
            steps.push(Step::Element(index));
            rest = left;
        }
    }
    match steps.len() {
        0..=MAX_STEPS => Ok(steps),
        _ => Err(wrong(path, format!("has more than {MAX_STEPS} steps"))),
    }
}

fn wrong(path: &str, what: impl std::fmt::Display) -> Failure {
    Failure::invalid_argument("path", format!("{path:?} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_set_and_what_leads_to_them_is_made() {
        let mut document = json!({"memory": 1});
        for (path, value) in [
            ("memory", json!(2)),
            ("guest.linux.kernel", json!("/k")),
            ("disks[0].path", json!("/d")),
            ("disks[0].id", json!("d")),
            ("disks[1].id", json!("e")),
        ] {
            set(&mut document, path, value).unwrap();
        }
        let expected = json!({
            "memory": 2,
            "guest": {"linux": {"kernel": "/k"}},
            "disks": [{"path": "/d", "id": "d"}, {"id": "e"}],
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn paths_that_lead_nowhere_are_refused() {
        let deep = ["a"; MAX_STEPS + 1].join(".");
        let paths = [
            "",
            ".",
            "a.",
            "a..b",
            "[0]",
            "a[",
            "a[]",
            "a[x]",
            "a[0]b",
            "a[-1]",
            "memory.x",
            "a[1]",
            "memory[0]",
            "a[18446744073709551616]",
            &deep,
        ];
        for path in paths {
            let mut document = json!({"memory": 1});
            assert!(set(&mut document, path, json!(1)).is_err(), "{path}");
        }
    }
}
