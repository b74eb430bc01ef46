//! One HTTP/2 connection with one etcd, and gRPC on it.

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use futures_lite::{Stream, StreamExt, stream};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Status, Streaming,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{Ascii, MetadataValue},
};
use tower_service::Service;

use super::{Endpoint, EtcdError, Security};

/// The longest answer that is taken: a page of 64 values of etcd's longest request, 1.5 MiB, with their keys.
const ANSWER_BYTES: usize = 100 << 20;

/// The bytes that etcd may send ahead on one stream, and on the connection.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// How often the connection is tried, and how long the answer may take: a dead one is noticed though no request waits.
const PING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(2));

/// A connection; it ends when this value and all streams are dropped.
pub(super) struct Connection {
    send: SendRequest<Body>,
    origin: Uri,
    /// What etcd gave for name and password.
    token: Mutex<Option<MetadataValue<Ascii>>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Connects, with TLS if there are settings for TLS.
    pub(super) async fn open(endpoint: &Endpoint, security: &Security) -> Result<Connection, EtcdError> {
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(EtcdError::Connect)?;
        tcp.set_nodelay(true).map_err(EtcdError::Connect)?;
        match &security.tls {
            None => Connection::http2(tcp, "http", endpoint).await,
            Some(config) => {
                let name = ServerName::try_from(endpoint.host.clone());
                let name = name.map_err(|error| EtcdError::Refused(error.to_string()))?;
                let connector = TlsConnector::from(config.clone());
                let tls = connector.connect(name, tcp).await.map_err(EtcdError::Connect)?;
                Connection::http2(tls, "https", endpoint).await
            }
        }
    }

    async fn http2(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        scheme: &str,
        endpoint: &Endpoint,
    ) -> Result<Connection, EtcdError> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(true);
        let failed = |error: hyper::Error| EtcdError::Refused(format!("no HTTP/2: {error}"));
        let (send, connection) = builder.handshake(TokioIo::new(io)).await.map_err(failed)?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the connection with etcd ends: {error}");
            }
        });
        let origin = Uri::builder().scheme(scheme).authority(endpoint.to_string()).path_and_query("/").build();
        let origin = origin.map_err(|error| EtcdError::Refused(error.to_string()))?;
        Ok(Connection { send, origin, token: Mutex::default(), task })
    }

    /// Shows this with each request from now on.
    pub(super) fn set_token(&self, token: Option<MetadataValue<Ascii>>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// A request of gRPC, with what etcd wants to know beside it.
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &*self.token.lock().unwrap_or_else(PoisonError::into_inner) {
            request.metadata_mut().insert("token", token.clone());
        }
        // An etcd that is cut off from the others refuses, and ends what it serves, instead of telling nothing new.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        request
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, EtcdError> {
        let mut grpc =
            Grpc::with_origin(Channel(self.send.clone()), self.origin.clone()).max_decoding_message_size(ANSWER_BYTES);
        grpc.ready().await.map_err(|error| EtcdError::Refused(error.to_string()))?;
        Ok(grpc)
    }

    /// One request, one answer, within `patience`.
    pub(super) async fn ask<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        path: &'static str,
        question: Q,
        patience: Duration,
    ) -> Result<A, EtcdError> {
        let asked = async {
            let request = self.request(question);
            let answer = self.grpc().await?.unary(request, path.parse().expect("a path"), Protobuf(PhantomData)).await;
            answer.map(tonic::Response::into_inner).map_err(EtcdError::from)
        };
        time::timeout(patience, asked).await.map_err(|_| EtcdError::Late)?
    }

    /// One request, then answers until the stream is dropped. With `more_requests` etcd does not take the request for the
    /// last one.
    pub(super) async fn follow<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        path: &'static str,
        question: Q,
        more_requests: bool,
        patience: Duration,
    ) -> Result<Streaming<A>, EtcdError> {
        let asked = async {
            let first = stream::once(question);
            let requests: Pin<Box<dyn Stream<Item = Q> + Send>> =
                if more_requests { Box::pin(first.chain(stream::pending())) } else { Box::pin(first) };
            let request = self.request(requests);
            let path = path.parse().expect("a path");
            let answers = self.grpc().await?.streaming(request, path, Protobuf(PhantomData)).await;
            answers.map(tonic::Response::into_inner).map_err(EtcdError::from)
        };
        time::timeout(patience, asked).await.map_err(|_| EtcdError::Late)?
    }
}

/// The connection as gRPC wants it.
struct Channel(SendRequest<Body>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Requests `Q` and answers `A`, encoded by `prost`.
struct Protobuf<Q, A>(PhantomData<(Q, A)>);

impl<Q: Message + 'static, A: Message + Default + 'static> Codec for Protobuf<Q, A> {
    type Encode = Q;
    type Decode = A;
    type Encoder = Protobuf<Q, A>;
    type Decoder = Protobuf<Q, A>;

    fn encoder(&mut self) -> Protobuf<Q, A> {
        Protobuf(PhantomData)
    }

    fn decoder(&mut self) -> Protobuf<Q, A> {
        Protobuf(PhantomData)
    }
}

impl<Q: Message, A> Encoder for Protobuf<Q, A> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, item: Q, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<Q, A: Message + Default> Decoder for Protobuf<Q, A> {
    type Item = A;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
        debug_assert!(buffer.remaining() <= ANSWER_BYTES);
        A::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
