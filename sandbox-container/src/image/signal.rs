//! Names of signals, as an image's `StopSignal` has them (OCI image-spec, "Image Configuration").

/// The standard signals of Linux on x86-64, by name without `SIG` and by number.
const NAMES: [(&str, i32); 31] = [
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
];
/// The first and the last real-time signal, as C libraries number them.
const REAL_TIME: (i32, i32) = (34, 64);

/// The number of the signal called `name`: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`. Nothing if there is none.
pub(super) fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=REAL_TIME.1).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let word = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (first, last) = REAL_TIME;
    let real_time = match (word.strip_prefix("RTMIN"), word.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(first),
        (_, Some("")) => Some(last),
        (Some(offset), _) => first.checked_add(offset.strip_prefix('+')?.parse().ok()?),
        (_, Some(offset)) => last.checked_sub(offset.strip_prefix('-')?.parse().ok()?),
        (None, None) => None,
    };
    let standard = || {
        NAMES
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, number)| *number)
    };
    real_time.or_else(standard).filter(|number| (1..=last).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_form_are_known() {
        let cases = [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+2147483647", None),
            ("SIGNOTHING", None),
            ("0", None),
            ("65", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(number(name), expected, "{name}");
        }
    }
}
