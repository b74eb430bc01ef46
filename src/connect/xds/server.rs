//! The HTTP side, on a thread of its own: gRPC streams and REST on one port.

mod reports;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{Request, StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_lite::{Stream as AsyncStream, StreamExt};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use prost::Message;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::AbortHandle,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tonic::{
    Status, Streaming,
    server::{Grpc, StreamingService},
};

use super::{
    clients::{Busy, Clients, Seat},
    codec::{Encoded, REQUEST_BYTES},
    json,
    lines::{Cause, Lines},
    loads::Loads,
    messages::{DeltaDiscoveryRequest, DiscoveryRequest, LoadStatsRequest, Node},
    snapshot::{Kind, Snapshot},
    stream::{Stream, Taken, Wrong},
};

/// The last snapshot; `None` before the first weights.
pub type Latest = watch::Receiver<Option<Arc<Snapshot>>>;

/// The TLS settings for new connections, if there is TLS; they may be replaced.
pub type Tls = Option<Arc<Mutex<Arc<ServerConfig>>>>;

/// The most bytes that HTTP/2 buffers of one stream, and of one connection.
const WINDOWS: (u32, u32) = (64 << 10, 256 << 10);
/// The most HTTP/2 streams of a connection.
const STREAMS: u32 = 256;
/// The most connections, gRPC streams, and streams of reports, of all clients.
const PLACES: usize = 4096;
/// The most connections without a request. Each further one ends the oldest.
const SILENT: usize = 1024;
/// How long the first request of a connection and of a stream, the body of a poll, and the answer to a ping may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection stays without a stream and without a poll. Envoy and gRPC keep their stream; a poll may come each
/// minute, and finds another connection.
const IDLE: Duration = Duration::from_secs(60);
/// How long streams have to end once the server stops.
const FAREWELL: Duration = Duration::from_millis(300);

/// What connections share.
#[derive(Clone)]
struct Shared {
    latest: Latest,
    /// Places for gRPC streams.
    streams: Arc<Semaphore>,
    /// True once the server stops.
    stopping: watch::Receiver<bool>,
    lines: Arc<Lines>,
    clients: Clients,
    loads: Loads,
    /// Places for streams of reports.
    reports: Arc<Semaphore>,
    /// Of a request: its connection is not idle.
    _busy: Option<Arc<Busy>>,
}

/// Serves on the listener until `stop` has no sender any more.
pub fn serve(
    listener: TcpListener,
    tls: Tls,
    latest: Latest,
    (clients, loads): (Clients, Loads),
    mut stop: mpsc::Receiver<Infallible>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (end, stopping) = watch::channel(false);
        let [streams, reports] = [(); 2].map(|()| Arc::new(Semaphore::new(PLACES)));
        let lines = Arc::new(Lines::new());
        let shared = Shared { latest, streams, stopping, lines, clients, loads, reports, _busy: None };
        let places = Arc::new(Semaphore::new(PLACES));
        // Connections that had no request when they were looked at last, the oldest first.
        let mut silent: VecDeque<(Arc<AtomicBool>, AbortHandle)> = VecDeque::new();
        let accept = async {
            loop {
                let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
                let (socket, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // No file is free, for example: the connection waits in the kernel.
                        shared.lines.warn(Cause::Accept, format_args!("can not accept a connection: {error}"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let _ = socket.set_nodelay(true); // only speed is lost
                let asked = Arc::new(AtomicBool::new(false));
                let (shared, flag) = (shared.clone(), asked.clone());
                let config = tls.as_ref().map(|tls| tls.lock().unwrap_or_else(PoisonError::into_inner).clone());
                let connection = tokio::spawn(async move {
                    let Some(config) = config else { return http(socket, peer, shared, flag, place).await };
                    let handshake = TlsAcceptor::from(config).accept(socket);
                    match tokio::time::timeout(PATIENCE, handshake).await {
                        Ok(Ok(socket)) => http(socket, peer, shared, flag, place).await,
                        Ok(Err(error)) => shared.lines.warn(Cause::Tls, format_args!("TLS with {peer}: {error}")),
                        Err(_) => {
                            shared
                                .lines
                                .warn(Cause::Tls, format_args!("TLS with {peer}: the handshake takes too long"));
                        }
                    }
                });
                silent.push_back((asked, connection.abort_handle()));
                silent.retain(|(asked, connection)| !asked.load(Ordering::Relaxed) && !connection.is_finished());
                if silent.len() > SILENT
                    && let Some((_, oldest)) = silent.pop_front()
                {
                    oldest.abort();
                }
            }
        };
        futures_lite::future::or(accept, async {
            stop.recv().await;
        })
        .await;
        end.send_replace(true);
        // All places are free when all connections have ended.
        let _ = tokio::time::timeout(FAREWELL, places.acquire_many(PLACES as u32)).await;
        Ok(())
    })
}

/// HTTP/1.1 or HTTP/2 on a connection until it ends.
async fn http(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    shared: Shared,
    asked: Arc<AtomicBool>,
    place: OwnedSemaphorePermit,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE);
    let (flag, mut stopping) = (asked.clone(), shared.stopping.clone());
    let (count, mut requests) = watch::channel(0);
    let service = service_fn(move |request: Request<Incoming>| {
        flag.store(true, Ordering::Relaxed);
        let shared = Shared { _busy: Some(Arc::new(Busy::of(&count))), ..shared.clone() };
        async move { Ok::<_, Infallible>(handle(shared, request.map(Body::new)).await) }
    });
    let too_late = async {
        tokio::time::sleep(PATIENCE).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        tracing::debug!(%peer, "the connection has no request");
    };
    let connection = async {
        let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
        let ended = futures_lite::future::or(async { Some(connection.as_mut().await) }, async {
            // An error means that the server has ended.
            let stop = async { drop(stopping.wait_for(|stopping| *stopping).await) };
            futures_lite::future::or(stop, idle(&mut requests)).await;
            None
        })
        .await;
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, "connection: {error}");
        }
    };
    futures_lite::future::or(connection, too_late).await;
    drop(place);
}

