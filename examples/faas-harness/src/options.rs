//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::Arg::{Long, Value};
use lexopt::ValueExt;
use sandbox_net::Ipv4Cidr;

/// What `--help` prints.
pub const USAGE: &str = "\
usage: faas-harness serve [OPTIONS]   run the platform until SIGTERM or SIGINT
       faas-harness demo [OPTIONS]    the same, with the function `hello` deployed

options:
  --listen ADDRESS:PORT   where to listen [127.0.0.1:8080]
  --functions FILE        deploy the functions of this TOML or JSON file
  --state FOLDER          where deployed functions are remembered [none: a folder that goes with the process]
  --network CIDR          where instances get their addresses from [172.31.0.0/16]
";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Serve,
    /// Serve with a first function.
    Demo,
    /// Say how to call it.
    Help,
}

/// The command line's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is to be done.
    pub command: Command,
    /// Where to listen.
    pub listen: SocketAddr,
    /// A file of functions.
    pub functions: Option<PathBuf>,
    /// Where deployed functions are remembered.
    pub state: Option<PathBuf>,
    /// Where instances get their addresses from.
    pub network: Ipv4Cidr,
}

impl Options {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut options = Self {
            command: Command::Help,
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            functions: None,
            state: None,
            network: "172.31.0.0/16".parse()?,
        };
        let mut command = None;
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("listen") => options.listen = parser.value()?.parse()?,
                Long("functions") => options.functions = Some(parser.value()?.into()),
                Long("state") => options.state = Some(parser.value()?.into()),
                Long("network") => options.network = parser.value()?.parse()?,
                Long("help") => command = Some(Command::Help),
                Value(word) if command.is_none() => {
                    command = Some(match word.to_str() {
                        Some("serve") => Command::Serve,
                        Some("demo") => Command::Demo,
                        Some("help") => Command::Help,
                        _ => bail!("unknown command {word:?}; the commands are serve and demo"),
                    });
                }
                other => return Err(other.unexpected().into()),
            }
        }
        match command {
            Some(command) => options.command = command,
            None => bail!("no command; the commands are serve and demo"),
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_may_stand_on_either_side_of_the_command() {
        let options = parse("--listen 0.0.0.0:1 serve --network 10.9.0.0/16").unwrap();
        assert_eq!(options.command, Command::Serve);
        assert_eq!(options.listen.port(), 1);
        assert_eq!(options.network.to_string(), "10.9.0.0/16");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("", "no command"),
            ("boot", "boot"),
            ("serve --fast", "fast"),
            ("serve --listen x", "x"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
