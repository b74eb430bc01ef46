//! The HTTP side, on a thread of its own: gRPC streams and REST on one port.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    marker::PhantomData,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Buf, BufMut, Bytes};
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
};
use tokio_rustls::TlsAcceptor;
use tonic::{
    Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, StreamingService},
};

use super::{
    json,
    messages::{DeltaDiscoveryRequest, DiscoveryRequest, Node},
    snapshot::Snapshot,
    stream::Stream,
};

/// The last snapshot; `None` before the first weights.
pub type Latest = watch::Receiver<Option<Arc<Snapshot>>>;

/// The most bytes of a request.
const REQUEST_BYTES: usize = 256 << 10;
/// The most bytes that HTTP/2 buffers of one stream, and of one connection.
const WINDOWS: (u32, u32) = (64 << 10, 256 << 10);
/// The most HTTP/2 streams of a connection.
const STREAMS: u32 = 1000;
/// The most connections, and gRPC streams, of all clients.
const PLACES: usize = 4096;
/// The most connections without a request. Each further one ends the oldest.
const SILENT: usize = 1024;
/// How long the first request, the body of a poll, and the answer to a ping may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What connections share.
#[derive(Clone)]
struct Shared {
    latest: Latest,
    /// Places for gRPC streams.
    streams: Arc<Semaphore>,
}

/// Serves on the listener until `stop` has no sender any more.
pub fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    latest: Latest,
    mut stop: mpsc::Receiver<Infallible>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let shared = Shared { latest, streams: Arc::new(Semaphore::new(PLACES)) };
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
                        tracing::warn!("can not accept a connection: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let _ = socket.set_nodelay(true); // only speed is lost
                let asked = Arc::new(AtomicBool::new(false));
                let (shared, tls, flag) = (shared.clone(), tls.clone(), asked.clone());
                let connection = tokio::spawn(async move {
                    let Some(config) = tls else { return http(socket, peer, shared, flag, place).await };
                    let handshake = TlsAcceptor::from(config).accept(socket);
                    match tokio::time::timeout(PATIENCE, handshake).await {
                        Ok(Ok(socket)) => http(socket, peer, shared, flag, place).await,
                        Ok(Err(error)) => tracing::warn!(%peer, "TLS: {error}"),
                        Err(_) => tracing::warn!(%peer, "TLS: the handshake takes too long"),
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
    let flag = asked.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        flag.store(true, Ordering::Relaxed);
        let shared = shared.clone();
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
        if let Err(error) = builder.serve_connection(TokioIo::new(socket), service).await {
            tracing::debug!(%peer, "connection: {error}");
        }
    };
    futures_lite::future::or(connection, too_late).await;
    drop(place);
}

async fn handle(shared: Shared, request: Request<Body>) -> Response {
    const SOTW: [&str; 5] = [
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
    ];
    const DELTA: [&str; 5] = [
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
    ];
    let path = request.uri().path();
    if SOTW.contains(&path) {
        let mut grpc = Grpc::new(Encoded::<DiscoveryRequest>(PhantomData)).max_decoding_message_size(REQUEST_BYTES);
        return grpc.streaming(Discovery(shared), request).await.map(Body::new);
    }
    if DELTA.contains(&path) {
        let mut grpc =
            Grpc::new(Encoded::<DeltaDiscoveryRequest>(PhantomData)).max_decoding_message_size(REQUEST_BYTES);
        return grpc.streaming(Discovery(shared), request).await.map(Body::new);
    }
    if path == "/v3/discovery:endpoints" {
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
    fn put(self, stream: &mut Stream) -> Result<super::stream::Taken, super::stream::TooManyNames>;
}

impl Ask for DiscoveryRequest {
    const DELTA: bool = false;
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
    fn put(self, stream: &mut Stream) -> Result<super::stream::Taken, super::stream::TooManyNames> {
        stream.request(self)
    }
}

impl Ask for DeltaDiscoveryRequest {
    const DELTA: bool = true;
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
    fn put(self, stream: &mut Stream) -> Result<super::stream::Taken, super::stream::TooManyNames> {
        stream.delta_request(self)
    }
}

struct Discovery(Shared);

type Responses = Pin<Box<dyn AsyncStream<Item = Result<Bytes, Status>> + Send>>;

impl<A: Ask> StreamingService<A> for Discovery {
    type Response = Bytes;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<tonic::Response<Responses>, Status>>;

    fn call(&mut self, requests: tonic::Request<Streaming<A>>) -> Self::Future {
        let Ok(place) = self.0.streams.clone().try_acquire_owned() else {
            return std::future::ready(Err(Status::resource_exhausted("too many streams")));
        };
        let talk = Talk {
            requests: requests.into_inner(),
            latest: self.0.latest.clone(),
            _place: place,
            stream: Stream::new(A::DELTA),
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

/// One stream with its peer.
struct Talk<A> {
    requests: Streaming<A>,
    latest: Latest,
    _place: OwnedSemaphorePermit,
    stream: Stream,
    /// The client's name of itself, in printable characters.
    node: String,
    /// Responses to send, the first one last.
    due: Vec<Bytes>,
}

enum Event<A> {
    Request(Option<Result<A, Status>>),
    Snapshot(bool),
}

impl<A: Ask> Talk<A> {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(response) = self.due.pop() {
                return Some(Ok(response));
            }
            let snapshot = async { Event::Snapshot(self.latest.changed().await.is_ok()) };
            let request = async { Event::Request(self.requests.next().await) };
            match futures_lite::future::or(request, snapshot).await {
                Event::Request(Some(Ok(request))) => {
                    if let Some(node) = request.node() {
                        self.node = node.id.escape_debug().take(100).collect();
                    }
                    match request.put(&mut self.stream) {
                        Ok(taken) => self.log(taken.refused),
                        Err(_) => return Some(Err(Status::resource_exhausted("too many resource names"))),
                    }
                }
                Event::Snapshot(true) => (),
                // The client ends the stream, or this process ends.
                Event::Request(_) | Event::Snapshot(false) => return None,
            }
            let latest = self.latest.borrow_and_update().clone();
            if let Some(snapshot) = latest {
                self.due = self.stream.responses(&snapshot);
                self.due.reverse();
            }
        }
    }

    fn log(&self, refused: Option<(&str, String)>) {
        if let Some((kind, reason)) = refused {
            let kind = kind.rsplit('.').next().unwrap_or(kind);
            tracing::warn!("xDS client {} refuses a {kind}: {reason}", self.node);
        }
    }
}

/// Requests are decoded; responses are encoded already.
struct Encoded<A>(PhantomData<A>);

impl<A: Ask> Codec for Encoded<A> {
    type Encode = Bytes;
    type Decode = A;
    type Encoder = Encoded<A>;
    type Decoder = Encoded<A>;
    fn encoder(&mut self) -> Encoded<A> {
        Encoded(PhantomData)
    }
    fn decoder(&mut self) -> Encoded<A> {
        Encoded(PhantomData)
    }
}

impl<A: Ask> Encoder for Encoded<A> {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl<A: Ask> Decoder for Encoded<A> {
    type Item = A;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
        debug_assert!(buffer.remaining() <= REQUEST_BYTES);
        A::decode(buffer).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
