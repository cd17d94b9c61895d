//! Functions from a file: TOML with `[[functions]]`, or JSON with a list `functions`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::function::FunctionSpec;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionsFile {
    functions: Vec<FunctionSpec>,
}

/// Reads a file of functions; one whose name ends in `.json` is JSON, any other TOML.
///
/// # Errors
/// It cannot be read, or is not a list of functions; the message says where.
pub fn read(path: &Path) -> Result<Vec<FunctionSpec>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = parse(&text, path.extension() == Some(OsStr::new("json")));
    let file = file.with_context(|| format!("{} is not a list of functions", path.display()))?;
    Ok(file.functions)
}

fn parse(text: &str, json: bool) -> Result<FunctionsFile> {
    Ok(match json {
        true => serde_json::from_str(text)?,
        false => toml::from_str(text)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let toml = r#"
            [[functions]]
            name = "hello"
            start = "warm"
            scale = { max = 3, warm = 1 }
            [functions.sandbox]
            memory = 8388608
            guest = { unikernel = { image = "/srv/hello" } }
        "#;
        let json = r#"{"functions": [{"name": "hello", "start": "warm", "scale": {"max": 3, "warm": 1},
            "sandbox": {"memory": 8388608, "guest": {"unikernel": {"image": "/srv/hello"}}}}]}"#;
        let (toml, json) = (parse(toml, false).unwrap(), parse(json, true).unwrap());
        assert_eq!(toml.functions, json.functions);
        assert!(parse("[[functions]]\nname = 'x'\nsize = 3", false).is_err());
    }
}
