//! Packet filter rules, by the program `nft` (nftables).
//!
//! Each managed bridge has a table of its own, so that it goes as a whole, and rules that never change: what changes is
//! which ports are published, and that stands in maps. So a packet's way does not grow with the number of sandboxes.
//!
//! The rules are text, not JSON: the JSON reader of nftables before 1.0.7 makes a set without values of a map whose
//! values have two parts, and says nothing.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::{Ipv4Cidr, NetError, PublishedPort, command};

/// Where Debian and most others have it, for users whose `PATH` has no `sbin`.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
/// How long a change may take. It waits for other changes, of which a busy host has many.
const DEADLINE: Duration = Duration::from_secs(30);

/// The table of the bridge `bridge`.
pub(crate) fn table(bridge: &str) -> String {
    format!("sandbox-{bridge}")
}

/// Makes the table of a bridge, in the place of one that a dead process left.
///
/// - What comes from the bridge and is not from its network, or is for the host's own 127.0.0.0/8, is dropped: the
///   host's loopback addresses are opened to the bridge for published ports (`route_localnet`), and must not be for
///   guests.
/// - What leaves by another interface gets the host's address.
/// - What comes for a published port, from elsewhere, from the host or from the bridge itself, gets to the sandbox; if
///   it is from the bridge or the host's loopback, with the host's address, so that the answer comes back this way.
/// - On an isolated bridge nothing gets from one sandbox to another, also not by a published port. Frames that stay on
///   the bridge do not come by here: its ports are isolated as well.
pub(crate) fn create_table(bridge: &str, subnet: Ipv4Cidr, isolated: bool) -> Result<(), NetError> {
    let table = table(bridge);
    let ports = "dnat ip to meta l4proto . ip daddr . th dport map @addressed
fib daddr type local dnat ip to meta l4proto . th dport map @ports";
    let between = match isolated {
        true => format!("iifname \"{bridge}\" oifname \"{bridge}\" drop"),
        false => String::new(),
    };
    let rules = format!(
        "add table ip {table}
delete table ip {table}
table ip {table} {{
map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
map addressed {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }}
chain guard {{
type filter hook prerouting priority raw;
iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop
iifname \"{bridge}\" ip saddr != {{ {subnet}, 0.0.0.0 }} drop
}}
chain between {{
type filter hook forward priority filter;
{between}
}}
chain incoming {{
type nat hook prerouting priority dstnat;
{ports}
}}
chain own {{
type nat hook output priority -100; # the name dstnat is not known here
{ports}
}}
chain outgoing {{
type nat hook postrouting priority srcnat;
ip saddr {subnet} oifname != \"{bridge}\" masquerade
ip saddr {subnet} oifname \"{bridge}\" ct status dnat masquerade
ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade
}}
}}
"
    );
    run(&rules)
}

/// Removes the table of a bridge. One that is not there counts as removed.
pub(crate) fn delete_table(bridge: &str) -> Result<(), NetError> {
    let table = table(bridge);
    // Adding what is there changes nothing, so that there is something to delete.
    run(&format!("add table ip {table}\ndelete table ip {table}\n"))
}

/// Publishes ports of the sandbox at `address`, all or none.
pub(crate) fn publish(bridge: &str, address: Ipv4Addr, ports: &[PublishedPort]) -> Result<(), NetError> {
    run(&elements("create", bridge, Some(address), ports))
}

/// Takes ports back. The table, or some of them, may be gone.
pub(crate) fn withdraw(bridge: &str, ports: &[PublishedPort]) -> Result<(), NetError> {
    // One by one: those that are there go even if others are not.
    for port in ports {
        match run(&elements("delete", bridge, None, std::slice::from_ref(port))) {
            Err(NetError::CommandFailed { reason, .. }) if reason.contains("No such file or directory") => {}
            result => result?,
        }
    }
    Ok(())
}

fn elements(verb: &str, bridge: &str, address: Option<Ipv4Addr>, ports: &[PublishedPort]) -> String {
    let table = table(bridge);
    let mut rules = String::new();
    for port in ports {
        let (map, at) = match port.host_address {
            Some(host) => ("addressed", format!("{host} . ")),
            None => ("ports", String::new()),
        };
        let to = address.map_or(String::new(), |address| format!(" : {address} . {}", port.guest_port));
        let protocol = port.protocol;
        let port = port.host_port;
        // Writing to a string cannot fail.
        let _ = writeln!(
            rules,
            "{verb} element ip {table} {map} {{ {protocol} . {at}{port}{to} }}"
        );
    }
    rules
}

/// Makes the rules of a namespace in which one guest lives: it is reached by `outer`, the address of the interface
/// `interface`, and speaks to others with it.
pub(crate) fn translate(interface: &str, outer: Ipv4Addr, guest: Ipv4Addr) -> Result<(), NetError> {
    run(&format!(
        "table ip sandbox-clone {{
chain incoming {{
type nat hook prerouting priority dstnat;
iifname \"{interface}\" ip daddr {outer} dnat to {guest}
}}
chain outgoing {{
type nat hook postrouting priority srcnat;
oifname \"{interface}\" masquerade
}}
}}
"
    ))
}

fn run(rules: &str) -> Result<(), NetError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = std::env::split_paths(&path).collect();
    let folders = on_path.iter().map(|folder| folder.as_path());
    let program = command::find("nft".as_ref(), folders.chain(FOLDERS.map(Path::new)));
    let program = program.ok_or(NetError::CommandMissing {
        program: "nft".to_owned(),
        remedy: "install the Debian package nftables",
    })?;
    let mut nft = Command::new(&program);
    nft.args(["-f", "-"]);
    let output = command::run(nft, rules.as_bytes(), DEADLINE)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(NetError::CommandFailed {
            program: program.display().to_string(),
            reason: output.complaint(),
        }),
    }
}
