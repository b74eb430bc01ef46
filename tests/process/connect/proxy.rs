//! A real HAProxy before real members.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use gwm::connect::haproxy::{Server, servers};
use rustix::process::{Pid, Signal, kill_process};

use super::real::free_address;
use crate::harness::{PATIENCE, TempFile, until};

/// A master and a worker of HAProxy; it can be reloaded and restarted.
pub(crate) struct Proxy {
    configuration: TempFile,
    sockets: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) tcp: SocketAddr,
    child: Option<Child>,
}

/// A backend's section: each server with its name, address and more words.
pub(crate) fn backend(name: &str, words: &str, servers: &[(&str, SocketAddr, &str)]) -> String {
    let lines = servers.iter().map(|(name, address, words)| format!(" server {name} {address} {words}\n"));
    format!("backend {name}\n {words}\n{}", lines.collect::<String>())
}

impl Proxy {
    /// HAProxy with these backends; its frontend uses the backend `web`.
    pub(crate) fn start(backends: &str) -> Proxy {
        // The path of a socket has 108 bytes at most, so it is not in the target directory.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gwm-connect-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let sockets = env::temp_dir().join(name);
        fs::create_dir(&sockets).expect("a new directory");
        let (listen, tcp) = (free_address(), free_address());
        let socket = |name: &str| sockets.join(name).display().to_string();
        let configuration = TempFile::new(
            "haproxy.cfg",
            format!(
                "global\n stats socket {} level admin\n stats socket {} level user\n \
                 stats socket ipv4@{tcp} level admin\n\
                 defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
                 frontend all\n bind {listen}\n default_backend web\n{backends}\n",
                socket("admin"),
                socket("user")
            ),
        );
        let mut proxy = Proxy { configuration, sockets, listen, tcp, child: None };
        proxy.restart();
        proxy
    }

    pub(crate) fn socket(&self, name: &str) -> String {
        self.sockets.join(name).display().to_string()
    }

    pub(crate) fn restart(&mut self) {
        self.end();
        let child = Command::new("haproxy")
            .args(["-W", "-db", "-S", &self.socket("master"), "-f", self.configuration.path()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("HAProxy starts"));
        until("HAProxy listens", || {
            TcpStream::connect(self.listen).is_ok() && self.try_to_ask("show info").is_ok_and(|info| !info.is_empty())
        });
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    fn worker(&self) -> String {
        let info = self.try_to_ask("show info").unwrap_or_default();
        info.lines().find(|line| line.starts_with("Pid: ")).unwrap_or_default().into()
    }

    /// Lets the master start a new worker with the configuration.
    pub(crate) fn reload(&self) {
        let old = self.worker();
        kill_process(self.pid(), Signal::USR2).expect("the master runs");
        until("a new worker answers", || !self.worker().is_empty() && self.worker() != old);
    }

    /// Ends master and worker.
    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The master ends its workers, too.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let _ = child.wait();
        }
    }

    fn try_to_ask(&self, command: &str) -> io::Result<String> {
        let mut answer = String::new();
        let mut stream = UnixStream::connect(self.sockets.join("admin"))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_to_ask(command).expect("HAProxy answers")
    }

    pub(crate) fn servers(&self) -> BTreeMap<String, Server> {
        let answer = self.try_to_ask("show servers state").unwrap_or_default();
        let servers = servers(answer.trim_end()).unwrap_or_default();
        servers.into_iter().map(|server| (format!("{}/{}", server.backend, server.name), server)).collect()
    }

    pub(crate) fn shows(&self, weights: &[(&str, u32)]) -> bool {
        let servers = self.servers();
        weights.iter().all(|(name, weight)| servers.get(*name).is_some_and(|server| server.weight == *weight))
    }

    pub(crate) fn wait_for(&self, weights: &[(&str, u32)]) {
        until(&format!("{weights:?}"), || self.shows(weights));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// The body of an answer 200, by a connection of its own.
pub(super) fn get(server: SocketAddr, path: &str) -> Result<String, String> {
    let text = exchange(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no end of the head: {text}"))?;
    if head.starts_with("HTTP/1.1 200 ") { Ok(body.to_owned()) } else { Err(text) }
}

/// Sends a request, and reads until the end.
pub(super) fn exchange(server: SocketAddr, request: &str) -> Result<String, String> {
    let words = |error: io::Error| error.to_string();
    let mut stream = TcpStream::connect(server).map_err(words)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
    stream.write_all(request.as_bytes()).map_err(words)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(words)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// One request on a connection of its own; says whether the answer is good.
pub(crate) fn request(address: SocketAddr) -> bool {
    get(address, "/").is_ok()
}
