//! The daemon as a child process, and peers that talk to the daemon.

use std::{
    collections::{HashSet, VecDeque},
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use gwm::sasp::{LbFlags, Message, ReturnCode, SenderFlags, frame::message_length};
use rustix::process::Signal;
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use crate::wire;

/// A test waits this long for an event that must happen; then the test calls it a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How many daemons may run at a time: each pins memory, and the kernel limits pinned memory per user.
pub(crate) const DAEMONS: u32 = 3;

/// The program.
pub(crate) const GWM: &str = env!("CARGO_BIN_EXE_gwm");

/// The sender is a load balancer.
pub(crate) const LB: SenderFlags = SenderFlags::LOAD_BALANCER;

/// The sender is a member.
pub(crate) const MEMBER: SenderFlags = SenderFlags::NONE;

static FREE: (Mutex<u32>, Condvar) = (Mutex::new(DAEMONS), Condvar::new());

/// The right to run this many daemons at a time. A test that takes it piece by piece may wait for ever for another one
/// that does the same.
pub(crate) struct Permit(u32);

impl Permit {
    pub(crate) fn take(count: u32) -> Permit {
        let free = FREE.0.lock().unwrap_or_else(|error| error.into_inner());
        let mut free = FREE.1.wait_while(free, |free| *free < count).unwrap_or_else(|error| error.into_inner());
        *free -= count;
        Permit(count)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *FREE.0.lock().unwrap_or_else(|error| error.into_inner()) += self.0;
        FREE.1.notify_all();
    }
}

/// Calls `condition` until it is true. If it never is, the test fails with `what`.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        thread::sleep(Duration::from_millis(1)); // between two calls; the condition decides, not the time
    }
}

/// `gwm` with these arguments, without `GWM_…` variables of the environment.
pub(crate) fn command(arguments: &[&str]) -> Command {
    command_of(Path::new(GWM), arguments)
}

/// As [`command`], of another file of the program.
fn command_of(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GWM_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `gwm` to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    finish(command(arguments).spawn().expect("the binary starts"))
}

