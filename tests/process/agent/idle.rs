//! A real HAProxy keeps connections to a service for later requests: a drain does not wait for those.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use super::{Agent, EMPTY, RunDirectory, listed, until_listed};
use crate::{
    connect::{
        proxy::{Proxy, backend, request},
        real::installed,
    },
    harness::{Daemon, PATIENCE, until},
};

/// A web server that keeps its connections. The first request waits until the test lets it go.
#[derive(Default)]
struct Server {
    requests: AtomicUsize,
    goes: Mutex<bool>,
    changed: Condvar,
    has_closed: AtomicBool,
}

impl Server {
    fn start() -> (Arc<Server>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = Arc::new(Server::default());
        let shared = Arc::clone(&server);
        // The threads end with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&shared);
                thread::spawn(move || server.serve(stream));
            }
        });
        (server, address)
    }

    fn serve(&self, mut stream: TcpStream) {
        let (mut asked, mut chunk, mut answered) = (Vec::new(), [0; 1024], false);
        while let Ok(length @ 1..) = stream.read(&mut chunk) {
            asked.extend_from_slice(&chunk[..length]);
            while let Some(end) = asked.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                asked.drain(..end + 4);
                if self.requests.fetch_add(1, Ordering::SeqCst) == 0 {
                    let goes = self.goes.lock().expect("no panic under the lock");
                    drop(self.changed.wait_timeout_while(goes, PATIENCE, |goes| !*goes));
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                answered = true;
            }
        }
        // Checks come and go without a request.
        self.has_closed.fetch_or(answered, Ordering::SeqCst);
    }

    fn let_go(&self) {
        *self.goes.lock().expect("no panic under the lock") = true;
        self.changed.notify_all();
    }
}

#[test]
fn a_drain_waits_for_requests_and_not_for_connections_that_are_kept() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let (server, place) = Server::start();
    let words = "http-reuse always\n timeout server 60s";
    let proxy = Proxy::start(&backend("web", words, &[("s1", place, "pool-purge-delay 1h pool-low-conn 100")]));
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    let directory = RunDirectory::new();
    let (gwm, member) = (daemon.address().to_string(), place.to_string());
    let flags = ["--gwm", &gwm, "--member", &member, "--idle-time", "500ms", "--drain-time", "1h"];
    // Its own checks would be connections, too.
    let agent = Agent::start(&directory, &[&flags[..], &["--service-check", "none"]].concat());
    until_listed(&mut lb, &format!("LB1/web [{member} 00/01/100]"));
    let listen = proxy.listen;
    let slow = thread::spawn(move || request(listen));
    until("the slow request is there", || server.requests.load(Ordering::SeqCst) == 1);
    assert!(request(listen), "on another connection, which HAProxy keeps");
    agent.signal(Signal::TERM);
    until_listed(&mut lb, &format!("LB1/web [{member} 00/03/0]"));
    // The slow request came first, so its connection is silent for longer than the idle one.
    until("the kept connection is idle", || {
        directory.tell(&["status"]).is_ok_and(|text| text.starts_with("web: drain, 2 connections (1 idle), "))
    });
    server.let_go();
    assert!(slow.join().unwrap(), "the slow request is answered");
    agent.wait_for_log(&["its connections are gone or idle", "idle=2"]);
    assert!(agent.wait().success());
    assert!(!server.has_closed.load(Ordering::SeqCst), "HAProxy has kept them");
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}
