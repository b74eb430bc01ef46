//! Real load balancers as child processes.

use std::{
    env,
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::until;

/// Whether the program is there. In CI (the variable `CI`) it must be; elsewhere its tests are left out, with a word.
pub(crate) fn installed(program: &str, package: &str) -> bool {
    let found = env::var_os("PATH").is_some_and(|path| {
        env::split_paths(&path).chain(["/usr/sbin".into()]).any(|directory| directory.join(program).is_file())
    });
    assert!(found || env::var_os("CI").is_none(), "{program} is missing: install the Debian package {package}");
    if !found {
        eprintln!("left out: {program} is missing (Debian package {package})");
    }
    found
}

/// An address that was free a moment ago, for a program that can not choose a free port. The system gives this port to no
/// client (it has 32768 and more for these), so a program that ends and starts again finds it free.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = (0..20_000).map(|_| std::process::id().wrapping_mul(97) + NEXT.fetch_add(1, Ordering::Relaxed));
    let mut addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], 10_000 + (port % 20_000) as u16)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

/// What `gwm` with these arguments prints as root without this capability (`net_bind_service`), in an empty network, and
/// its status. `None`: the test can not be made here.
pub(crate) fn without_right(capability: &str, arguments: &[&str]) -> Option<(Option<i32>, String)> {
    let root = rustix::process::geteuid().is_root();
    assert!(root || env::var_os("CI").is_none(), "network namespaces need root");
    if !root || !installed("setpriv", "util-linux") {
        eprintln!("left out: this test needs root");
        return None;
    }
    let mut command = Command::new("unshare");
    let alone = format!("ip link set lo up; exec setpriv --bounding-set=-{capability} \"$@\"");
    command.args(["--net", "sh", "-c", &alone, "sh", env!("CARGO_BIN_EXE_gwm")]).args(arguments);
    let output = command.stdin(Stdio::null()).output().expect("unshare runs");
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

/// A child that is killed when this value is dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Running(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace of its own, until it is dropped; it needs root.
pub(crate) struct Namespace(Running);

impl Namespace {
    /// An empty one, with a running `lo`.
    pub(crate) fn new() -> Namespace {
        let holder = Running::start(Command::new("unshare").args(["--net", "sleep", "infinity"]));
        let namespace = Namespace(holder);
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let id = namespace.id().to_string();
        until("the namespace exists", || of(&id).is_some_and(|new| Some(new) != of("thread-self")));
        namespace.ip("link set lo up");
        namespace
    }

    /// The process that holds it.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &str) {
        let id = self.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &id, "ip"]).args(arguments.split(' '));
        let output = command.output().expect("nsenter is there");
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A way into it that outlives this value.
    pub(crate) fn entrance(&self) -> Entrance {
        Entrance(File::open(format!("/proc/{}/ns/net", self.id())).expect("the namespace exists"))
    }

    /// As [`Entrance::run`].
    pub(crate) fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        self.entrance().run(function)
    }
}

/// A network namespace, as a file.
pub(crate) struct Entrance(File);

impl Entrance {
    /// Calls a function in it, on a thread of its own; children and threads that this one starts are in it, too.
    pub(crate) fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("this needs root");
                function()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