/// Waits until the connection had no request for some time.
async fn idle(requests: &mut watch::Receiver<usize>) {
    loop {
        let ended = requests.wait_for(|requests| *requests == 0).await.is_err();
        let busy = async { drop(requests.wait_for(|requests| *requests > 0).await) };
        if ended || tokio::time::timeout(IDLE, busy).await.is_err() {
            return;
        }
    }
}

/// A protocol of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    StateOfTheWorld,
    Delta,
}

/// What a path of gRPC asks for: the protocol, and the only kind of its streams; `None` is all kinds.
fn method(path: &str) -> Option<(Method, Option<Kind>)> {
    let (service, method) = path.strip_prefix("/envoy.service.")?.split_once("Service/")?;
    let (method, of) = match method.strip_prefix("Stream") {
        Some(of) => (Method::StateOfTheWorld, of),
        None => (Method::Delta, method.strip_prefix("Delta")?),
    };
    let only = match (service, of) {
        ("discovery.v3.AggregatedDiscovery", "AggregatedResources") => None,
        ("endpoint.v3.EndpointDiscovery", "Endpoints") => Some(Kind::Endpoints),
        ("cluster.v3.ClusterDiscovery", "Clusters") => Some(Kind::Cluster),
        ("listener.v3.ListenerDiscovery", "Listeners") => Some(Kind::Listener),
        ("route.v3.RouteDiscovery", "Routes") => Some(Kind::Route),
        _ => return None,
    };
    Some((method, only))
}

async fn handle(shared: Shared, request: Request<Body>) -> Response {
    let path = request.uri().path();
    if let Some((method, only)) = method(path) {
        let discovery = Discovery { shared, only };
        return match method {
            Method::StateOfTheWorld => {
                let codec = Encoded::<DiscoveryRequest>::default();
                let mut grpc = Grpc::new(codec).max_decoding_message_size(REQUEST_BYTES);
                grpc.streaming(discovery, request).await.map(Body::new)
            }
            Method::Delta => {
                let codec = Encoded::<DeltaDiscoveryRequest>::default();
                let mut grpc = Grpc::new(codec).max_decoding_message_size(REQUEST_BYTES);
                grpc.streaming(discovery, request).await.map(Body::new)
            }
        };
    }
    if path == reports::PATH {
        let mut grpc = Grpc::new(Encoded::<LoadStatsRequest>::default()).max_decoding_message_size(REQUEST_BYTES);
        return grpc.streaming(reports::Reports(shared), request).await.map(Body::new);
    }
    if path == "/v3/discovery:endpoints" {
        // One connection of HTTP/2 could send the bodies of many polls at a time.
        if request.version() == Version::HTTP_2 {
            return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "poll by HTTP/1.1\n").into_response();
        }
        return rest(shared.latest, request).await;
    }
    if request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    {
        return Status::unimplemented("no such method").into_http::<Body>();
    }
    StatusCode::NOT_FOUND.into_response()
}

