//! `gwm connect`, as a process, with the real load balancers.

mod admin;
mod agent;
mod common;
#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "dns")]
mod dns_update;
#[cfg(feature = "xds")]
mod envoy;
mod file;
#[cfg(feature = "xds")]
mod grpc;
mod haproxy;
mod ipvs;
#[cfg(all(feature = "dns", feature = "xds"))]
mod matrix;
mod nft;
mod nginx;
mod pen;
pub(crate) mod proxy;
pub(crate) mod real;
mod registration;
#[cfg(any(feature = "dns", feature = "xds"))]
mod resolved;
mod scenarios;
#[cfg(feature = "xds")]
mod xds;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Child, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use rustix::process::Signal;

use crate::harness::{Daemon, TempFile, command, until};

/// A web server on a free port of 127.0.0.1 that answers each request with its port; a test can close and open it.
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    served: Arc<AtomicU64>,
    open: Arc<AtomicBool>,
    listener: Arc<TcpListener>,
}

impl Member {
    pub(crate) fn start() -> Member {
        Member::start_on("127.0.0.1")
    }

    /// As [`Member::start`], on another address of this machine.
    pub(crate) fn start_on(ip: &str) -> Member {
        let listener = Arc::new(TcpListener::bind((ip, 0)).expect("a free port"));
        let accepting = Arc::clone(&listener);
        let address = listener.local_addr().expect("it is bound");
        let (served, open) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
        let (counter, opened) = (Arc::clone(&served), Arc::clone(&open));
        // The thread ends with the test's process.
        thread::spawn(move || {
            for stream in accepting.incoming().map_while(Result::ok) {
                if !opened.load(Ordering::Relaxed) {
                    continue; // closed at once
                }
                let counter = Arc::clone(&counter);
                thread::spawn(move || {
                    let mut reader = BufReader::new(&stream);
                    let mut writer = &stream;
                    loop {
                        let mut asked = false;
                        loop {
                            let mut line = String::new();
                            match reader.read_line(&mut line) {
                                Ok(1..) if line.trim().is_empty() => break,
                                Ok(1..) => asked = true,
                                _ => return, // the end, or a check that only connects
                            }
                        }
                        if !asked {
                            return;
                        }
                        counter.fetch_add(1, Ordering::Relaxed);
                        let body = address.port().to_string();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        if writer.write_all(head.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Member { address, served, open, listener }
    }

    /// How many requests were answered.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Whether the member answers requests; a closed one ends each connection at once.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// Takes no connection any more, for ever.
    pub(crate) fn close(&self) {
        rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both).expect("it listens");
    }
}

/// The members file that gives these members these weights; `None` is quiesced. The GWM checks them by TCP.
pub(crate) fn weights(members: &[(SocketAddr, Option<u16>)]) -> String {
    let entry = |(address, weight): &(SocketAddr, Option<u16>)| {
        let value = weight.map_or("quiesced = true".to_owned(), |weight| format!("weight = {weight}"));
        let (ip, port) = (address.ip(), address.port());
        format!("[[member]]\naddress = \"{ip}\"\nprotocol = \"tcp\"\nport = {port}\nmonitor = \"tcp\"\n{value}\n")
    };
    members.iter().map(entry).collect()
}

/// A daemon and its members file.
pub(crate) struct Gwm {
    pub(crate) daemon: Daemon,
    file: TempFile,
}

impl Gwm {
    pub(crate) fn start(members: &[(SocketAddr, Option<u16>)]) -> Gwm {
        Gwm::start_at("127.0.0.1:0", members)
    }

    pub(crate) fn start_at(listen: &str, members: &[(SocketAddr, Option<u16>)]) -> Gwm {
        Gwm::start_with(members, &["--listen", listen])
    }

    pub(crate) fn start_with(members: &[(SocketAddr, Option<u16>)], more: &[&str]) -> Gwm {
        let file = TempFile::new("members.toml", weights(members));
        let flags = ["--members", file.path(), "--probe-interval", "100ms", "--push-window", "10ms"];
        Gwm { daemon: Daemon::start(&[&flags[..], more].concat()), file }
    }

    pub(crate) fn address(&self) -> String {
        self.daemon.address().to_string()
    }

    /// Puts other weights in force.
    pub(crate) fn set(&self, members: &[(SocketAddr, Option<u16>)]) {
        self.file.write(weights(members));
        self.daemon.signal(Signal::HUP);
    }
}

/// `gwm connect`, killed when this value is dropped.
pub(crate) struct Connector {
    child: Child,
    log: Arc<Mutex<String>>,
    output: Arc<Mutex<String>>,
}

impl Connector {
    /// Starts `gwm connect` with these flags, a short wait for the GWM, and a log of each step.
    pub(crate) fn start(flags: &[&str]) -> Connector {
        let mut arguments = vec!["connect", "--retry", "1s", "--log-level", "debug"];
        if !flags.contains(&"--uid") {
            arguments.extend(["--uid", "LB1"]);
        }
        arguments.extend(flags);
        let mut child =
            command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let gather = |mut from: Box<dyn Read + Send>| {
            let text = Arc::new(Mutex::new(String::new()));
            let shared = Arc::clone(&text);
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut chunk) {
                    shared.lock().expect("no panic under the lock").push_str(&String::from_utf8_lossy(&chunk[..count]));
                }
            });
            text
        };
        let log = gather(Box::new(child.stderr.take().expect("stderr is piped")));
        let output = gather(Box::new(child.stdout.take().expect("stdout is piped")));
        Connector { child, log, output }
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic under the lock").clone()
    }

    /// What it printed so far.
    pub(crate) fn output(&self) -> String {
        self.output.lock().expect("no panic under the lock").clone()
    }

    /// Waits until one line of the log has all `parts`.
    pub(crate) fn wait_for_log(&self, parts: &[&str]) {
        until(&format!("a log line with {parts:?} in {}", self.log()), || {
            self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
        });
    }

    /// Kills it, as a crash does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().expect("it ends")
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if thread::panicking() {
            eprintln!("--- the connector's stderr ---\n{log}---");
        } else {
            assert!(!log.contains("panicked"), "the connector panicked:\n{log}");
        }
    }
}
