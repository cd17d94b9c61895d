//! Root file systems.

use sandbox::Exit;

use crate::support::container::{guest, rootfs, runtimes, script};
use crate::support::{PATIENCE, console_text, created};

#[test]
fn the_root_is_read_only_unless_asked_for_and_writes_are_private() {
    for name in runtimes() {
        let text = "touch /mine 2>/dev/null && echo written || echo denied; ls /theirs 2>/dev/null; exit 0";
        let run = |writable| {
            let mut spec = script(name, text);
            guest(&mut spec).writable_root = writable;
            let sandbox = created(&spec);
            sandbox.start().unwrap();
            assert_eq!(sandbox.wait(Some(PATIENCE)).unwrap(), Exit::Code(0), "{name}");
            console_text(&*sandbox)
        };
        assert_eq!(run(false), "denied\n", "{name}");
        assert_eq!(run(true), "written\n", "{name}");
        assert!(
            !rootfs().join("mine").exists(),
            "{name} wrote to the folder that all share"
        );
    }
}
