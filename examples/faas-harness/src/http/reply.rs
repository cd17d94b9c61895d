//! Answers of the platform itself: JSON, with a reason where something went wrong.

use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::body::{Body, full};
use crate::instance::LaunchError;
use crate::platform::InvokeError;
use crate::pool::AcquireError;

/// Seconds after which a client that was sent away may come again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// An answer of the platform itself.
pub type Reply = Response<Body>;

/// An empty answer.
pub fn empty(status: StatusCode) -> Reply {
    with_type(status, "text/plain", String::new())
}

/// A text.
pub fn text(status: StatusCode, content_type: &'static str, content: impl Into<String>) -> Reply {
    with_type(status, content_type, content.into())
}

/// A JSON document.
pub fn json(status: StatusCode, document: &impl Serialize) -> Reply {
    // The platform's own documents have string keys throughout, so that this cannot fail.
    let content = serde_json::to_string(document).unwrap_or_default();
    with_type(status, "application/json", content)
}

/// Why a request gets no answer but this.
#[derive(Clone, Debug)]
pub struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    /// A refusal with its status and reason.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        error(refusal.status, refusal.reason)
    }
}

/// An answer that gives the reason why there is no other.
pub fn error(status: StatusCode, reason: impl Into<String>) -> Reply {
    #[derive(Serialize)]
    struct Reason {
        error: String,
    }
    let mut reply = json(status, &Reason { error: reason.into() });
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        reply.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
    }
    reply
}

/// A request that a function did not answer.
pub fn invoke_error(name: &str, failure: &InvokeError) -> Reply {
    let reason = failure.to_string();
    match failure {
        InvokeError::UnknownFunction => error(StatusCode::NOT_FOUND, format!("there is no function {name:?}")),
        InvokeError::Acquire(failure) => acquire_error(failure),
        InvokeError::BodyTooLarge { .. } => error(StatusCode::PAYLOAD_TOO_LARGE, reason),
        InvokeError::Instance(_) => error(StatusCode::BAD_GATEWAY, reason),
        InvokeError::TimedOut(_) => error(StatusCode::GATEWAY_TIMEOUT, reason),
    }
}

/// There is no instance for a request.
pub fn acquire_error(failure: &AcquireError<LaunchError>) -> Reply {
    let mut reason = failure.to_string();
    match failure {
        AcquireError::QueueFull => error(StatusCode::TOO_MANY_REQUESTS, reason),
        AcquireError::TimedOut(_) | AcquireError::Closed => error(StatusCode::SERVICE_UNAVAILABLE, reason),
        AcquireError::Start(launch) => {
            if !launch.console.is_empty() {
                reason.push_str("; its console ends with: ");
                reason.push_str(&launch.console);
            }
            let status = match launch.timed_out {
                true => StatusCode::GATEWAY_TIMEOUT,
                false => StatusCode::BAD_GATEWAY,
            };
            error(status, reason)
        }
    }
}

fn with_type(status: StatusCode, content_type: &'static str, content: String) -> Reply {
    let mut reply = Response::new(full(content));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
