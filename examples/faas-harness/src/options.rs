//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::Arg::{Long, Value};
use lexopt::ValueExt;
use sandbox_net::Ipv4Cidr;

use crate::bench::{Experiment, Plan};

/// What `--help` prints.
pub const USAGE: &str = "\
usage: faas-harness serve [OPTIONS]   run the platform until SIGTERM or SIGINT
       faas-harness demo [OPTIONS]    the same, with the function `hello` deployed
       faas-harness bench [EXPERIMENT...] [OPTIONS]
                                      measure the papers' experiments with `hello` and the functions of --functions:
                                      artefact, overhead, cold-start, cold-against-warm, warm, start-cost,
                                      idle-cost, start-instructions, idle-instructions, memory, burst,
                                      initialisation, warm-burst, answered, requests, requests-wrk, throughput;
                                      all of them if none is named

options:
  --listen ADDRESS:PORT   where to listen [127.0.0.1:8080]
  --functions FILE        deploy the functions of this TOML or JSON file
  --state FOLDER          where deployed functions are remembered [none: a folder that goes with the process]
  --network CIDR          where micro-VMs get their addresses from [172.31.0.0/16]
  --container-network CIDR
                          where containers get theirs from [172.30.0.0/16]
  --bridge NAME           the bridge that containers share, one for each platform of a host [faas0]

options of bench:
  --out FOLDER            where results go, and where a run that was cut short goes on [faas-results]
  --only TEXT[,TEXT]      functions whose name contains one of these [all]
  --rounds N              how often each measurement is repeated [20]
  --instances N           the largest number of instances at a time [100]
  --clients N             the largest number of clients of one instance [4096]
  --quick                 3 rounds, 10 instances, 16 clients, unless options behind it say otherwise
  --requests N            requests of a measurement by hey [32768]
  --seconds N             seconds of a measurement by wrk [5]
  --whole-host            nothing else runs here: count all processor time of this host
  --counting-clock        its clock advances by a nanosecond with each instruction
  --place TEXT            the kind of host, for readers of the results [kvm]
";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Serve,
    /// Serve with a first function.
    Demo,
    /// Measure.
    Bench,
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
    /// Where micro-VMs get their addresses from.
    pub network: Ipv4Cidr,
    /// Where containers get theirs from.
    pub container_network: Ipv4Cidr,
    /// The bridge that they share.
    pub bridge: String,
    /// What is measured.
    pub plan: Plan,
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
            container_network: "172.30.0.0/16".parse()?,
            bridge: "faas0".to_owned(),
            plan: Plan::default(),
        };
        let mut command = None;
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("listen") => options.listen = parser.value()?.parse()?,
                Long("functions") => options.functions = Some(parser.value()?.into()),
                Long("state") => options.state = Some(parser.value()?.into()),
                Long("network") => options.network = parser.value()?.parse()?,
                Long("container-network") => options.container_network = parser.value()?.parse()?,
                Long("bridge") => options.bridge = parser.value()?.string()?,
                Long("out") => options.plan.out = parser.value()?.into(),
                Long("only") => options.plan.only = parser.value()?.string()?,
                Long("rounds") => options.plan.rounds = parser.value()?.parse()?,
                Long("instances") => options.plan.instances = parser.value()?.parse()?,
                Long("clients") => options.plan.clients = parser.value()?.parse()?,
                Long("quick") => options.plan.shorten(),
                Long("requests") => options.plan.requests = parser.value()?.parse()?,
                Long("seconds") => options.plan.seconds = parser.value()?.parse()?,
                Long("counting-clock") => options.plan.counting_clock = true,
                Long("whole-host") => options.plan.whole_host = true,
                Long("place") => options.plan.place = parser.value()?.string()?,
                Long("help") => command = Some(Command::Help),
                Value(word) if command.is_none() => {
                    command = Some(match word.to_str() {
                        Some("serve") => Command::Serve,
                        Some("demo") => Command::Demo,
                        Some("bench") => Command::Bench,
                        Some("help") => Command::Help,
                        _ => bail!("unknown command {word:?}; the commands are serve, demo and bench"),
                    });
                }
                Value(word) if command == Some(Command::Bench) => {
                    let experiment = word.to_str().and_then(Experiment::named);
                    let Some(experiment) = experiment else {
                        let names = Experiment::ALL.map(Experiment::name).join(", ");
                        bail!("unknown experiment {word:?}; there are {names}");
                    };
                    options.plan.experiments.push(experiment);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        match command {
            Some(command) => options.command = command,
            None => bail!("no command; the commands are serve, demo and bench"),
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
    fn experiments_are_chosen_by_name() {
        let options = parse("bench cold-start burst --rounds 3 --only c").unwrap();
        assert_eq!(options.plan.experiments, [Experiment::ColdStart, Experiment::Burst]);
        assert_eq!((options.plan.rounds, options.plan.only.as_str()), (3, "c"));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("", "no command"),
            ("boot", "boot"),
            ("bench warp", "warp"),
            ("serve --fast", "fast"),
            ("serve --listen x", "x"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
