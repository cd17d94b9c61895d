//! Which path is answered by what.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode, Uri};

use super::reply::{self, Refusal, Reply};
use super::{management, provider};
use crate::platform::Platform;

/// The most headers of a request: a flood of them costs an instance as much as this platform.
const MAX_HEADERS: usize = 100;
/// The most bytes of names and values of headers, for the same reason.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// The longest path, in bytes, for the same reason.
const MAX_PATH_BYTES: usize = 16 << 10;

/// Who is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever calls functions and deploys them.
    Clients,
    /// The instances: they are heard when they say that they are ready, and have no other say.
    Instances,
}

/// Answers a request of an instance at `client`.
pub fn route_instance(platform: &Platform, request: &Request<Incoming>, client: SocketAddr) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/ready") => management::ready(platform, client),
        (method, path) => reply::error(StatusCode::NOT_FOUND, format!("there is nothing at {method} {path}")),
    }
}

/// Answers a client's request.
pub async fn route(platform: &Arc<Platform>, request: Request<Incoming>) -> Reply {
    if let Some(refusal) = flood(&request) {
        return refusal.into();
    }
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let method = request.method().clone();
    match (&method, segments.as_slice()) {
        (_, ["function", name, ..]) => invoke(platform, name, request, 2).await,
        (_, ["invoke", name, ..]) => invoke(platform, name, request, 2).await,
        (_, ["invoke"]) => match only_function(platform) {
            Ok(name) => invoke(platform, &name, request, 0).await,
            Err(refusal) => refusal.into(),
        },
        (_, ["async-function", ..]) => reply::error(
            StatusCode::NOT_IMPLEMENTED,
            "this platform has no queue that outlives it; call /function/ and wait for the answer",
        ),
        (&Method::GET, []) => reply::text(StatusCode::OK, "text/html; charset=utf-8", management::PAGE),
        (&Method::GET, ["healthz"]) => reply::text(StatusCode::OK, "text/plain", "ok\n"),
        (&Method::GET, ["metrics"]) => management::metrics(platform),
        (&Method::GET, ["stats"]) => management::stats(platform),
        (&Method::DELETE, ["stats"]) => management::forget_times(platform),
        (&Method::POST | &Method::GET, ["pre-boot", count]) => match only_function(platform) {
            Ok(name) => management::pre_boot(platform, &name, count).await,
            Err(refusal) => refusal.into(),
        },
        (&Method::POST | &Method::GET, ["pre-boot", name, count]) => management::pre_boot(platform, name, count).await,
        (_, ["system", rest @ ..]) => provider::route(platform, request, rest).await,
        _ => reply::error(StatusCode::NOT_FOUND, format!("there is nothing at {method} {path}")),
    }
}

/// Refuses a head that is larger than any client's need be.
fn flood<B>(request: &Request<B>) -> Option<Refusal> {
    let headers = request.headers();
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if request.uri().path().len() > MAX_PATH_BYTES {
        let reason = format!("the path is longer than {MAX_PATH_BYTES} bytes");
        return Some(Refusal::new(StatusCode::URI_TOO_LONG, reason));
    }
    if headers.len() <= MAX_HEADERS && bytes <= MAX_HEADER_BYTES {
        return None;
    }
    let reason = format!("the head has more than {MAX_HEADERS} headers, or more than {MAX_HEADER_BYTES} bytes of them");
    Some(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason))
}

/// Has the function `name` answer, at what is left of the path behind its first `skip` segments.
async fn invoke(platform: &Platform, name: &str, request: Request<Incoming>, skip: usize) -> Reply {
    let inner = inner_uri(request.uri(), skip);
    match platform.invoke(name, request, inner).await {
        Ok(answer) => answer,
        Err(error) => {
            let reply = reply::invoke_error(name, &error);
            if let Some(function) = platform.function(name) {
                function.metrics().answered(reply.status().as_u16());
            }
            reply
        }
    }
}

/// What stands behind the first `skip` segments of the path, with the query.
fn inner_uri(uri: &Uri, skip: usize) -> Uri {
    let mut rest = uri.path();
    for _ in 0..skip {
        let trimmed = rest.trim_start_matches('/');
        rest = trimmed.find('/').map_or("", |slash| &trimmed[slash..]);
    }
    let rest = if rest.is_empty() { "/" } else { rest };
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    // A part of a valid path with a valid query is valid.
    format!("{rest}{query}").parse().unwrap_or_default()
}

/// The name of the one function that there is.
fn only_function(platform: &Platform) -> Result<String, Refusal> {
    let functions = platform.functions();
    match functions.as_slice() {
        [function] => Ok(function.spec().name.clone()),
        [] => Err(Refusal::new(StatusCode::NOT_FOUND, "no function is deployed")),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "there are several functions: name one in the path",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_gets_what_stands_behind_its_name() {
        for (outer, skip, inner) in [
            ("/function/f", 2, "/"),
            ("/function/f/", 2, "/"),
            ("/function/f/a/b?c=d", 2, "/a/b?c=d"),
            ("/function/f?c=d", 2, "/?c=d"),
            ("/function//f//a", 2, "//a"),
            ("/invoke", 0, "/invoke"),
        ] {
            assert_eq!(inner_uri(&outer.parse().unwrap(), skip), inner, "{outer}");
        }
    }
}