/// Waits for a child that ends on its own.
pub(crate) fn finish(mut child: Child) -> Output {
    let pipe = |pipe: Option<Box<dyn Read + Send>>| {
        let mut pipe = pipe.expect("the child's output is piped");
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).expect("a pipe can be read");
            bytes
        })
    };
    let stdout = pipe(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = pipe(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let status = wait(&mut child, "gwm ends on its own");
    Output { status, stdout: stdout.join().expect("no panic"), stderr: stderr.join().expect("no panic") }
}

pub(crate) fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("never came true: {what}");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A file that exists as long as this value.
pub(crate) struct TempFile(PathBuf);

impl TempFile {
    pub(crate) fn new(name: &str, content: impl AsRef<[u8]>) -> TempFile {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file =
            TempFile(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{count}-{name}", std::process::id())));
        file.write(content);
        file
    }

    /// Replaces the whole content at once.
    pub(crate) fn write(&self, content: impl AsRef<[u8]>) {
        let new = self.0.with_extension("new");
        fs::write(&new, content).expect("the target directory can be written to");
        fs::rename(&new, &self.0).expect("the target directory can be written to");
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("the target directory's name is UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `gwm serve`, killed when this value is dropped. The daemon must run until then, unless the test waits for its end.
pub(crate) struct Daemon {
    child: Child,
    ended: bool,
    addresses: Vec<SocketAddr>,
    carries: Vec<String>,
    admin: Vec<String>,
    agent: Vec<SocketAddr>,
    log: Arc<Mutex<Vec<u8>>>,
    /// While this sender exists, nobody reads the daemon's stderr.
    unread: Option<mpsc::Sender<()>>,
    _permit: Permit,
}

impl Daemon {
    /// Starts a daemon on one shard, unless `flags` say otherwise, and waits until it listens.
    pub(crate) fn start(flags: &[&str]) -> Daemon {
        Daemon::spawn(flags, 1)
    }

    /// As [`Daemon::start`], for a test that keeps the machine busy: no other daemon runs at the same time.
    pub(crate) fn start_alone(flags: &[&str]) -> Daemon {
        Daemon::spawn(flags, DAEMONS)
    }

    /// As [`Daemon::start`], for a test that runs several daemons and has the permit for all of them.
    pub(crate) fn start_permitted(flags: &[&str], permit: &Permit) -> Daemon {
        Daemon::start_permitted_with(flags, permit, &[])
    }

    /// As [`Daemon::start_permitted`], with further variables in its environment.
    pub(crate) fn start_permitted_with(flags: &[&str], _permit: &Permit, environment: &[(&str, &Path)]) -> Daemon {
        let mut program = |arguments: &[&str]| {
            let mut command = command(arguments);
            command.envs(environment.iter().copied());
            command
        };
        Daemon::spawn_gated(&mut program, flags, 0, mpsc::channel().1)
    }

    /// As [`Daemon::start`]; nobody reads the daemon's stderr before [`Daemon::read_log`].
    pub(crate) fn start_unread(flags: &[&str]) -> Daemon {
        let (gate, opened) = mpsc::channel();
        let mut daemon = Daemon::spawn_gated(&mut |arguments| command(arguments), flags, 1, opened);
        daemon.unread = Some(gate);
        daemon
    }

    /// As [`Daemon::start`], with further variables in its environment.
    pub(crate) fn start_with(flags: &[&str], environment: &[(&str, &OsStr)]) -> Daemon {
        let mut program = |arguments: &[&str]| {
            let mut command = command(arguments);
            command.envs(environment.iter().copied());
            command
        };
        Daemon::spawn_gated(&mut program, flags, 1, mpsc::channel().1)
    }

    /// As [`Daemon::start`], from another file of the program.
    pub(crate) fn start_from(program: &Path, flags: &[&str]) -> Daemon {
        Daemon::spawn_gated(&mut |arguments| command_of(program, arguments), flags, 1, mpsc::channel().1)
    }

    fn spawn(flags: &[&str], permits: u32) -> Daemon {
        Daemon::spawn_gated(&mut |arguments| command(arguments), flags, permits, mpsc::channel().1)
    }

    fn spawn_gated(
        program: &mut dyn FnMut(&[&str]) -> Command,
        flags: &[&str],
        permits: u32,
        opened: mpsc::Receiver<()>,
    ) -> Daemon {
        let permit = Permit::take(permits);
        let mut arguments = vec!["serve"];
        if !flags.contains(&"--log-level") {
            arguments.extend(["--log-level", "debug"]);
        }
        if !flags.contains(&"--listen") && !flags.contains(&"--tls-listen") {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        if !flags.contains(&"--shards") && !flags.contains(&"--cpus") {
            arguments.extend(["--shards", "1"]);
        }
        if !flags.contains(&"--push-refresh") {
            // Only changes cause pushes.
            arguments.extend(["--push-refresh", "365d"]);
        }
        if !flags.contains(&"--probe") {
            // In most tests members are only names.
            arguments.extend(["--probe", "off"]);
        }
        arguments.extend(flags);
        // An address that both flags name has one listener.
        let named = arguments.windows(2).filter(|pair| matches!(pair[0], "--listen" | "--tls-listen"));
        let mut names: Vec<&str> = named.map(|pair| pair[1]).filter(|name| !name.ends_with(":0")).collect();
        let others = ["--admin-listen", "--agent-listen"];
        let of_others =
            arguments.windows(2).filter(|pair| others.contains(&pair[0]) && pair[1].ends_with(":0")).count();
        let free = arguments.iter().filter(|argument| argument.ends_with(":0")).count() - of_others;
        let [admin, agent] = others.map(|flag| arguments.iter().filter(|argument| **argument == flag).count());
        names.sort_unstable();
        names.dedup();
        let listeners = free + names.len();
        let mut child = program(&arguments).spawn().expect("the binary starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&log);
        thread::spawn(move || {
            let _ = opened.recv(); // no value is ever sent: `recv` returns when the gate is dropped
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut chunk) {
                shared.lock().expect("no panic under the lock").extend_from_slice(&chunk[..count]);
            }
        });
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let mut daemon = Daemon {
            child,
            ended: false,
            addresses: Vec::new(),
            carries: Vec::new(),
            admin: Vec::new(),
            agent: Vec::new(),
            log,
            unread: None,
            _permit: permit,
        };
        for _ in 0..listeners {
            let line = lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("gwm serve {flags:?} does not listen:\n{}", daemon.log()));
            let (address, carries) = line
                .strip_prefix("gwm: listening on ")
                .and_then(|rest| rest.strip_suffix(')')?.split_once(" ("))
                .and_then(|(address, carries)| Some((address.parse().ok()?, carries.to_owned())))
                .unwrap_or_else(|| panic!("an unexpected line on stdout: {line}"));
            daemon.addresses.push(address);
            daemon.carries.push(carries);
        }
        for _ in 0..admin {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("gwm serve {flags:?} has no admin side"));
            let address = line.strip_prefix("gwm: admin on ").unwrap_or_else(|| panic!("an unexpected line: {line}"));
            daemon.admin.push(address.to_owned());
        }
        for _ in 0..agent {
            let line =
                lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("gwm serve {flags:?} has no agent-checks"));
            let address = line.strip_prefix("gwm: agent-checks on ").and_then(|address| address.parse().ok());
            daemon.agent.push(address.unwrap_or_else(|| panic!("an unexpected line: {line}")));
        }
        daemon
    }

    /// The first listener's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The listeners' addresses, in the order of the flags, those with TLS last.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What each listener carries, as printed, in the same order.
    pub(crate) fn carries(&self) -> &[String] {
        &self.carries
    }

    /// The addresses of the admin side, as printed, in the order of the flags.
    pub(crate) fn admin(&self) -> &[String] {
        &self.admin
    }

    /// The addresses of agent-checks, in the order of the flags.
    pub(crate) fn agent(&self) -> &[SocketAddr] {
        &self.agent
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(self.address())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).expect("the daemon takes signals");
    }

    /// Waits until the daemon has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = wait(&mut self.child, "the daemon ends");
        self.ended = true;
        status
    }

    /// Begins to read the daemon's stderr.
    pub(crate) fn read_log(&mut self) {
        self.unread = None;
    }

    /// The daemon's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The daemon's log so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().expect("no panic under the lock")).into_owned()
    }

    /// Waits until one line of the log has all `parts`.
    pub(crate) fn wait_for_log(&self, parts: &[&str]) {
        until(&format!("a log line with {parts:?}"), || {
            self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
        });
    }

    /// The daemon's resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the daemon lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
        line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a figure in KiB")
    }

    /// How many sockets the daemon has open, listeners included. A socket with several descriptors counts once.
    pub(crate) fn sockets(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the daemon lives");
        let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let sockets = targets.filter(|target| target.to_string_lossy().starts_with("socket:"));
        sockets.collect::<HashSet<_>>().len()
    }

    /// Sends SIGTERM; the exit status must be 0.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "after SIGTERM: {status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let died = !self.ended && !matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        let panicked = log.contains("panicked");
        if thread::panicking() {
            let tail = log.len().saturating_sub(8192);
            eprintln!("--- the daemon's stderr ---\n{}---", String::from_utf8_lossy(&log.as_bytes()[tail..]));
        } else {
            assert!(!died && !panicked, "the daemon died or panicked:\n{log}");
        }
    }
}

