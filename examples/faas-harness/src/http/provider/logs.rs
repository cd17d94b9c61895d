//! What the instances of a function say, a JSON object a line: up to now, or for as long as somebody reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use humantime::format_rfc3339_seconds;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode, Uri};
use sandbox::listeners::Listener;
use sandbox::{ConsoleLog, Sandbox};
use serde::Serialize;
use tokio::sync::{Notify, mpsc, watch};

use crate::http::body;
use crate::http::reply::{self, Refusal, Reply};
use crate::platform::{Function, Platform};

/// Lines of an instance's console unless the call says otherwise.
const LINES: usize = 100;
/// A line that is longer is told in pieces: a guest may write for ever without ending one.
const MAX_LINE: usize = 16 << 10;
/// Pieces that wait for a reader; what a slow one misses, the console forgets by and by.
const PIECES: usize = 4;
const CONTENT: &str = "application/x-ndjson";

/// What is asked for.
struct Query {
    tail: usize,
    /// The one instance that is meant.
    only: Option<String>,
}

/// One instance's console, and how far it was told.
struct Reader {
    console: Arc<ConsoleLog>,
    position: u64,
    /// The beginning of a line.
    begun: Vec<u8>,
    /// All was told that will ever be said.
    has_ended: bool,
    /// Called by the console for as long as it exists.
    _listener: Option<Arc<Listener>>,
}

/// Answers `/system/logs`.
pub(super) fn logs(platform: &Platform, uri: &Uri) -> Result<Reply, Refusal> {
    let name = query_value(uri, "name");
    let name =
        name.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "name: say whose logs, as in ?name=FUNCTION"))?;
    let query = Query {
        tail: query_value(uri, "tail")
            .and_then(|value| value.parse().ok())
            .unwrap_or(LINES),
        only: query_value(uri, "instance")
            .filter(|instance| !instance.is_empty())
            .map(str::to_owned),
    };
    let function = super::find(platform, name)?;
    if matches!(query_value(uri, "follow"), Some("true" | "1")) {
        let (sender, receiver) = mpsc::channel(PIECES);
        tokio::spawn(follow(function, query, sender, platform.ending()));
        let mut answer = Response::new(body::pieces(receiver));
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
        return Ok(answer);
    }
    let mut page = String::new();
    for sandbox in query.sandboxes(&function) {
        let mut reader = Reader::of_last_lines(&sandbox.console(), query.tail);
        page += &reader.told(name, sandbox.id(), true);
    }
    Ok(reply::text(StatusCode::OK, CONTENT, page))
}

/// Tells what is said from now on, after the last lines of before, until the reader, the function or the platform goes.
async fn follow(function: Arc<Function>, query: Query, sender: mpsc::Sender<Bytes>, mut ending: watch::Receiver<bool>) {
    let heard = Arc::new(Notify::new());
    let mut changes = function.changes();
    let mut readers: HashMap<String, Reader> = HashMap::new();
    for sandbox in query.sandboxes(&function) {
        let reader = Reader::of_last_lines(&sandbox.console(), query.tail);
        readers.insert(sandbox.id().to_owned(), reader.listening(&heard));
    }
    loop {
        let is_over = *changes.borrow_and_update() || *ending.borrow_and_update();
        let sandboxes = query.sandboxes(&function);
        for sandbox in &sandboxes {
            let reader = readers.entry(sandbox.id().to_owned());
            reader.or_insert_with(|| Reader::at(&sandbox.console(), 0).listening(&heard));
        }
        let mut page = String::new();
        for (instance, reader) in &mut readers {
            page += &reader.told(&function.spec().name, instance, false);
        }
        // One that has ended is kept for as long as it is listed, or it would be told from its beginning again.
        let is_listed = |instance: &str| sandboxes.iter().any(|sandbox| sandbox.id() == instance);
        readers.retain(|instance, reader| is_listed(instance) || !reader.has_ended);
        if !page.is_empty() && sender.send(page.into()).await.is_err() || is_over {
            return;
        }
        tokio::select! {
            () = heard.notified() => {}
            _ = changes.changed() => {}
            _ = ending.changed() => {}
            () = sender.closed() => return,
        }
    }
}

