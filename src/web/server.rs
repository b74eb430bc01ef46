//! The thread of an admin side: accepting, TLS and HTTP.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use axum::{Router, body::Body, extract::Request, http, routing};
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
    sync::{Notify, watch},
    task::{LocalSet, spawn_local},
    time,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Problem, Site,
    answers::plain,
    connections::{Connection, Connections, Listed},
    guarded_io::Guarded,
    requests::{Working, guarded},
    sockets::Bound,
};
use crate::{access::Certificate, limits, sasp::Escaped};

/// How long a client may take to send the head of its next request, also on a connection that stays open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a failure to accept, as when there is no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running thread.
pub struct Thread<E> {
    /// For the end.
    pub handle: JoinHandle<Result<(), E>>,
    stop: Arc<Notify>,
    /// Whether new connections wait in the kernel.
    pause: Arc<watch::Sender<bool>>,
}

impl<E: Send + 'static> Thread<E> {
    /// Starts the thread; `ended` is dropped at its end, and `failed` makes the error of one that can not serve.
    pub fn start<S: Site>(
        bound: Vec<Bound>,
        site: Arc<S>,
        ended: impl Send + 'static,
        failed: impl Fn(io::Error) -> E + Send + 'static,
    ) -> io::Result<Thread<E>> {
        let stop = Arc::new(Notify::new());
        let until = stop.clone();
        let (pause, paused) = watch::channel(false);
        let handle = std::thread::Builder::new().name("admin".into()).spawn(move || {
            let _ended = ended;
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), limits::NICENESS);
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(&failed)?;
            let tasks = LocalSet::new();
            runtime.block_on(tasks.run_until(serve(bound, site, until, paused))).map_err(failed)
        })?;
        Ok(Thread { handle, stop, pause: Arc::new(pause) })
    }

    /// Asks the thread to end: at once, whatever its clients do.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Lets new connections wait in the kernel while its value is true.
    pub fn pause(&self) -> Arc<watch::Sender<bool>> {
        self.pause.clone()
    }
}

/// Serves until `stop` is rung.
async fn serve<S: Site>(
    bound: Vec<Bound>,
    site: Arc<S>,
    stop: Arc<Notify>,
    paused: watch::Receiver<bool>,
) -> io::Result<()> {
    let router = router(&site);
    let mut files = Vec::new();
    for listener in bound {
        match listener {
            Bound::Unix(listener, file) => {
                files.push(file);
                let listener = UnixListener::from_std(listener)?;
                spawn_local(accept_unix(listener, site.clone(), router.clone(), paused.clone()));
            }
            Bound::Tcp { listener, tls } => {
                let listener = TcpListener::from_std(listener)?;
                spawn_local(accept_tcp(listener, tls, site.clone(), router.clone(), paused.clone()));
            }
        }
    }
    spawn_local(site.run());
    stop.notified().await;
    drop(files);
    Ok(())
}

fn router<S: Site>(site: &Arc<S>) -> Router {
    let mut router = Router::new();
    for &(path, route, post) in S::ROUTES {
        let site = site.clone();
        let handle = move |request: Request| handle(site.clone(), route, request);
        router = router.route(path, if post { routing::post(handle) } else { routing::get(handle) });
    }
    let (known, unknown) = (site.clone(), site.clone());
    router
        .method_not_allowed_fallback(move |request: Request| {
            refuse(known.clone(), request, || Problem::new(405, "method", "this path does not have this method"))
        })
        .fallback(move |request: Request| refuse(unknown.clone(), request, || Problem::new(404, "path", S::UNKNOWN)))
}

/// Answers a request to a path.
async fn handle<S: Site>(site: Arc<S>, route: S::Route, request: Request) -> http::Response<Body> {
    let answered = async {
        guarded(&*site, Some(route), &request)?;
        site.answer(route, request).await
    };
    answered.await.unwrap_or_else(|problem| plain(problem.response()))
}

/// Answers a request to an unknown path, or with a method that the path does not have; the router adds the allowed ones.
async fn refuse<S: Site>(site: Arc<S>, request: Request, why: impl FnOnce() -> Problem) -> http::Response<Body> {
    let problem = guarded(&*site, None, &request).err();
    plain(problem.unwrap_or_else(why).response())
}

/// Accepts, but not during a pause. `None`: that failed.
async fn accepted<T>(paused: &mut watch::Receiver<bool>, accept: impl AsyncFn() -> io::Result<T>) -> Option<T> {
    loop {
        // An error says that nobody can make a pause any more.
        let _ = paused.wait_for(|paused| !paused).await;
        let pause = async {
            match paused.wait_for(|paused| *paused).await {
                Ok(_) => None,
                Err(_) => std::future::pending().await,
            }
        };
        if let Some(accepted) = or(pause, async { Some(accept().await) }).await {
            return accepted.ok();
        }
    }
}

async fn accept_unix<S: Site>(listener: UnixListener, site: Arc<S>, router: Router, mut paused: watch::Receiver<bool>) {
    loop {
        let Some((stream, _)) = accepted(&mut paused, async || listener.accept().await).await else {
            time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let from = match stream.peer_cred() {
            Ok(peer) => format!("socket, user {}, process {}", peer.uid(), peer.pid().unwrap_or(0)),
            Err(_) => "socket".into(),
        };
        let connection = Arc::new(Connection::local(from));
        let Some(listed) = Connections::add(&site.gate().connections, connection) else { continue };
        spawn_local(http(TokioIo::new(stream), listed, router.clone()));
    }
}

async fn accept_tcp<S: Site>(
    listener: TcpListener,
    tls: bool,
    site: Arc<S>,
    router: Router,
    mut paused: watch::Receiver<bool>,
) {
    loop {
        let Some((stream, peer)) = accepted(&mut paused, async || listener.accept().await).await else {
            time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let connection = Arc::new(Connection::tcp(peer, !tls));
        let Some(listed) = Connections::add(&site.gate().connections, connection) else { continue };
        match tls {
            false => drop(spawn_local(http(TokioIo::new(stream), listed, router.clone()))),
            true => drop(spawn_local(https(stream, listed, site.clone(), router.clone()))),
        }
    }
}

/// A TLS handshake, then HTTP.
async fn https<S: Site>(stream: TcpStream, listed: Listed, site: Arc<S>, router: Router) {
    let Some(config) = site.gate().tls() else { return };
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
        let mut request = request.map(Body::new);
        let work = connection.work();
        request.extensions_mut().insert(connection.clone());
        let answer = hyper::service::Service::call(&router, request);
        async move {
            let response = answer.await;
            // The answer's body may be long: the connection is at work until it is written.
            response.map(|response| response.map(|body| Working { body, _work: work }))
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
