//! Instances that fail before anything was sent to them.

use crate::containers::{can_run_containers, document};
use crate::support::{Folder, Platform, in_namespace, interfaces};

/// Serves one connection, and stays without serving.
const ONCE: &str = "#!/bin/sh\n\
    nc -l -p 80 -e /reply &\n\
    until grep -q ':0050 0*:0000 0A' /proc/net/tcp /proc/net/tcp6; do :; done\n\
    wget -q -O /dev/null --post-data=x \"$READY_URL\"\n\
    exec tail -f /dev/null\n";
/// Says that it is ready, and serves nothing.
const NEVER: &str = "#!/bin/sh\nwget -q -O /dev/null --post-data=x \"$READY_URL\"\nexec tail -f /dev/null\n";
const REPLY: &str =
    "#!/bin/sh\nread -r line\nprintf 'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n\\r\\nok'\n";

#[test]
fn a_request_that_an_instance_does_not_take_goes_to_a_fresh_one_once() {
    if !can_run_containers() {
        return;
    }
    in_namespace(|| {
        let folder = Folder::new();
        let platform = Platform::serve(&[]);
        platform.deploy_document(&document(&folder, "once", [ONCE, REPLY], ""));
        platform.deploy_document(&document(&folder, "never", [NEVER, REPLY], ""));
        for starts in [1, 2] {
            let answer = platform.get("/function/once");
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
            assert_eq!(platform.stats("once")["initialisation"]["count"], starts);
        }
        let answer = platform.get("/function/never");
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.reason().contains("cannot connect"), "{answer:?}");
        assert_eq!(platform.stats("never")["initialisation"]["count"], 2, "tried twice");
        assert!(platform.end().success());
        assert_eq!(interfaces(), 1, "only lo is left");
    });
}
