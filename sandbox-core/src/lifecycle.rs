//! The states of a sandbox and the verbs that each accepts, as a pure state machine that every backend drives.
//!
//! ```text
//! Created ──start──▶ Starting ──entered──▶ Running ◀─resume─┬─pause─▶ Paused
//!                        └───────── ended ────┴──────────────┴──▶ Stopped
//!    any of these ──failed──▶ Failed       any but TornDown ──teardown──▶ TornDown
//! ```

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// Where a sandbox stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// All resources are made; no guest code has run.
    Created,
    /// `start` is under way.
    Starting,
    /// Guest code runs, or may run whenever it has something to do.
    Running,
    /// No guest code runs; everything is kept.
    Paused,
    /// The guest has ended; its exit status is known. Resources are held until teardown.
    Stopped,
    /// The sandbox broke, in a way that leaves nothing to go on with. Only teardown is left.
    Failed,
    /// Torn down: what it held is given back, or is being given back. The exit status, the timeline and the console
    /// can still be read.
    TornDown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Created => "created",
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Failed => "failed",
            State::TornDown => "torn down",
        })
    }
}

/// What a caller asks for, or what happens to a guest by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verb {
    /// The caller: run the guest for the first time.
    Start,
    /// Event: guest code is about to run for the first time.
    Entered,
    /// The caller: stop all vCPUs or processes where they are.
    Pause,
    /// The caller: go on.
    Resume,
    /// The caller: write a snapshot.
    Snapshot,
    /// The caller: clone it in memory.
    Fork,
    /// Event: the guest ended, by itself or because it was made to.
    Ended,
    /// Event: the sandbox broke.
    Failed,
    /// The caller: give everything back.
    Teardown,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Start => "start",
            Verb::Entered => "enter",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Snapshot => "snapshot",
            Verb::Fork => "fork",
            Verb::Ended => "end",
            Verb::Failed => "fail",
            Verb::Teardown => "teardown",
        })
    }
}

impl State {
    /// The state that `verb` leads to from this one, or `None` where it is not allowed.
    ///
    /// `Pause` of a paused and `Resume` of a running sandbox are not allowed, so that a caller that lost count hears of
    /// it. `Teardown` of a torn-down one is allowed and changes nothing.
    pub fn after(self, verb: Verb) -> Option<State> {
        use State::{Created, Failed, Paused, Running, Starting, Stopped, TornDown};
        match (self, verb) {
            (_, Verb::Teardown) => Some(TornDown),
            (TornDown, _) => None,
            (_, Verb::Failed) => Some(Failed),
            (Created, Verb::Start) => Some(Starting),
            (Starting, Verb::Entered) => Some(Running),
            (Running, Verb::Pause) => Some(Paused),
            (Paused, Verb::Resume) => Some(Running),
            (Running | Paused, Verb::Snapshot | Verb::Fork) => Some(self),
            (Created | Starting | Running | Paused, Verb::Ended) => Some(Stopped),
            _ => None,
        }
    }
}

/// The state of one sandbox.
#[derive(Debug)]
pub struct Lifecycle {
    state: State,
}

impl Lifecycle {
    /// A sandbox that was just created.
    pub fn created() -> Self {
        Self { state: State::Created }
    }

    /// A sandbox that was just restored and holds its guest still.
    pub fn paused() -> Self {
        Self { state: State::Paused }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether `verb` is allowed now: [`ErrorKind::WrongState`] if not. Changes nothing.
    pub fn check(&self, verb: Verb) -> Result<()> {
        self.next(verb).map(drop)
    }

    /// Goes where `verb` leads, or changes nothing and fails with [`ErrorKind::WrongState`].
    pub fn apply(&mut self, verb: Verb) -> Result<State> {
        self.state = self.next(verb)?;
        Ok(self.state)
    }

    fn next(&self, verb: Verb) -> Result<State> {
        self.state.after(verb).ok_or_else(|| {
            let context = format!("cannot {verb} a sandbox that is {}", self.state);
            Error::new(ErrorKind::WrongState, context)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VERBS: [Verb; 9] = [
        Verb::Start,
        Verb::Entered,
        Verb::Pause,
        Verb::Resume,
        Verb::Snapshot,
        Verb::Fork,
        Verb::Ended,
        Verb::Failed,
        Verb::Teardown,
    ];

    #[test]
    fn the_usual_life_passes() {
        let mut lifecycle = Lifecycle::created();
        for (verb, state) in [
            (Verb::Start, State::Starting),
            (Verb::Entered, State::Running),
            (Verb::Pause, State::Paused),
            (Verb::Snapshot, State::Paused),
            (Verb::Resume, State::Running),
            (Verb::Ended, State::Stopped),
            (Verb::Teardown, State::TornDown),
        ] {
            assert_eq!(lifecycle.apply(verb).unwrap(), state);
        }
    }

    proptest! {
        #[test]
        fn any_sequence_keeps_the_promises(picks in prop::collection::vec(0..VERBS.len(), 0..64)) {
            let mut lifecycle = Lifecycle::created();
            let (mut started, mut ended, mut torn_down) = (false, false, false);
            for verb in picks.into_iter().map(|pick| VERBS[pick]) {
                let before = lifecycle.state();
                let checked = lifecycle.check(verb);
                let applied = lifecycle.apply(verb);
                prop_assert_eq!(checked.is_ok(), applied.is_ok());
                match applied {
                    Err(error) => {
                        prop_assert_eq!(error.kind(), ErrorKind::WrongState);
                        prop_assert_eq!(lifecycle.state(), before);
                    }
                    Ok(state) => {
                        started |= verb == Verb::Start;
                        ended |= matches!(verb, Verb::Ended | Verb::Failed);
                        torn_down |= verb == Verb::Teardown;
                        prop_assert_eq!(state, lifecycle.state());
                    }
                }
                // Guest code runs only between a start and the end, and never after teardown.
                if lifecycle.state() == State::Running {
                    prop_assert!(started && !ended && !torn_down);
                }
                // Teardown is always possible, and final.
                prop_assert!(lifecycle.check(Verb::Teardown).is_ok());
                prop_assert_eq!(torn_down, lifecycle.state() == State::TornDown);
            }
        }
    }
}
