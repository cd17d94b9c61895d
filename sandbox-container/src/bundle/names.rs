//! The files by which a container with a network knows names: its own, and where to ask for others.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sandbox_core::NetworkState;

/// Where the host keeps its name servers, and where it keeps the real ones if the first file names only itself.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// A file of the host, and where the container sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameFile {
    /// The file.
    pub source: PathBuf,
    /// Its place in the container.
    pub destination: &'static str,
}

/// Writes the files to the sandbox's folder.
///
/// # Errors
/// The host's.
pub fn write(folder: &Path, hostname: &str, networks: &[NetworkState]) -> io::Result<Vec<NameFile>> {
    let resolvers = RESOLVERS.map(|path| fs::read_to_string(path).unwrap_or_default());
    let files = [
        ("hostname", "/etc/hostname", format!("{hostname}\n")),
        ("hosts", "/etc/hosts", hosts(hostname, networks)),
        ("resolv.conf", "/etc/resolv.conf", resolvers_for_others(&resolvers)),
    ];
    let mut written = Vec::new();
    for (name, destination, content) in files {
        let source = folder.join(name);
        fs::write(&source, content)?;
        written.push(NameFile { source, destination });
    }
    Ok(written)
}

fn hosts(hostname: &str, networks: &[NetworkState]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for address in networks.iter().filter_map(|network| network.address.as_deref()) {
        let address = address.split('/').next().unwrap_or(address);
        text += &format!("{address}\t{hostname}\n");
    }
    text
}

/// The first of the files in which a name server is left when those are taken out that only the host itself reaches.
fn resolvers_for_others(files: &[String]) -> String {
    let reachable = |line: &&str| match line.trim().strip_prefix("nameserver") {
        Some(server) => server.trim().parse().is_ok_and(|server: IpAddr| !server.is_loopback()),
        None => true,
    };
    let without_loopbacks = files
        .iter()
        .map(|text| -> Vec<&str> { text.lines().filter(reachable).collect() });
    let mut usable = without_loopbacks.filter(|lines| lines.iter().any(|line| line.trim().starts_with("nameserver")));
    let lines = usable.next().unwrap_or_default();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_its_name_at_its_address() {
        let network = NetworkState {
            address: Some("10.0.0.2/24".to_owned()),
            ..NetworkState::default()
        };
        let text = hosts("boxed", &[network, NetworkState::default()]);
        assert!(
            text.ends_with("\n10.0.0.2\tboxed\n") && text.starts_with("127.0.0.1\tlocalhost\n"),
            "{text}"
        );
    }

    #[test]
    fn name_servers_that_only_the_host_reaches_are_left_out() {
        let both = "search home\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n".to_owned();
        assert_eq!(resolvers_for_others(&[both]), "search home\nnameserver 192.0.2.1\n");
        let stub = "nameserver 127.0.0.53\noptions edns0\n".to_owned();
        let real = "nameserver 2001:db8::1\n".to_owned();
        assert_eq!(resolvers_for_others(&[stub.clone(), real.clone()]), real);
        assert_eq!(resolvers_for_others(&[stub, String::new()]), "");
    }
}