/// One poll: 304 if nothing has changed since the client's version.
async fn rest(latest: Latest, request: Request<Body>) -> Response {
    let body = request.into_body();
    if body.size_hint().lower() > REQUEST_BYTES as u64 {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    let body = match tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, REQUEST_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let Some(snapshot) = latest.borrow().clone() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no weights yet\n").into_response();
    };
    match json::answer(&body, &snapshot) {
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
        Ok(None) => StatusCode::NOT_MODIFIED.into_response(),
        Ok(Some(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
    }
}

/// A request of either protocol.
trait Ask: Message + Default + 'static {
    const DELTA: bool;
    fn node(&self) -> Option<&Node>;
    fn put(self, stream: &mut Stream) -> Result<Taken, Wrong>;
}

impl Ask for DiscoveryRequest {
    const DELTA: bool = false;
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
    fn put(self, stream: &mut Stream) -> Result<Taken, Wrong> {
        stream.request(self)
    }
}

impl Ask for DeltaDiscoveryRequest {
    const DELTA: bool = true;
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
    fn put(self, stream: &mut Stream) -> Result<Taken, Wrong> {
        stream.delta_request(self)
    }
}

struct Discovery {
    shared: Shared,
    /// The only kind of its streams.
    only: Option<Kind>,
}

type Responses = Pin<Box<dyn AsyncStream<Item = Result<Bytes, Status>> + Send>>;

impl<A: Ask> StreamingService<A> for Discovery {
    type Response = Bytes;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<tonic::Response<Responses>, Status>>;

    fn call(&mut self, requests: tonic::Request<Streaming<A>>) -> Self::Future {
        let Ok(place) = self.shared.streams.clone().try_acquire_owned() else {
            return std::future::ready(Err(Status::resource_exhausted("too many streams")));
        };
        let talk = Talk {
            requests: requests.into_inner(),
            shared: self.shared.clone(),
            _place: place,
            first_by: Some(Instant::now() + PATIENCE),
            stream: Stream::new(A::DELTA, self.only),
            seat: self.shared.clients.enter(),
            node: String::from("?"),
            due: Vec::new(),
        };
        let responses =
            futures_lite::stream::unfold(
                talk,
                |mut talk| async move { talk.next().await.map(|response| (response, talk)) },
            );
        std::future::ready(Ok(tonic::Response::new(Box::pin(responses))))
    }
}

/// What a stream ends with: the server stops, or the first request does not come in time.
async fn end(stopping: &mut watch::Receiver<bool>, first_by: Option<Instant>) -> Status {
    let stopped = async {
        // An error means that the server has ended.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        Status::unavailable("the control plane ends")
    };
    let late = async {
        match first_by {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        Status::deadline_exceeded("the stream has no request")
    };
    futures_lite::future::or(stopped, late).await
}

/// One stream with its peer.
struct Talk<A> {
    requests: Streaming<A>,
    shared: Shared,
    _place: OwnedSemaphorePermit,
    /// When the first request must have come; `None`: it has.
    first_by: Option<Instant>,
    stream: Stream,
    seat: Seat,
    /// The client's name of itself, in printable characters.
    node: String,
    /// Responses to send, the first one last.
    due: Vec<Bytes>,
}

enum Event<A> {
    Request(Option<Result<A, Status>>),
    Snapshot(bool),
    /// The stream ends.
    End(Status),
}

impl<A: Ask> Talk<A> {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(response) = self.due.pop() {
                return Some(Ok(response));
            }
            let Shared { latest, stopping, .. } = &mut self.shared;
            let snapshot = async { Event::Snapshot(latest.changed().await.is_ok()) };
            let request = async { Event::Request(self.requests.next().await) };
            let first_by = self.first_by;
            let end = async { Event::End(end(stopping, first_by).await) };
            let news = futures_lite::future::or(request, snapshot);
            match futures_lite::future::or(news, end).await {
                Event::End(status) => return Some(Err(status)),
                Event::Request(Some(Ok(request))) => {
                    self.first_by = None;
                    if let Some(node) = request.node() {
                        self.node = node.id.escape_debug().take(100).collect();
                    }
                    match request.put(&mut self.stream) {
                        Ok(taken) => self.log(taken.refused),
                        Err(Wrong::TooManyNames) => {
                            return Some(Err(Status::resource_exhausted("too many resource names")));
                        }
                        Err(Wrong::NoKind) => return Some(Err(Status::invalid_argument("a request has no type_url"))),
                    }
                }
                Event::Snapshot(true) => (),
                // The client ends the stream, or this process ends.
                Event::Request(_) | Event::Snapshot(false) => return None,
            }
            let latest = self.shared.latest.borrow_and_update().clone();
            if let Some(snapshot) = latest {
                self.due = self.stream.responses(&snapshot);
                self.due.reverse();
            }
            self.seat.tell(&self.node, &self.stream);
        }
    }

    fn log(&self, refused: Option<(&str, String)>) {
        if let Some((kind, reason)) = refused {
            let kind = kind.rsplit('.').next().unwrap_or(kind);
            let lines = &self.shared.lines;
            lines.warn(Cause::Refusal, format_args!("xDS client {} refuses a {kind}: {reason}", self.node));
        }
    }
}

#[cfg(test)]
mod tests;