/// A connection to the daemon, plain or with TLS. Reads fail after [`PATIENCE`].
pub(crate) struct Peer {
    stream: TcpStream,
    tls: Option<ClientConnection>,
    received: Vec<u8>,
    pushes: VecDeque<Vec<u8>>,
    id: u32,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Peer {
        Peer::from(TcpStream::connect(address).expect("the daemon accepts"))
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let sent = match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(tls) => rustls::Stream::new(tls, &mut self.stream).write_all(bytes),
        };
        sent.expect("the daemon takes bytes");
    }

    /// Makes a handshake as a client of "localhost". The error is the server's alert or the end of the connection.
    pub(crate) fn secure(mut stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Peer> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        Ok(Peer { tls: Some(tls), ..Peer::from(stream) })
    }

    /// The TLS session of the connection.
    pub(crate) fn session(&self) -> &ClientConnection {
        self.tls.as_ref().expect("a connection with TLS")
    }

    /// Closes this side's direction of the connection.
    pub(crate) fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// The next message; `None` at the end of the stream; an error if the stream ends inside a message.
    pub(crate) fn try_receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let length = message_length(&self.received, u32::MAX).expect("the daemon keeps the framing");
            if let Some(length) = length.filter(|&length| length <= self.received.len()) {
                return Ok(Some(self.received.drain(..length).collect()));
            }
            let mut chunk = [0; 65536];
            let read = match &mut self.tls {
                None => self.stream.read(&mut chunk),
                // A stream that ends without close_notify is an error here.
                Some(tls) => rustls::Stream::new(tls, &mut self.stream).read(&mut chunk),
            };
            match read {
                Ok(0) if self.received.is_empty() => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message, which must come.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        match self.try_receive() {
            Ok(Some(message)) => message,
            Ok(None) => panic!("the daemon closed the connection instead of sending a message"),
            Err(error) => panic!("no message: {error}"),
        }
    }

    /// Waits for the end of the stream, which must be graceful. Only pushes may come before the end.
    pub(crate) fn expect_end(&mut self) {
        loop {
            match self.try_receive() {
                Ok(None) => return,
                Ok(Some(message)) if wire::is_push(&message) => self.pushes.push_back(message),
                Ok(Some(message)) => panic!("a message instead of the end: {}", wire::show(&message)),
                Err(error) => panic!("not a graceful end: {error}"),
            }
        }
    }

    /// The next reply; pushes that come before are kept for [`Peer::push`].
    pub(crate) fn reply(&mut self) -> Vec<u8> {
        loop {
            let message = self.receive();
            if !wire::is_push(&message) {
                return message;
            }
            self.pushes.push_back(message);
        }
    }

    /// The next push, in the notation of [`wire::show`].
    pub(crate) fn push(&mut self) -> String {
        let push = self.pushes.pop_front().unwrap_or_else(|| self.receive());
        assert!(wire::is_push(&push), "a message that is not a push: {}", wire::show(&push));
        wire::show(&push)
    }

    /// Takes pushes until one has this content.
    pub(crate) fn push_until(&mut self, expected: &str) {
        let start = Instant::now();
        let mut last = String::from("no push");
        while last != expected {
            assert!(start.elapsed() < PATIENCE, "no push is {expected}\nthe last one: {last}");
            last = self.push();
        }
    }

    /// A message id that this connection has not used.
    pub(crate) fn next_id(&mut self) -> u32 {
        self.id += 1;
        self.id
    }

    /// Sends a request and returns its reply, which must have the request's id.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.send(request);
        let reply = self.reply();
        assert_eq!(reply[9..13], request[9..13], "the reply to another request: {}", wire::show(&reply));
        reply
    }

    fn ask_code(&mut self, request: &[u8]) -> ReturnCode {
        wire::code(&self.ask(request))
    }

    /// Registers members in one group.
    pub(crate) fn register(&mut self, from: SenderFlags, lb: &str, group: &str, members: &[&str]) -> ReturnCode {
        let id = self.next_id();
        self.ask_code(&wire::registration(id, from, &[(lb, group, members)]))
    }

    /// Deregisters members of one group, or the whole group.
    pub(crate) fn deregister(&mut self, from: SenderFlags, lb: &str, group: &str, members: &[&str]) -> ReturnCode {
        let id = self.next_id();
        self.ask_code(&wire::deregistration(id, from, &[(lb, group, members)]))
    }

    /// Sets the LB's flags, with the best health.
    pub(crate) fn set_lb(&mut self, lb: &str, flags: LbFlags) -> ReturnCode {
        let id = self.next_id();
        self.ask_code(&wire::lb_state(id, lb, 0x7F, flags))
    }

    /// Sets the state of one member.
    pub(crate) fn set_member(
        &mut self,
        from: SenderFlags,
        (lb, group, member): (&str, &str, &str),
        state: u8,
        quiesce: bool,
    ) -> ReturnCode {
        let id = self.next_id();
        self.ask_code(&wire::member_state(id, from, &[(lb, group, &[(member, state, quiesce)])]))
    }

    /// Sends Get Weights for these groups (`""` for all), and returns the reply in the notation of [`wire::show`].
    pub(crate) fn get_weights(&mut self, lb: &str, groups: &[&str]) -> String {
        let id = self.next_id();
        let names: Vec<(&str, &str)> = groups.iter().map(|group| (lb, *group)).collect();
        let reply = self.ask(&wire::get_weights(id, &names));
        assert!(matches!(Message::decode(&reply), Ok((_, Message::GetWeightsReply(_)))), "{}", wire::show(&reply));
        wire::show(&reply)
    }
}

impl From<TcpStream> for Peer {
    fn from(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Peer { stream, tls: None, received: Vec::new(), pushes: VecDeque::new(), id: 0 }
    }
}

/// A program of the Python environment that tests/run makes.
pub(crate) fn python(program: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../python/bin").join(program)
}
