//! Further commands.

use sandbox::{Capability, ErrorKind, Exit};

use crate::Finding;
use crate::subject::Subject;

pub fn runs_further_commands(subject: &dyn Subject) -> Finding {
    let sandbox = subject.idler().start(subject);
    let Some(exec) = sandbox.as_exec() else {
        assert!(!sandbox.capabilities().contains(&Capability::Exec));
        return Finding::Absent("no further commands");
    };
    assert!(sandbox.capabilities().contains(&Capability::Exec));
    let run = |script: &str| {
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        exec.exec(&words, &["WORD=heard".to_owned()])
    };
    for (script, expected) in [("exit 0", 0), ("exit 9", 9), ("exit 137", 137)] {
        let session = run(script).unwrap();
        assert_eq!(session.wait(Some(subject.patience())).unwrap(), Exit::Code(expected));
    }
    let session = run("kill -9 $$").unwrap();
    assert_eq!(session.wait(Some(subject.patience())).unwrap(), Exit::Signal(9));
    let session = run("read line; echo $WORD $line").unwrap();
    assert_eq!(session.write(b"it\n").unwrap(), 3);
    assert_eq!(session.wait(Some(subject.patience())).unwrap(), Exit::Code(0));
    assert_eq!(session.output().read_from(0).bytes, b"heard it\n");
    let error = exec.exec(&["/no/such/program".to_owned()], &[]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    Finding::Kept
}
