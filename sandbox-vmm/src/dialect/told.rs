//! What a guest is told, in whatever words: its addresses, arguments and environment, and what it cannot be told.

use std::net::Ipv4Addr;

use sandbox_core::spec::{GuestSpec, NetworkSpec, SandboxSpec, UnikernelGuest};
use sandbox_core::{Error, Result};
use sandbox_net::{Ipv4Cidr, NetError};

/// The unikernel of a spec.
pub(super) fn unikernel(spec: &SandboxSpec) -> Result<&UnikernelGuest> {
    match &spec.guest {
        GuestSpec::Unikernel(guest) => Ok(guest),
        _ => Err(Error::unsupported("guest", "this dialect runs unikernel guests")),
    }
}

/// The spec's field that a unikernel's command line comes from.
pub(super) fn cmdline_field(guest: &UnikernelGuest) -> &'static str {
    match guest.cmdline {
        Some(_) => "guest.unikernel.cmdline",
        None => "guest.unikernel.args",
    }
}

/// An interface's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Number of its card, in the order of the spec.
    pub(super) card: usize,
    /// Address and prefix length.
    pub(super) cidr: Ipv4Cidr,
    /// Where other networks are reached.
    pub(super) gateway: Option<Ipv4Addr>,
}

/// The addresses that the spec gives its cards; a gateway without an address is refused.
pub(super) fn addresses(networks: &[NetworkSpec]) -> Result<Vec<Address>> {
    let mut addresses = Vec::new();
    for (card, network) in networks.iter().enumerate() {
        match (&network.guest_address, network.gateway) {
            (Some(text), gateway) => {
                let cidr: Ipv4Cidr = text.parse().map_err(|error: NetError| {
                    Error::invalid(format!("networks[{card}].guest_address"), error.to_string())
                })?;
                addresses.push(Address { card, cidr, gateway });
            }
            (None, Some(_)) => {
                let context = "stands without guest_address; give the address that it is the way out for";
                return Err(Error::invalid(format!("networks[{card}].gateway"), context));
            }
            (None, None) => {}
        }
    }
    Ok(addresses)
}

/// The address of the first card, for families that can be told no other.
pub(super) fn one_address(networks: &[NetworkSpec], family: &str) -> Result<Option<Address>> {
    let addresses = addresses(networks)?;
    match addresses.iter().find(|address| address.card > 0) {
        None => Ok(addresses.first().copied()),
        Some(address) => {
            let field = format!("networks[{}].guest_address", address.card);
            let context = format!("{family} can be told the address of its first card alone");
            Err(Error::unsupported(field, context))
        }
    }
}

/// For guests that cannot be told their address: refuses one, so that it does not quietly mean nothing.
pub(super) fn refuse_addresses(networks: &[NetworkSpec]) -> Result<()> {
    for (index, network) in networks.iter().enumerate() {
        let named = [
            ("guest_address", network.guest_address.is_some()),
            ("gateway", network.gateway.is_some()),
        ];
        if let Some((field, _)) = named.into_iter().find(|(_, given)| *given) {
            let context = "this kind of guest cannot be told; configure the network inside";
            return Err(Error::unsupported(format!("networks[{index}].{field}"), context));
        }
    }
    Ok(())
}

/// For families that take no initial RAM disk.
pub(super) fn refuse_initrd(guest: &UnikernelGuest, family: &str) -> Result<()> {
    match guest.initrd {
        None => Ok(()),
        Some(_) => {
            let context = format!("{family} takes no initial RAM disk; give it a disk");
            Err(Error::unsupported("guest.unikernel.initrd", context))
        }
    }
}

/// For families that run one processor.
pub(super) fn refuse_processors(spec: &SandboxSpec, family: &str) -> Result<()> {
    match spec.vcpus {
        1 => Ok(()),
        count => {
            let context = format!("is {count}; {family} runs on one processor here");
            Err(Error::unsupported("vcpus", context))
        }
    }
}

/// Refuses less memory than the family was ever seen to work with, in bytes.
pub(super) fn require_memory(spec: &SandboxSpec, least: u64, family: &str) -> Result<()> {
    match spec.memory >= least {
        true => Ok(()),
        false => {
            let (given, mib) = (spec.memory, least >> 20);
            let context = format!("is {given} bytes, and the least that {family} is known to work with is {mib} MiB");
            Err(Error::invalid("memory", context))
        }
    }
}

/// The words of `values`, each in the form that `word` gives it; `None` is a value that has no form, for what
/// `hindrance` says.
pub(super) fn words<'a>(
    values: &'a [String],
    field: &str,
    hindrance: &'static str,
    word: impl Fn(&'a str) -> Option<String>,
) -> Result<Vec<String>> {
    let each = |(index, value): (usize, &'a String)| {
        word(value).ok_or_else(|| Error::invalid(format!("{field}[{index}]"), hindrance))
    };
    values.iter().enumerate().map(each).collect()
}

/// A value that ends at white space, as it is; `None` if it is empty or has some.
pub(super) fn unquoted(value: &str) -> Option<String> {
    let plain = !value.is_empty() && !value.contains(char::is_whitespace);
    plain.then(|| value.to_owned())
}

/// A value in double quotes where it needs them, for guests whose quotes take everything but `"` and `\` literally.
pub(super) fn quoted(value: &str) -> Option<String> {
    if value.contains(['"', '\\', '\n']) {
        return None;
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&byte);
    match !value.is_empty() && value != "--" && value.bytes().all(plain) {
        true => Some(value.to_owned()),
        false => Some(format!("\"{value}\"")),
    }
}

/// What [`unquoted`] refuses.
pub(super) const UNQUOTED: &str = "is empty or has white space, which separates words here";
/// What [`quoted`] refuses.
pub(super) const QUOTED: &str = "has a double quote, a backslash or a line feed, which this guest cannot be told";

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> SandboxSpec {
        SandboxSpec::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn addresses_are_read_with_their_cards() {
        let spec = spec(
            r#"{"guest": {"unikernel": {"image": "i"}}, "networks": [{"id": "a"},
                {"id": "b", "guest_address": "10.0.0.2/30", "gateway": "10.0.0.1"}]}"#,
        );
        let found = addresses(&spec.networks).unwrap();
        assert_eq!(
            (found[0].card, found[0].cidr.netmask()),
            (1, Ipv4Addr::new(255, 255, 255, 252))
        );
        let error = one_address(&spec.networks, "X").unwrap_err();
        assert_eq!(error.field(), Some("networks[1].guest_address"));
    }

    #[test]
    fn a_gateway_needs_an_address() {
        let spec =
            spec(r#"{"guest": {"unikernel": {"image": "i"}}, "networks": [{"id": "a", "gateway": "10.0.0.1"}]}"#);
        let error = addresses(&spec.networks).unwrap_err();
        assert_eq!(error.field(), Some("networks[0].gateway"));
    }

    #[test]
    fn values_are_quoted_where_they_must_be() {
        assert_eq!(quoted("/a-b=c").as_deref(), Some("/a-b=c"));
        assert_eq!(quoted("a b").as_deref(), Some("\"a b\""));
        assert_eq!(quoted("").as_deref(), Some("\"\""));
        assert_eq!(quoted("--").as_deref(), Some("\"--\""));
        assert_eq!((quoted("a\"b"), unquoted("a b"), unquoted("")), (None, None, None));
    }
}
