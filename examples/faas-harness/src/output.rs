//! What the program says. Whoever reads it may go at any time, which `println!` and `eprintln!` answer with a panic.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Says something where results are read.
///
/// # Errors
/// Most likely [`io::ErrorKind::BrokenPipe`]: nobody reads any more.
pub fn say(text: Arguments<'_>) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_fmt(text)?;
    output.flush()
}

/// Tells what went wrong to whoever looks after the program, if anybody does.
pub fn complain(text: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "faas-harness: {text}");
}
