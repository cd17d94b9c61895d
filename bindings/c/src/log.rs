//! The library's log, in a queue that the user drains.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use sandbox::listeners::Listeners;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::argument;
use crate::cancel::{sandbox_cancel_t, token};
use crate::entry::{Failure, entry};
use crate::error::sandbox_error_t;
use crate::text::{self, sandbox_text_t};
use crate::wait::Wait;

/// Log level: nothing.
pub const SANDBOX_LOG_OFF: i32 = 0;
/// Log level: errors.
pub const SANDBOX_LOG_ERROR: i32 = 1;
/// Log level: warnings, and all above.
pub const SANDBOX_LOG_WARN: i32 = 2;
/// Log level: what an operator may want to know, and all above.
pub const SANDBOX_LOG_INFO: i32 = 3;
/// Log level: what helps to find defects, and all above.
pub const SANDBOX_LOG_DEBUG: i32 = 4;
/// Log level: everything.
pub const SANDBOX_LOG_TRACE: i32 = 5;

/// Records kept; when nobody takes them, older ones make room, so that a guest that provokes them costs no memory.
const CAPACITY: usize = 1024;
/// Longest record, in bytes.
const MAX_RECORD: usize = 4096;

static LEVEL: AtomicI32 = AtomicI32::new(SANDBOX_LOG_OFF);
static RECORDS: Mutex<Records> = Mutex::new(Records {
    lines: VecDeque::new(),
    lost: 0,
});
static LISTENERS: Listeners = Listeners::new();

struct Records {
    lines: VecDeque<String>,
    lost: u64,
}

fn records() -> MutexGuard<'static, Records> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the records of this copy of the library; the process's own logging is not affected.
struct Sink;

impl Subscriber for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line(format!("{} {}:", metadata.level(), metadata.target()));
        event.record(&mut line);
        let Line(line) = line;
        {
            let mut records = records();
            if records.lines.len() == CAPACITY {
                records.lines.pop_front();
                records.lost += 1;
            }
            records.lines.push_back(line);
        }
        LISTENERS.tell();
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// A record as text: the message, and ` name=value` for each field. What goes beyond the limit is left out.
struct Line(String);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_RECORD.saturating_sub(self.0.len());
        let fits = text
            .char_indices()
            .map(|(start, letter)| start + letter.len_utf8())
            .take_while(|end| *end <= room);
        self.0.push_str(&text[..fits.last().unwrap_or(0)]);
        Ok(())
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A field whose own formatting fails is left as far as it came.
        let _ = match field.name() {
            "message" => write!(self, " {value:?}"),
            name => write!(self, " {name}={value:?}"),
        };
    }
}

fn number(level: &Level) -> i32 {
    match *level {
        Level::ERROR => SANDBOX_LOG_ERROR,
        Level::WARN => SANDBOX_LOG_WARN,
        Level::INFO => SANDBOX_LOG_INFO,
        Level::DEBUG => SANDBOX_LOG_DEBUG,
        Level::TRACE => SANDBOX_LOG_TRACE,
    }
}

/// Has the library keep log records of `level`, one of `SANDBOX_LOG_…`, and above, for `sandbox_log_next`. The library
/// writes to no descriptor of the process. Off at first.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_log_level(level: i32, error: *mut sandbox_error_t) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            if !(SANDBOX_LOG_OFF..=SANDBOX_LOG_TRACE).contains(&level) {
                return Err(Failure::invalid_argument("level", format!("is {level}; give 0 to 5")));
            }
            static INSTALLED: Once = Once::new();
            INSTALLED.call_once(|| {
                // The facade that this sets is the library's own copy; nobody else sets it.
                let _ = tracing::subscriber::set_global_default(Sink);
            });
            LEVEL.store(level, Ordering::Relaxed);
            tracing::callsite::rebuild_interest_cache();
            Ok(())
        })
    }
}

/// Takes the oldest log record, waiting up to `timeout_ms` for one. `*record` is a line of text: the level, the module,
/// the message, and ` name=value` for each field. When records were lost because nobody took them, the next one says
/// how many. The caller frees `*record` with `sandbox_text_free`.
///
/// Thread-safety: any thread, any time. Blocks up to `timeout_ms`. Fails with `SANDBOX_ERROR_TIMEOUT`,
/// `SANDBOX_ERROR_CANCELLED`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_log_next(
    timeout_ms: i64,
    cancel: sandbox_cancel_t,
    record: *mut sandbox_text_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(record, "record")?;
            let cancel = token(cancel)?;
            let wait = Wait {
                what: "a log record",
                timeout: argument::timeout(timeout_ms),
                cancel: cancel.as_deref(),
            };
            *place = text::hand_out(&wait.until(|listener| LISTENERS.add(listener), next)?)?;
            Ok(())
        })
    }
}

fn next() -> Option<String> {
    let mut records = records();
    if records.lost > 0 {
        let lost = std::mem::take(&mut records.lost);
        return Some(format!("WARN sandbox: {lost} log records were lost: nobody took them"));
    }
    records.lines.pop_front()
}
