//! How containers end.

use sandbox::{Exit, State};

use crate::support::container::{runtimes, script};
use crate::support::{PATIENCE, console_text, created};

#[test]
fn a_container_runs_from_create_to_torn_down() {
    for name in runtimes() {
        let sandbox = created(&script(name, "echo hello; exit 7"));
        assert_eq!(sandbox.state(), State::Created, "{name}");
        assert_eq!(console_text(&*sandbox), "", "{name} runs nothing before start");
        sandbox.start().unwrap();
        assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(7), "{name}");
        assert_eq!(console_text(&*sandbox), "hello\n", "{name}");
        sandbox.teardown().wait(PATIENCE).unwrap();
        assert_eq!(sandbox.state(), State::TornDown, "{name}");
        assert_eq!(sandbox.wait(None).unwrap(), Exit::Code(7), "{name}");
    }
}
