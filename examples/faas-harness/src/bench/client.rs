//! A client that is as simple as can be: a connection for each request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A connection to a server.
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects.
    pub async fn to(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Whoever waits for an answer on it hears of its failure too.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            host: address.to_string(),
        })
    }

    /// Asks for `path` and reads the answer, which must be a good one; gives its length.
    pub async fn get(&mut self, path: &str) -> Result<u64> {
        self.sender.ready().await?;
        let request = Request::get(path).header(HOST, &self.host).body(Empty::new())?;
        let mut answer = self.sender.send_request(request).await?;
        let status = answer.status();
        if status != StatusCode::OK {
            let body = answer
                .into_body()
                .collect()
                .await
                .context("the answer broke off")?
                .to_bytes();
            bail!("{status}: {}", String::from_utf8_lossy(&body).trim());
        }
        let mut length = 0;
        while let Some(frame) = answer.body_mut().frame().await {
            length += frame.context("the answer broke off")?.data_ref().map_or(0, Bytes::len) as u64;
        }
        Ok(length)
    }
}

/// One request on a connection of its own; gives the time from connecting to the end of the answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<Duration> {
    let begin = Instant::now();
    Connection::to(address).await?.get(path).await?;
    Ok(begin.elapsed())
}
