//! How a container ended, from what its processes and its cgroup say.

use sandbox_core::Exit;

use crate::reaper::Status;

/// Why a container is being ended, if anybody wants it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its process was asked to end, by this signal.
    Asked(i32),
    /// It was killed.
    Killed,
    /// It was killed because its time was over.
    Deadline,
    /// Its runtime ended it when it was saved.
    Saved,
}

/// What happened to its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How the first process ended.
    pub status: Status,
    /// Why it was to end.
    pub cause: Option<Cause>,
    /// Whether the kernel killed a process for want of memory.
    pub was_out_of_memory: bool,
}

/// The contract's word for it. A code that the process gave itself is told whatever else was under way.
pub fn exit(facts: &Facts) -> Exit {
    match (facts.status, facts.cause) {
        (Status::Lost, _) => Exit::LostWorker("the reaper process is gone, and with it the exit status".to_owned()),
        // Version 1 of cgroups kills one process of many; a shell then says so by its code.
        (Status::Signal(libc::SIGKILL) | Status::Code(KILLED_BY_SHELL), _) if facts.was_out_of_memory => {
            Exit::OutOfMemory
        }
        (_, Some(Cause::Saved)) => Exit::Killed,
        (Status::Code(code), _) => Exit::Code(code),
        (Status::Signal(libc::SIGKILL), Some(Cause::Deadline)) => Exit::Deadline,
        (Status::Signal(libc::SIGKILL), Some(_)) => Exit::Killed,
        (Status::Signal(signal), Some(Cause::Asked(asked))) if signal == asked => Exit::Killed,
        (Status::Signal(signal), _) => Exit::Signal(signal),
    }
}

/// What a shell says of a command that SIGKILL ended.
const KILLED_BY_SHELL: i32 = 128 + libc::SIGKILL;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_word() {
        let cases = [
            (Status::Code(137), None, false, Exit::Code(137)),
            (Status::Code(137), None, true, Exit::OutOfMemory),
            (Status::Code(0), Some(Cause::Killed), false, Exit::Code(0)),
            (Status::Signal(9), None, false, Exit::Signal(9)),
            (Status::Signal(9), None, true, Exit::OutOfMemory),
            (Status::Signal(9), Some(Cause::Killed), false, Exit::Killed),
            (Status::Signal(9), Some(Cause::Deadline), false, Exit::Deadline),
            (Status::Code(0), Some(Cause::Saved), false, Exit::Killed),
            (Status::Signal(15), Some(Cause::Asked(15)), false, Exit::Killed),
            (Status::Signal(11), Some(Cause::Asked(15)), false, Exit::Signal(11)),
        ];
        for (status, cause, was_out_of_memory, expected) in cases {
            let facts = Facts {
                status,
                cause,
                was_out_of_memory,
            };
            assert_eq!(exit(&facts), expected, "{facts:?}");
        }
    }
}
