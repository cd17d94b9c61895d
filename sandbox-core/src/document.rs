//! JSON documents, read strictly.

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// A JSON document larger than this is refused unread, in bytes: it bounds what a hostile tenant's document costs.
pub const MAX_BYTES: usize = 1 << 20;

/// Reads a document: a spec, or the options of a verb.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] with the field's path and, for a closed set of values, the accepted ones.
pub fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    if json.len() > MAX_BYTES {
        let context = format!("the document has {} bytes; at most {MAX_BYTES} are read", json.len());
        return Err(Error::new(ErrorKind::InvalidSpec, context));
    }
    // Serde would take an array for the fields in their order.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::new(ErrorKind::InvalidSpec, "the document is no JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let document = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let context = error.inner().to_string();
        match path.as_str() {
            "." => Error::new(ErrorKind::InvalidSpec, context),
            _ => Error::invalid(path, context),
        }
    })?;
    let trailing = deserializer.end();
    trailing.map_err(|error| Error::new(ErrorKind::InvalidSpec, error.to_string()))?;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{MemoryRestore, RestoreOptions};

    #[test]
    fn options_are_read_and_their_mistakes_named() {
        let options: RestoreOptions = from_json(br#"{"memory": "eager", "start": true}"#).unwrap();
        assert!(options.start && options.memory == MemoryRestore::Eager);
        for (json, field) in [
            (r#"{"memory": "lazy"}"#, Some("memory")),
            (
                r#"{"overrides": {"networks": {"net": {"tapp": "t"}}}}"#,
                Some("overrides.networks.net.tapp"),
            ),
            (r#"{} {}"#, None),
            ("[]", None),
        ] {
            let error = from_json::<RestoreOptions>(json.as_bytes()).unwrap_err();
            assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, field), "{json}");
        }
    }
}
