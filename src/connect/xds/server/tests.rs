use hyper::client::conn::http2::{self, SendRequest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;

type Publish = watch::Sender<Option<Arc<Snapshot>>>;

/// What connections share; the two senders must live as long as they do.
fn shared() -> (Shared, Publish, watch::Sender<bool>) {
    let (publish, latest) = watch::channel(Some(Arc::new(Snapshot::after(None, 7, Vec::new()))));
    let (end, stopping) = watch::channel(false);
    let [streams, reports] = [(); 2].map(|()| Arc::new(Semaphore::new(1)));
    let (lines, clients, loads) = (Arc::new(Lines::new()), Clients::default(), Loads::default());
    (Shared { latest, streams, stopping, lines, clients, loads, reports, _busy: None }, publish, end)
}

/// Runs a test by a clock that only goes on, to the next timer, when there is nothing to do.
fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(test);
}

/// The client's end of a connection that is served.
async fn connect(shared: &Shared) -> DuplexStream {
    let (client, server) = tokio::io::duplex(64 << 10);
    let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    tokio::spawn(http(server, ([127, 0, 0, 1], 1).into(), shared.clone(), Arc::default(), place));
    client
}

/// The same with HTTP/2, and what waits for the connection's end.
async fn connect_http2(shared: &Shared) -> (SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
    let socket = TokioIo::new(connect(shared).await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    (sender, tokio::spawn(connection))
}

/// Whether the connection's end came when it must, since this time by the clock of [`run`].
fn is_idle_time(start: Instant) -> bool {
    (IDLE..IDLE + Duration::from_secs(1)).contains(&start.elapsed())
}

#[test]
fn a_connection_without_a_stream_is_closed_in_order() {
    run(async {
        let (shared, _publish, _end) = shared();
        let (mut sender, ended) = connect_http2(&shared).await;
        let mut start = Instant::now();
        // Each request begins the time anew.
        for _ in 0..3 {
            tokio::time::sleep_until(start + IDLE / 4).await;
            let answer = sender.send_request(Request::get("/x").body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::NOT_FOUND);
            start = Instant::now();
        }
        assert!(ended.await.unwrap().is_ok(), "it was told, and not cut");
        assert!(is_idle_time(start), "{:?}", start.elapsed());
    });
}

#[test]
fn a_connection_with_a_stream_stays_until_the_stream_ends() {
    run(async {
        let (shared, _publish, _end) = shared();
        let (mut sender, ended) = connect_http2(&shared).await;
        let ask = DiscoveryRequest { type_url: Kind::Endpoints.type_url().to_owned(), ..DiscoveryRequest::default() };
        let ask = ask.encode_to_vec();
        let length = u32::try_from(ask.len()).unwrap().to_be_bytes();
        let frame = Bytes::from([&[0][..], &length, &ask].concat());
        let (finish, finished) = oneshot::channel::<()>();
        let rest = futures_lite::stream::once_future(async {
            let _ = finished.await;
            Ok(Bytes::new())
        });
        let first = futures_lite::stream::once(Ok::<_, Infallible>(frame));
        let body = Body::from_stream(first.chain(rest));
        let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/grpc").body(body).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        tokio::time::sleep(IDLE * 100).await;
        assert!(!ended.is_finished());
        // The client ends the stream.
        let start = Instant::now();
        drop((finish, answer));
        assert!(ended.await.unwrap().is_ok());
        assert!(is_idle_time(start), "{:?}", start.elapsed());
    });
}

#[test]
fn a_poll_keeps_its_connection_as_long_as_any() {
    run(async {
        let (shared, _publish, _end) = shared();
        let mut client = connect(&shared).await;
        client.write_all(b"POST /v3/discovery:endpoints HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
        let start = Instant::now();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        // HTTP/1.1 has a time of its own for the next request's head.
        assert!(start.elapsed() <= IDLE + Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn polls_come_by_http_1() {
    let (shared, _publish, _end) = shared();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let status = |version| {
        let request = Request::post("/v3/discovery:endpoints").version(version).body(Body::from("{}")).unwrap();
        runtime.block_on(handle(shared.clone(), request)).status()
    };
    assert_eq!(status(Version::HTTP_11), StatusCode::OK);
    assert_eq!(status(Version::HTTP_2), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
}

#[test]
fn each_method_has_its_kind() {
    let service = "/envoy.service.endpoint.v3.EndpointDiscoveryService/";
    assert_eq!(method(&format!("{service}DeltaEndpoints")), Some((Method::Delta, Some(Kind::Endpoints))));
    assert_eq!(method(&format!("{service}StreamClusters")), None);
    let all = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    assert_eq!(method(all), Some((Method::StateOfTheWorld, None)));
}
