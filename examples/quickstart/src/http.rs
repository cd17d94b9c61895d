//! The smallest HTTP client that fetches a page.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The longest answer taken, in bytes: the guest decides how much it sends, and is not to be trusted with our memory.
const LONGEST_ANSWER: u64 = 64 << 10;

/// Fetches `path` from `server` and returns the body. Each single wait lasts `timeout` at most.
pub fn get(server: SocketAddr, path: &str, timeout: Duration) -> Result<String> {
    let answer = exchange(server, path, timeout).with_context(|| format!("cannot fetch http://{server}{path}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of its head")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "the answer is {status:?}");
    Ok(body.to_owned())
}

fn exchange(server: SocketAddr, path: &str, timeout: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Fetches a page from a server that gives `answer` to anything.
    fn get_from(answer: &'static str) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let body = get(address, "/page", Duration::from_secs(30));
        assert!(server.join().unwrap().starts_with("GET /page HTTP/1.1\r\n"));
        body
    }

    #[test]
    fn the_body_is_what_follows_the_head() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\none\r\ntwo\n";
        assert_eq!(get_from(answer).unwrap(), "one\r\ntwo\n");
    }

    #[test]
    fn an_answer_without_a_page_is_an_error() {
        for answer in ["HTTP/1.1 500 Broken\r\n\r\n", "HTTP/1.1 200 OK\r\n", ""] {
            assert!(get_from(answer).is_err(), "{answer:?}");
        }
    }
}
