//! What an image says about the process that runs in it (OCI image-spec, "Image Configuration").

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;
use sandbox_core::spec::ProcessSpec;

use super::error::ImageError;
use super::signal;

/// The part of an image's configuration that a container is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments; program and arguments where there is no entry point.
    pub cmd: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// User, as in [`ProcessSpec::user`].
    pub user: Option<String>,
    /// Working directory.
    pub working_dir: Option<PathBuf>,
    /// The signal that asks the process to end, such as `SIGTERM`.
    pub stop_signal: Option<String>,
    /// Ports that it serves, `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl ImageConfig {
    pub(super) fn from_oci(configuration: &ImageConfiguration) -> Self {
        let Some(config) = configuration.config() else {
            return Self::default();
        };
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Self {
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            env: list(config.env()),
            user: text(config.user()),
            working_dir: text(config.working_dir()).map(PathBuf::from),
            stop_signal: text(config.stop_signal()),
            exposed_ports: list(config.exposed_ports()),
            labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
        }
    }

    /// The number of the signal that asks the process to end: SIGTERM, unless the image says another one.
    ///
    /// # Errors
    /// [`ImageError::BadDocument`] if what the image says is no signal.
    pub fn stop_signal_number(&self) -> Result<i32, ImageError> {
        let Some(name) = &self.stop_signal else {
            return Ok(libc::SIGTERM);
        };
        signal::number(name).ok_or_else(|| ImageError::BadDocument {
            document: "the image's configuration".to_owned(),
            reason: format!("has the StopSignal {name:?}, which is none"),
        })
    }

    /// The process to run: what `asked` leaves open is the image's. Environment variables are merged by name, those of
    /// `asked` winning. Nothing if neither names a program.
    pub fn process(&self, asked: Option<&ProcessSpec>) -> Option<ProcessSpec> {
        let mut process = asked.cloned().unwrap_or_default();
        if process.args.is_empty() {
            process.args = [&*self.entrypoint, &*self.cmd].concat();
        }
        if process.args.is_empty() {
            return None;
        }
        let name = |variable: &str| variable.split('=').next().map(str::to_owned);
        let mut env: Vec<String> = self
            .env
            .iter()
            .filter(|variable| process.env.iter().all(|own| name(own) != name(variable)))
            .cloned()
            .collect();
        env.append(&mut process.env);
        process.env = env;
        process.user = process.user.or_else(|| self.user.clone());
        process.cwd = process.cwd.or_else(|| self.working_dir.clone());
        Some(process)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/bin/server".into()],
            cmd: vec!["--help".into()],
            env: vec!["PATH=/bin".into(), "LEVEL=1".into()],
            user: Some("web".into()),
            working_dir: Some("/srv".into()),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn an_image_has_a_process_of_its_own() {
        let process = config().process(None).unwrap();
        assert_eq!(process.args, ["/bin/server", "--help"]);
        assert_eq!(process.env, ["PATH=/bin", "LEVEL=1"]);
        assert_eq!(process.user.as_deref(), Some("web"));
        assert_eq!(process.cwd, Some("/srv".into()));
    }

    #[test]
    fn what_is_asked_for_wins() {
        let asked = ProcessSpec {
            args: vec!["/bin/sh".into()],
            env: vec!["LEVEL=2".into()],
            user: Some("0".into()),
            ..ProcessSpec::default()
        };
        let process = config().process(Some(&asked)).unwrap();
        assert_eq!(process.args, ["/bin/sh"]);
        assert_eq!(process.env, ["PATH=/bin", "LEVEL=2"]);
        assert_eq!(process.user.as_deref(), Some("0"));
        assert_eq!(process.cwd, Some("/srv".into()));
    }

    #[test]
    fn the_signal_to_stop_by_is_the_images() {
        let config = |stop_signal: Option<&str>| ImageConfig {
            stop_signal: stop_signal.map(str::to_owned),
            ..config()
        };
        assert_eq!(config(None).stop_signal_number().unwrap(), libc::SIGTERM);
        assert_eq!(config(Some("SIGQUIT")).stop_signal_number().unwrap(), libc::SIGQUIT);
        let error = config(Some("SIGSTOPPED")).stop_signal_number().unwrap_err();
        assert!(error.to_string().contains("SIGSTOPPED"), "{error}");
    }

    #[test]
    fn an_image_without_a_program_has_no_process() {
        assert_eq!(ImageConfig::default().process(None), None);
    }
}
