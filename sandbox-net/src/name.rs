//! Interface names as the kernel takes them.

use crate::NetError;

/// Longest interface name in bytes: `IFNAMSIZ` without the terminating NUL.
pub(crate) const MAX_LENGTH: usize = libc::IFNAMSIZ - 1;

/// Checks that `name` can be the name of one particular interface.
///
/// The kernel would cut a longer name short and act on another interface, and
/// takes `%d` in the name of a new interface for a pattern.
pub(crate) fn check(name: &str) -> Result<(), NetError> {
    let reason = if name.is_empty() {
        "is empty: name an interface"
    } else if name.len() > MAX_LENGTH {
        "is too long: use at most 15 bytes"
    } else if name == "." || name == ".." {
        "is reserved: choose another"
    } else if name.bytes().any(is_forbidden) {
        "has a forbidden character: use letters, digits, '-', '_' and '.'"
    } else {
        return Ok(());
    };
    Err(NetError::InvalidName {
        name: name.to_owned(),
        reason,
    })
}

/// The bytes that `dev_valid_name` of the kernel refuses, NUL, and `%`.
fn is_forbidden(byte: u8) -> bool {
    matches!(byte, b'/' | b':' | b'%' | 0) || byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_takes_pass() {
        for name in ["lo", "sbx0", "tap-a_b.c", "fifteen-bytes-x"] {
            assert!(check(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_the_kernel_would_refuse_or_misread_are_refused() {
        let too_long = "sixteen-bytes-xx";
        assert_eq!(too_long.len(), MAX_LENGTH + 1);
        for name in ["", too_long, ".", "..", "a/b", "a:1", "a b", "a\tb", "a\0b", "sbx%d"] {
            let error = check(name).unwrap_err();
            assert!(
                matches!(&error, NetError::InvalidName { name: given, .. } if given == name),
                "{error}"
            );
        }
    }
}
