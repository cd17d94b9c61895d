//! The OpenFaaS provider API, by which `faas-cli` and the OpenFaaS gateway deploy, list, scale and remove functions.

mod deployment;
mod logs;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use humantime::format_rfc3339_seconds;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::reply::{self, Refusal, Reply};
use crate::function::FunctionSpec;
use crate::platform::{DeployError, Function, Platform};
use deployment::{Deployment, image_of};

/// The largest document of a call, in bytes: it bounds what a hostile client costs.
const MAX_DOCUMENT: usize = 1 << 20;
/// A client that takes longer for its document is sent away: a slow-loris attack holds connections.
const DOCUMENT_PATIENCE: Duration = Duration::from_secs(10);

/// Answers `/system/…`; `segments` is what stands behind it.
pub async fn route(platform: &Arc<Platform>, request: Request<Incoming>, segments: &[&str]) -> Reply {
    let method = request.method().clone();
    let outcome = match (&method, segments) {
        (&Method::GET, ["functions"]) => Ok(list(platform)),
        (&Method::POST, ["functions"]) => deploy(platform, request, Platform::deploy).await,
        (&Method::PUT, ["functions"]) => deploy(platform, request, Platform::update).await,
        (&Method::DELETE, ["functions"]) => remove(platform, request).await,
        (&Method::GET, ["function", name]) => status(platform, name),
        (&Method::POST, ["scale-function", name]) => scale(platform, name, request).await,
        (&Method::GET, ["info"]) => Ok(info()),
        (&Method::GET, ["logs"]) => logs::logs(platform, request.uri()),
        (&Method::GET, ["namespaces"]) => Ok(reply::json(StatusCode::OK, &[""; 0])),
        (_, ["secrets", ..]) => Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "this platform keeps no secrets; pass them by the function's environment",
        )),
        _ => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("the provider API has no {method} /system/{}", segments.join("/")),
        )),
    };
    outcome.unwrap_or_else(Reply::from)
}

/// A function as the API lists it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionStatus<'a> {
    name: &'a str,
    image: String,
    namespace: &'static str,
    labels: &'a std::collections::BTreeMap<String, String>,
    annotations: &'a std::collections::BTreeMap<String, String>,
    invocation_count: u64,
    replicas: u32,
    available_replicas: u32,
    /// RFC 3339.
    created_at: String,
}

fn function_status(function: &Function) -> FunctionStatus<'_> {
    let spec = function.spec();
    let census = function.pool().census();
    FunctionStatus {
        name: &spec.name,
        image: image_of(spec),
        namespace: "",
        labels: &spec.labels,
        annotations: &spec.annotations,
        invocation_count: function.metrics().invocations(),
        replicas: census.busy + census.idle + census.starting,
        available_replicas: census.busy + census.idle,
        created_at: format_rfc3339_seconds(function.deployed()).to_string(),
    }
}

fn list(platform: &Platform) -> Reply {
    let functions = platform.functions();
    let list: Vec<_> = functions.iter().map(|function| function_status(function)).collect();
    reply::json(StatusCode::OK, &list)
}

fn status(platform: &Platform, name: &str) -> Result<Reply, Refusal> {
    let function = find(platform, name)?;
    Ok(reply::json(StatusCode::OK, &function_status(&function)))
}

/// Deploys either a document of OpenFaaS, which has `service` and `image`, or one of this harness, which has `sandbox`.
async fn deploy(
    platform: &Arc<Platform>,
    request: Request<Incoming>,
    verb: fn(&Platform, FunctionSpec) -> Result<(), DeployError>,
) -> Result<Reply, Refusal> {
    let document = document(request).await?;
    let value: serde_json::Value = parse(&document)?;
    let spec = match value.get("sandbox") {
        Some(_) => parse(&document)?,
        None => parse::<Deployment>(&document)?
            .function(platform.builtins())
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?,
    };
    verb(platform, spec).map_err(|error| deploy_error(&error))?;
    Ok(reply::empty(StatusCode::ACCEPTED))
}

async fn remove(platform: &Platform, request: Request<Incoming>) -> Result<Reply, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Removal {
        function_name: String,
    }
    let removal: Removal = parse(&document(request).await?)?;
    platform
        .remove(&removal.function_name)
        .map_err(|error| deploy_error(&error))?;
    Ok(reply::empty(StatusCode::ACCEPTED))
}

/// Sets how many instances stand by.
async fn scale(platform: &Platform, name: &str, request: Request<Incoming>) -> Result<Reply, Refusal> {
    #[derive(Deserialize)]
    struct Scaling {
        replicas: u32,
    }
    let function = find(platform, name)?;
    let scaling: Scaling = parse(&document(request).await?)?;
    let maximum = function.spec().scale.max;
    if scaling.replicas > maximum {
        let reason = format!(
            "replicas: {} is more than the function's maximum of {maximum}",
            scaling.replicas
        );
        return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    }
    function.pool().set_warm(scaling.replicas);
    Ok(reply::empty(StatusCode::ACCEPTED))
}

fn info() -> Reply {
    #[derive(Serialize)]
    struct Version {
        release: &'static str,
        sha: &'static str,
    }
    #[derive(Serialize)]
    struct Info {
        provider: &'static str,
        orchestration: &'static str,
        version: Version,
        arch: &'static str,
    }
    let info = Info {
        provider: "faas-harness",
        orchestration: "sandbox",
        version: Version {
            release: env!("CARGO_PKG_VERSION"),
            sha: "",
        },
        arch: std::env::consts::ARCH,
    };
    reply::json(StatusCode::OK, &info)
}

fn find(platform: &Platform, name: &str) -> Result<Arc<Function>, Refusal> {
    let unknown = || deploy_error(&DeployError::Unknown(name.to_owned()));
    platform.function(name).ok_or_else(unknown)
}

fn deploy_error(error: &DeployError) -> Refusal {
    let status = match error {
        DeployError::Invalid(_) => StatusCode::BAD_REQUEST,
        DeployError::Exists(_) => StatusCode::CONFLICT,
        DeployError::Unknown(_) => StatusCode::NOT_FOUND,
        DeployError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, error.to_string())
}

async fn document(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), MAX_DOCUMENT).collect();
    let body = timeout(DOCUMENT_PATIENCE, body)
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the document came too slowly"))?;
    let body = body.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
        true => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the document is larger than {MAX_DOCUMENT} bytes"),
        ),
        false => Refusal::new(StatusCode::BAD_REQUEST, format!("the document broke off: {error}")),
    })?;
    Ok(body.to_bytes())
}

fn parse<T: DeserializeOwned>(document: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(document).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
}
