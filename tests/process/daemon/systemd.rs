//! What systemd hears of the daemon, and that a thread that hangs is not kept from it.

use std::{
    io::{BufRead, BufReader},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    hang::Stopped,
    harness::{PATIENCE, Permit, command, until},
};

/// A daemon whose unit wants to hear at least every 4 s that it lives, so that it looks each second.
struct Unit {
    child: Child,
    socket: UnixDatagram,
    log: Arc<Mutex<String>>,
    _permit: Permit,
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Unit {
    fn start(name: &str) -> Unit {
        let name = format!("gwm-unit-{name}-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name"));
        let socket = socket.expect("a new socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let permit = Permit::take(1);
        let mut daemon = command(&["serve", "--listen", "127.0.0.1:0", "--shards", "1"]);
        daemon.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "4000000").env_remove("WATCHDOG_PID");
        let mut child = daemon.stdout(Stdio::null()).spawn().expect("the binary starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let log = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&log);
        thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|length| length > 0) {
                shared.lock().expect("no panic under the lock").push_str(&line);
                line.clear();
            }
        });
        Unit { child, socket, log, _permit: permit }
    }

    /// The next word of the daemon.
    fn hear(&self) -> String {
        let mut bytes = [0; 512];
        let length = self.socket.recv(&mut bytes).expect("the daemon says something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Words that are there now.
    fn heard(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut bytes = [0; 512];
        self.socket.set_nonblocking(true).expect("a mode");
        while let Ok(length) = self.socket.recv(&mut bytes) {
            words.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        self.socket.set_nonblocking(false).expect("a mode");
        words
    }

    fn hear_until(&self, word: &str) {
        while self.hear() != word {}
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(id, signal).expect("the daemon runs");
    }

    fn complaints(&self, of: &str) -> usize {
        let log = self.log.lock().expect("no panic under the lock");
        log.lines().filter(|line| line.contains(of) && line.contains("systemd is not told that gwm lives")).count()
    }
}

#[test]
fn systemd_hears_of_start_reload_life_and_stop() {
    let mut unit = Unit::start("words");
    let first = unit.hear();
    assert!(first.starts_with("STATUS=listening on 127.0.0.1:") && first.ends_with(" (plain)"), "{first}");
    unit.hear_until("READY=1");
    unit.hear_until("WATCHDOG=1");
    unit.signal(Signal::HUP);
    while !unit.hear().starts_with("RELOADING=1\nMONOTONIC_USEC=") {}
    assert_eq!(unit.hear(), "READY=1");
    unit.hear_until("WATCHDOG=1");
    unit.signal(Signal::TERM);
    unit.hear_until("STOPPING=1\nEXTEND_TIMEOUT_USEC=4500000");
    until("the daemon ends", || unit.child.try_wait().expect("a child").is_some());
}

#[test]
fn a_thread_that_hangs_silences_the_daemon() {
    for (thread, named) in [("coordinator", "the coordinator"), ("shard-0", "shard 0")] {
        let unit = Unit::start(thread);
        unit.hear_until("WATCHDOG=1");
        let Some(stopped) = Stopped::new(unit.child.id(), thread) else { return };
        until("the daemon says what hangs", || unit.complaints(named) > 0);
        unit.heard();
        let before = unit.complaints(named);
        until("it says so at each look", || unit.complaints(named) >= before + 4);
        assert_eq!(unit.heard(), [""; 0], "nothing is said for as long as systemd waits");
        drop(stopped);
        unit.hear_until("WATCHDOG=1");
    }
}
