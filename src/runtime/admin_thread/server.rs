//! Accepting, TLS and HTTP.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, extract::Request, routing};
use futures_lite::future::or;
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::Notify,
    task::spawn_local,
    time,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Bound, Daemon,
    connections::{Connection, Connections, Listed},
    guarded_io::Guarded,
    handler, streams,
};
use crate::{access::Certificate, admin::ROUTES, limits, sasp::Escaped};

/// How long a client may take to send the head of its next request, also on a connection that stays open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a failure to accept, as when there is no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub(super) struct State {
    pub(super) daemon: Arc<Daemon>,
    pub(super) connections: Arc<Connections>,
}

/// Serves until `stop` is rung.
pub(super) async fn serve(bound: Vec<Bound>, daemon: Arc<Daemon>, stop: Arc<Notify>) -> io::Result<()> {
    let state = Arc::new(State { daemon: daemon.clone(), connections: Arc::default() });
    let router = router(state.clone());
    let mut files = Vec::new();
    for listener in bound {
        match listener {
            Bound::Unix(listener, file) => {
                files.push(file);
                spawn_local(accept_unix(UnixListener::from_std(listener)?, state.clone(), router.clone()));
            }
            Bound::Tcp { listener, tls } => {
                spawn_local(accept_tcp(TcpListener::from_std(listener)?, tls, state.clone(), router.clone()));
            }
        }
    }
    spawn_local(streams::pump(daemon));
    stop.notified().await;
    drop(files);
    Ok(())
}

fn router(state: Arc<State>) -> Router {
    let mut router = Router::new();
    for &(path, route, post) in ROUTES {
        let state = state.clone();
        let handle = move |request: Request| handler::handle(state.clone(), route, request);
        router = router.route(path, if post { routing::post(handle) } else { routing::get(handle) });
    }
    let unknown = state.clone();
    router
        .method_not_allowed_fallback(move |request: Request| handler::wrong_method(state.clone(), request))
        .fallback(move |request: Request| handler::unknown_path(unknown.clone(), request))
}

async fn accept_unix(listener: UnixListener, state: Arc<State>, router: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let from = match stream.peer_cred() {
            Ok(peer) => format!("socket, user {}, process {}", peer.uid(), peer.pid().unwrap_or(0)),
            Err(_) => "socket".into(),
        };
        let connection = Arc::new(Connection::local(from));
        let Some(listed) = state.connections.add(connection) else { continue };
        spawn_local(http(TokioIo::new(stream), listed, router.clone()));
    }
}

async fn accept_tcp(listener: TcpListener, tls: bool, state: Arc<State>, router: Router) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let connection = Arc::new(Connection::tcp(peer.to_string(), !tls));
        let Some(listed) = state.connections.add(connection) else { continue };
        match tls {
            false => drop(spawn_local(http(TokioIo::new(stream), listed, router.clone()))),
            true => drop(spawn_local(https(stream, listed, state.clone(), router.clone()))),
        }
    }
}

/// A TLS handshake, then HTTP.
async fn https(stream: TcpStream, listed: Listed, state: Arc<State>, router: Router) {
    let Some(config) = state.daemon.tls() else { return };
    let connection = listed.connection.clone();
    let handshake =
        async { time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await.ok()?.ok() };
    let ended = async {
        connection.ended().await;
        None
    };
    let Some(stream) = or(ended, handshake).await else { return };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().and_then(|der| Certificate::parse(der).ok());
    if let Some(name) = certificate.as_ref().and_then(Certificate::first_name) {
        let _ = connection.certificate.set(Escaped(name.as_bytes()).to_string());
    }
    http(TokioIo::new(stream), listed, router).await;
}

/// HTTP on a connection, until the client or the daemon ends it.
async fn http(io: impl Read + Write + Unpin + 'static, listed: Listed, router: Router) {
    let connection = listed.connection.clone();
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        let work = connection.work();
        request.extensions_mut().insert(connection.clone());
        let answer = hyper::service::Service::call(&router, request);
        async move {
            let response = answer.await;
            // The answer's body may be long: the connection is at work until it is written.
            response.map(|response| response.map(|body| handler::Working { body, _work: work }))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(limits::ADMIN_HEAD_BYTES)
        .serve_connection(Guarded::new(io, listed.connection.clone()), service);
    let served = async { drop(served.await) };
    or(listed.connection.ended(), served).await;
}
