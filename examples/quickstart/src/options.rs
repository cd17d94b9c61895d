//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::boot;
use crate::linux::LinuxFiles;

const USAGE: &str = "\
usage: quickstart [web] [--json FILE]
       quickstart linux --kernel FILE --initrd FILE --marker TEXT [--mask FEATURE]… [--json FILE]

       quickstart boot FILE [OPTIONS] [-- ARGUMENT…]

  web                boot a web server and fetch its page; needs root for its network interface
  linux              boot a Linux kernel until it powers off
    --kernel FILE    bzImage or uncompressed ELF
    --initrd FILE    initial RAM disk, whose init powers off
    --marker TEXT    what it prints on the console when it is up
    --mask FEATURE   hide a CPU feature from it, by the name in /proc/cpuinfo; repeatable
  boot               boot a unikernel of whatever family until it ends
    --initrd FILE    its initial RAM disk; for Hermit, whose loader is FILE, the application
    --disk FILE      a disk, or NAME=FILE where the guest wants it by name; repeatable
    --memory MIB     its memory; 128 if left out
    --http PORT/PATH give it a network and wait for this page
    --network NAME   what its card is called, where the guest wants it by name; NAME=ADDRESS/PREFIX gives it one
                     without --http, with this address for the host
    --marker TEXT    wait for this on the console
    --env NAME=VALUE its environment; repeatable
    --protocol P     linux64 or pvh, if not the one that the file has
    --mask FEATURE   as above
    --rounds N       boot it N times
    --pool N         keep N virtual machines made ahead of time
    --clones N       when it is ready, save and end it, and have N clones take its place in turn
    --patience S     wait S seconds for it; 60 if left out
    --json FILE      write the result and the timeline";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// What to boot.
    pub guest: Guest,
    /// Where the result goes as JSON.
    pub json: Option<PathBuf>,
}

/// The guests of this program.
#[derive(Debug, PartialEq, Eq)]
pub enum Guest {
    /// The web server.
    Web,
    /// Linux.
    Linux(LinuxFiles),
    /// A unikernel that the user brings.
    Own(boot::Guest),
}

impl Options {
    /// Reads the arguments.
    pub fn parse(mut arguments: lexopt::Parser) -> Result<Self> {
        let mut guest = None;
        let (mut kernel, mut initrd, mut marker, mut json) = (None, None, None, None);
        let mut mask = Vec::new();
        while let Some(argument) = arguments.next()? {
            match argument {
                Value(word) if guest.is_none() && word == "boot" => return Self::parse_boot(arguments),
                Value(word) if guest.is_none() => guest = Some(word.string()?),
                Long("kernel") => kernel = Some(PathBuf::from(arguments.value()?)),
                Long("initrd") => initrd = Some(PathBuf::from(arguments.value()?)),
                Long("marker") => marker = Some(arguments.value()?.string()?),
                Long("mask") => mask.push(arguments.value()?.string()?),
                Long("json") => json = Some(PathBuf::from(arguments.value()?)),
                Short('h') | Long("help") => bail!("{USAGE}"),
                other => bail!("{}\n{USAGE}", other.unexpected()),
            }
        }
        let guest = match guest.as_deref() {
            None | Some("web") => Guest::Web,
            Some("linux") => Guest::Linux(LinuxFiles {
                kernel: kernel.context("linux needs --kernel FILE")?,
                initrd: initrd.context("linux needs --initrd FILE")?,
                marker: marker.context("linux needs --marker TEXT")?,
                mask,
            }),
            Some(other) => bail!("there is no guest {other}\n{USAGE}"),
        };
        Ok(Self { guest, json })
    }

    /// What stands behind `boot`: options, the file, and behind `--` the guest's own arguments.
    fn parse_boot(mut arguments: lexopt::Parser) -> Result<Self> {
        let (mut guest, mut json) = (boot::Guest::default(), None);
        let mut image = None;
        while let Some(argument) = arguments.next()? {
            match argument {
                Value(file) if image.is_none() => image = Some(PathBuf::from(file)),
                Value(word) => guest.arguments.push(word.string()?),
                Long("initrd") => guest.initrd = Some(PathBuf::from(arguments.value()?)),
                Long("disk") => guest.disks.push(arguments.value()?.string()?),
                Long("memory") => guest.memory = arguments.value()?.parse()?,
                Long("http") => guest.http = Some(arguments.value()?.string()?),
                Long("network") => guest.network = Some(arguments.value()?.string()?),
                Long("marker") => guest.marker = Some(arguments.value()?.string()?),
                Long("env") => guest.environment.push(arguments.value()?.string()?),
                Long("protocol") => guest.protocol = Some(arguments.value()?.string()?),
                Long("mask") => guest.mask.push(arguments.value()?.string()?),
                Long("rounds") => guest.rounds = arguments.value()?.parse()?,
                Long("pool") => guest.pool = arguments.value()?.parse()?,
                Long("clones") => guest.clones = arguments.value()?.parse()?,
                Long("patience") => guest.patience = arguments.value()?.parse()?,
                Long("json") => json = Some(PathBuf::from(arguments.value()?)),
                Short('h') | Long("help") => bail!("{USAGE}"),
                other => bail!("{}\n{USAGE}", other.unexpected()),
            }
        }
        guest.image = image.context("boot needs a file")?;
        Ok(Self {
            guest: Guest::Own(guest),
            json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options> {
        Options::parse(lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn the_web_server_needs_no_arguments() {
        let expected = Options {
            guest: Guest::Web,
            json: None,
        };
        assert_eq!(parsed(&[]).unwrap(), expected);
        assert_eq!(parsed(&["web"]).unwrap(), expected);
    }

    #[test]
    fn linux_needs_its_files() {
        let options = parsed(&[
            "linux", "--kernel", "k", "--initrd", "i", "--marker", "m", "--mask", "avx",
        ])
        .unwrap();
        let files = LinuxFiles {
            kernel: "k".into(),
            initrd: "i".into(),
            marker: "m".to_owned(),
            mask: vec!["avx".to_owned()],
        };
        assert_eq!(options.guest, Guest::Linux(files));
        let error = parsed(&["linux", "--kernel", "k"]).unwrap_err();
        assert!(error.to_string().contains("--initrd"), "{error}");
    }

    #[test]
    fn a_guest_that_is_brought_has_its_own_arguments_behind_two_dashes() {
        let options = parsed(&[
            "boot", "--memory", "16", "--disk", "d=f", "k", "--env", "A=b", "--", "--x", "y",
        ])
        .unwrap();
        let expected = boot::Guest {
            image: "k".into(),
            memory: 16,
            disks: vec!["d=f".to_owned()],
            environment: vec!["A=b".to_owned()],
            arguments: vec!["--x".to_owned(), "y".to_owned()],
            ..boot::Guest::default()
        };
        assert_eq!(options.guest, Guest::Own(expected));
        assert!(parsed(&["boot"]).is_err());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for arguments in [&["windows"][..], &["web", "web"], &["--no-such-option"]] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
    }
}
