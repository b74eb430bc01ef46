//! A request to a daemon's admin side, and its answer. Each request has a connection of its own.

use std::{error::Error, future::poll_fn, io, pin::Pin, time::Duration};

use axum::body::{Body, Bytes, to_bytes};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    client::conn::http1,
    header::{self, HeaderName},
    http::request,
};
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

/// A stream that says nothing for so long is dead: the daemon sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(40);

/// What to do if there is no daemon to ask.
const START: &str =
    "start the daemon with --admin-listen ADDR, and give the same ADDR here with --admin (or GWM_ADMIN)";

/// What to do if the daemon gives no answer.
const SILENT: &str = "is it the daemon's --admin-listen, and does the daemon run well? Its log has more";

/// The same for a change.
const NOT_KNOWN: &str = "whether it is done is not known: the daemon's log tells";

/// What [`Daemon::follow`] tells once the stream has told all that happened before it began.
pub(super) const LIVE: &str = "live";

/// A running daemon.
#[derive(Clone)]
pub(super) struct Daemon {
    pub(super) address: AdminAddress,
    pub(super) token: Option<String>,
    pub(super) timeout: Duration,
    /// For the answer to a change.
    pub(super) act_timeout: Duration,
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

    /// Follows the daemon's events after the one with the id `last`, which goes along, until the stream ends; tells why it
    /// ended. `take` gets kind and data of each event, and [`LIVE`]; it says whether to go on.
    pub(super) async fn follow(&self, last: &mut Option<String>, mut take: impl FnMut(&str, Value) -> bool) -> String {
        let known = last.as_deref().map(|last| (HeaderName::from_static("last-event-id"), last.to_owned()));
        let opened = async {
            let request = self.request(Method::GET, "events", known).body(Body::empty())?;
            let response = self.send(request).await?;
            Ok::<_, Box<dyn Error>>(match response.status() {
                status if status.is_success() => Ok(response.into_body()),
                status => Err(message(status, &body_of(response).await?)),
            })
        };
        let mut body = match tokio::time::timeout(self.timeout, opened).await {
            Ok(Ok(Ok(body))) => body,
            Ok(Ok(Err(refused))) => return refused,
            Ok(Err(error)) => return self.broken(&*error),
            Err(_) => return self.silent(self.timeout, SILENT),
        };
        let mut is_live = false;
        let mut text = Vec::new();
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            match tokio::time::timeout(SILENCE, frame).await {
                Ok(Some(Ok(frame))) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Ok(Some(Err(error))) => return self.failed(&error),
                Ok(None) => return self.failed(&"the daemon ended the stream of events"),
                Err(_) => return self.failed(&format_args!("no sign of life for {SILENCE:?}")),
            }
            while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                if let Some(id) = field("id") {
                    *last = Some(id.to_owned());
                }
                let data = field("data").and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
                if field("event").is_some_and(|kind| !take(kind, data)) {
                    return String::new();
                }
            }
            // What happened before comes as one piece.
            if !std::mem::replace(&mut is_live, true) && !take(LIVE, Value::Null) {
                return String::new();
            }
        }
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> String {
        format!("no answer from {}: {error}; {START}", self.address)
    }

    /// The daemon takes the connection, and says nothing.
    fn silent(&self, timeout: Duration, advice: &str) -> String {
        format!("no answer from {}: nothing came within {timeout:?}; {advice}", self.address)
    }

    /// As [`Daemon::failed`], with what the error lets suppose.
    fn broken(&self, error: &(dyn Error + 'static)) -> String {
        let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
        let is_no_http =
            error.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_incomplete_message() || error.is_parse());
        let advice = match io {
            Some(io::ErrorKind::PermissionDenied) => {
                "the socket is for its owner and its group: be one of them, or root"
            }
            _ if is_no_http => "is that the port of the daemon's --listen? Give the address of its --admin-listen",
            _ => return self.failed(&error),
        };
        format!("no answer from {}: {error}; {advice}", self.address)
    }

    fn request(&self, method: Method, path: &str, header: Option<(HeaderName, String)>) -> request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request
    }

    fn ask(&self, method: Method, path: &str, body: Body) -> Result<Result<Value, String>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(self.failed(error));
        let (timeout, advice) = match method {
            Method::POST => (self.act_timeout, NOT_KNOWN),
            _ => (self.timeout, SILENT),
        };
        let request = self.request(method, path, None).body(body);
        let request = request.map_err(|error| Failure::Usage(format!("--token-file: {error}")))?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        let exchange = async {
            let response = self.send(request).await?;
            Ok::<_, Box<dyn Error>>((response.status(), body_of(response).await?))
        };
        let answer = runtime.block_on(async { tokio::time::timeout(timeout, exchange).await });
        let (status, bytes) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Failure::Failed(self.broken(&*error))),
            Err(_) => return Err(Failure::Failed(self.silent(timeout, advice))),
        };
        if !status.is_success() {
            return Ok(Err(message(status, &bytes)));
        }
        serde_json::from_slice(&bytes).map(Ok).map_err(|error| failed(&error))
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Box<dyn Error>> {
        match &self.address {
            AdminAddress::Socket(path) => over(UnixStream::connect(path).await?, request).await,
            AdminAddress::Tcp(address) => over(TcpStream::connect(address).await?, request).await,
        }
    }
}

/// What the daemon says to a request that it refuses.
fn message(status: StatusCode, bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    value["error"]["message"].as_str().unwrap_or(status.as_str()).to_owned()
}

async fn body_of(response: Response<Incoming>) -> Result<Bytes, Box<dyn Error>> {
    Ok(to_bytes(Body::new(response.into_body()), ANSWER_BYTES).await?)
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Body>,
) -> Result<Response<Incoming>, Box<dyn Error>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It moves the bytes while others wait. Its error is that of the request, too.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_hears_nothing_is_not_told_to_start_the_daemon() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = AdminAddress::Tcp(listener.local_addr().expect("it has one"));
        let timeout = Duration::from_millis(10);
        let daemon = Daemon { address, token: None, timeout, act_timeout: timeout };
        let told = |answer| match answer {
            Err(Failure::Failed(text)) => text,
            _ => panic!("an answer"),
        };
        let address = &daemon.address;
        let silent = |advice| format!("no answer from {address}: nothing came within 10ms; {advice}");
        assert_eq!(told(daemon.get("words", &[])), silent(SILENT));
        assert_eq!(told(daemon.post("members/quiesce", &Value::Null)), silent(NOT_KNOWN));
        drop(listener);
        assert!(told(daemon.get("words", &[])).ends_with(START));
    }
}