impl Query {
    fn sandboxes(&self, function: &Function) -> Vec<Arc<dyn Sandbox>> {
        let mut sandboxes = function.sandboxes();
        sandboxes.retain(|sandbox| self.only.as_ref().is_none_or(|only| only == sandbox.id()));
        sandboxes
    }
}

impl Reader {
    fn at(console: &Arc<ConsoleLog>, position: u64) -> Self {
        Self {
            console: Arc::clone(console),
            position,
            begun: Vec::new(),
            has_ended: false,
            _listener: None,
        }
    }

    /// Begins with the last `lines` lines.
    fn of_last_lines(console: &Arc<ConsoleLog>, lines: usize) -> Self {
        let held = console.read_from(0);
        let text = held.bytes.strip_suffix(b"\n").unwrap_or(&held.bytes);
        let ends = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|(place, _)| place);
        let begin = match lines {
            0 => held.bytes.len(),
            lines => ends.rev().nth(lines - 1).map_or(0, |end| end + 1),
        };
        Self::at(console, held.start + begin as u64)
    }

    /// Tells `heard` of everything that is said from now on.
    fn listening(mut self, heard: &Arc<Notify>) -> Self {
        let heard = Arc::clone(heard);
        let listener: Arc<Listener> = Arc::new(move || heard.notify_one());
        self.console.listen(Arc::downgrade(&listener));
        self._listener = Some(listener);
        self
    }

    /// The lines that have ended since it was asked last, and the one that has not where `all` are wanted.
    fn told(&mut self, function: &str, instance: &str, all: bool) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            name: &'a str,
            namespace: &'static str,
            instance: &'a str,
            timestamp: String,
            text: String,
        }
        let chunk = self.console.read_from(self.position);
        self.position = chunk.end();
        self.has_ended = chunk.closed;
        self.begun.extend_from_slice(&chunk.bytes);
        let mut lines: Vec<Vec<u8>> = self.begun.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let last = lines.pop().unwrap_or_default();
        self.begun = match (all || chunk.closed || last.len() > MAX_LINE) && !last.is_empty() {
            true => {
                lines.push(last);
                Vec::new()
            }
            false => last,
        };
        let mut page = String::new();
        for line in lines {
            let line = Line {
                name: function,
                namespace: "",
                instance,
                timestamp: format_rfc3339_seconds(SystemTime::now()).to_string(),
                text: String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned(),
            };
            // A document with string keys cannot fail.
            page += &serde_json::to_string(&line).unwrap_or_default();
            page.push('\n');
        }
        page
    }
}

/// The value of a query's field, as it stands there: names and numbers need no decoding.
fn query_value<'a>(uri: &'a Uri, field: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| *name == field)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(page: &str) -> Vec<String> {
        let text = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].clone();
        page.lines()
            .map(|line| text(line).as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn lines_are_told_once_and_when_they_have_ended() {
        let console = Arc::new(ConsoleLog::new(1000));
        console.append(b"one\r\ntwo\nthr");
        let mut reader = Reader::of_last_lines(&console, 2);
        assert_eq!(texts(&reader.told("f", "f-0", false)), ["two"]);
        console.append(b"ee\n");
        assert_eq!(texts(&reader.told("f", "f-0", false)), ["three"]);
        console.append(b"last");
        assert_eq!(texts(&reader.told("f", "f-0", true)), ["last"]);
        assert_eq!(reader.told("f", "f-0", true), "");
        assert_eq!(
            texts(&Reader::of_last_lines(&console, 9).told("f", "f-0", true)).len(),
            4
        );
        assert_eq!(Reader::of_last_lines(&console, 0).told("f", "f-0", true), "");
    }

    #[test]
    fn a_line_without_end_is_told_in_pieces() {
        let console = Arc::new(ConsoleLog::new(1 << 20));
        console.append(&vec![b'x'; MAX_LINE + 1]);
        let mut reader = Reader::at(&console, 0);
        assert_eq!(texts(&reader.told("f", "f-0", false))[0].len(), MAX_LINE + 1);
        assert!(reader.begun.is_empty());
    }
}
