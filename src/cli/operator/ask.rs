//! A request to a daemon's admin side, and its answer. Each request has a connection of its own.

use std::{error::Error, time::Duration};

use axum::body::{Body, to_bytes};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime,
};

use crate::{cli::target::Failure, config::AdminAddress};

/// The longest answer that is read: 1,000 rows of the longest names are less.
const ANSWER_BYTES: usize = 64 << 20;

/// A running daemon.
pub(super) struct Daemon {
    pub(super) address: AdminAddress,
    pub(super) token: Option<String>,
    pub(super) timeout: Duration,
}

/// Parameters of a query.
pub(super) type Query<'a> = [(&'static str, &'a str)];

impl Daemon {
    /// Asks for `path`.
    pub(super) fn get(&self, path: &str, query: &Query<'_>) -> Result<Value, Failure> {
        self.look(path, query)?.map_err(Failure::Failed)
    }

    /// As [`Daemon::get`]; a refusal of the daemon is an answer too, in its own words.
    pub(super) fn look(&self, path: &str, query: &Query<'_>) -> Result<Result<Value, String>, Failure> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        self.ask(Method::GET, &format!("{path}?{query}"), Body::empty())
    }

    /// Has the daemon do what `path` and `body` say.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::POST, path, Body::from(body.to_string()))?.map_err(Failure::Failed)
    }

    /// The rows of a list, page by page, at most `most`; and whether there are more.
    pub(super) fn list(
        &self,
        path: &str,
        field: &str,
        query: &Query<'_>,
        most: usize,
    ) -> Result<(Vec<Value>, bool), Failure> {
        let mut rows = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let limit = (most - rows.len()).min(1000).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &limit));
            query.extend(after.as_deref().map(|after| ("after", after)));
            let mut page = self.get(path, &query)?;
            if let Value::Array(more) = page[field].take() {
                rows.extend(more);
            }
            after = page["next"].as_str().map(str::to_owned);
            if after.is_none() || rows.len() >= most {
                return Ok((rows, after.is_some()));
            }
        }
    }

    fn ask(&self, method: Method, path: &str, body: Body) -> Result<Result<Value, String>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Failed(format!(
                "no answer from {}: {error}; does a daemon run with this --admin-listen address?",
                self.address
            ))
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(body).map_err(|error| Failure::Usage(format!("--token-file: {error}")))?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        let answer = runtime.block_on(async { tokio::time::timeout(self.timeout, self.exchange(request)).await });
        let (status, bytes) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&format_args!("nothing came within {:?}", self.timeout))),
        };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
        Ok(match status.is_success() {
            true => Ok(value),
            false => Err(value["error"]["message"].as_str().unwrap_or(status.as_str()).to_owned()),
        })
    }

    async fn exchange(&self, request: Request<Body>) -> Result<(StatusCode, axum::body::Bytes), Box<dyn Error>> {
        match &self.address {
            AdminAddress::Socket(path) => over(UnixStream::connect(path).await?, request).await,
            AdminAddress::Tcp(address) => over(TcpStream::connect(address).await?, request).await,
        }
    }
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Body>,
) -> Result<(StatusCode, axum::body::Bytes), Box<dyn Error>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It moves the bytes while this function waits. Its error is that of the request, too.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, to_bytes(Body::new(response.into_body()), ANSWER_BYTES).await?))
}
