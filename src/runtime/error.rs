//! Why the daemon can not start, or ends by itself.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use crate::{
    config::{AdminAddress, Carries},
    journal::StoreError,
};

/// Why the daemon can not start, or ends by itself. The text is one line for the operator, with the remedy if there is
/// one.
#[derive(Debug)]
pub enum Error {
    /// The limit of file descriptors is too low and can not be raised.
    Descriptors {
        /// The number of descriptors that the configuration needs.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The limit of locked memory is too low and can not be raised.
    LockedMemory {
        /// The bytes that io_uring needs.
        needed: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The machine refuses as many threads as the daemon needs.
    Threads {
        /// The number of threads.
        needed: usize,
        /// The machine's answer.
        error: io::Error,
    },
    /// The machine refuses io_uring to this process.
    IoUring(io::Error),
    /// An executor can not be built.
    Executor {
        /// The executor's name.
        name: String,
        /// The text of glommio's error.
        error: String,
    },
    /// The machine refuses ICMP echoes to this process.
    Echoes(io::Error),
    /// A listener can not be bound.
    Bind {
        /// The listener's address.
        address: SocketAddr,
        /// What the listener carries, which names its flag.
        carries: Carries,
        /// The machine's answer.
        error: io::Error,
    },
    /// A listener of the admin side can not be bound.
    BindAdmin {
        /// The listener's address.
        address: AdminAddress,
        /// The machine's answer.
        error: io::Error,
    },
    /// A listener of agent-checks can not be bound.
    BindAgent {
        /// The listener's address.
        address: SocketAddr,
        /// The machine's answer.
        error: io::Error,
    },
    /// The machine refuses something else at the start.
    Start {
        /// The thing, as in "can not …".
        what: &'static str,
        /// The machine's answer.
        error: io::Error,
    },
    /// The state on disk can not be used.
    State {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: StoreError,
    },
    /// Another GWM of the fleet has the name of this node.
    FleetName {
        /// The name.
        node: String,
    },
    /// This process does not take over from the running one.
    Takeover {
        /// The reason.
        why: String,
    },
    /// The disk did not take the last changes before the stop.
    StateBehind {
        /// The file.
        name: String,
        /// How many changes.
        changes: usize,
    },
    /// A thread has panicked.
    Panicked {
        /// The thread's name.
        thread: String,
        /// The text of the panic.
        text: String,
    },
    /// A thread has ended before the stop.
    Ended {
        /// The thread's name.
        thread: String,
    },
    /// Threads have not ended within the time of a stop.
    StopTimeout {
        /// The number of threads that still run.
        running: usize,
    },
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Threads { error, .. }
            | Error::IoUring(error)
            | Error::Echoes(error)
            | Error::Bind { error, .. }
            | Error::BindAdmin { error, .. }
            | Error::BindAgent { error, .. }
            | Error::Start { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Descriptors { needed, limit } => write!(
                f,
                "{needed} file descriptors are needed and the limit stays at {limit}: raise it (ulimit -n, or \
                 LimitNOFILE= in a systemd unit), or lower --max-connections or --max-probes"
            ),
            Error::LockedMemory { needed, limit } => write!(
                f,
                "io_uring needs {} KiB of locked memory and the limit is {} KiB: raise it (ulimit -l, LimitMEMLOCK= in a \
                 systemd unit, --ulimit memlock=-1 in a container)",
                needed >> 10,
                limit >> 10
            ),
            Error::Threads { needed, error } => write!(
                f,
                "{needed} threads are needed, and not all of them can be started ({error}): raise the limit (ulimit -u, \
                 TasksMax= in a systemd unit, --pids-limit for a container), or give fewer --shards"
            ),
            Error::IoUring(error) => write!(
                f,
                "this process may not use io_uring ({error}): it takes Linux 5.8 or later, kernel.io_uring_disabled = 0 \
                 (sysctl), and a container whose seccomp profile allows io_uring_setup"
            ),
            Error::Executor { name, error } => write!(
                f,
                "can not set up io_uring for {name}: {error}; if it is about memory, raise the limit of locked memory \
                 (ulimit -l, LimitMEMLOCK= in a systemd unit, --ulimit memlock=-1 in a container)"
            ),
            Error::Echoes(error) => write!(
                f,
                "this process may not send ICMP echoes ({error}): put its group into the range of \
                 net.ipv4.ping_group_range (sysctl), or give it CAP_NET_RAW (AmbientCapabilities= in a systemd unit)"
            ),
            Error::Bind { address, carries, error } => {
                write!(f, "can not listen on {address} ({error}): ")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        let port = address.port();
                        write!(
                            f,
                            "another process has the port: stop it (`ss -ltnp sport = {port}` shows it; if it shows none, \
                             a process that was killed holds the port a little longer: try again), or choose another"
                        )
                    }
                    io::ErrorKind::PermissionDenied => f.write_str(
                        "a port under 1024 takes the capability CAP_NET_BIND_SERVICE: give it, or choose another",
                    ),
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("this machine does not have the address: choose one that it has")
                    }
                    _ => f.write_str("choose another"),
                }?;
                write!(f, " with {}", if *carries == Carries::Tls { "--tls-listen" } else { "--listen" })
            }
            Error::BindAdmin { address, error } if error.kind() == io::ErrorKind::NotFound => write!(
                f,
                "--admin-listen: can not listen on {address} ({error}): make its directory, or choose another address"
            ),
            Error::BindAdmin { address, error } => {
                write!(f, "--admin-listen: can not listen on {address} ({error}): choose another address")
            }
            Error::BindAgent { address, error } if error.kind() == io::ErrorKind::PermissionDenied => write!(
                f,
                "--agent-listen: can not listen on {address} ({error}): a port under 1024 takes the capability \
                 CAP_NET_BIND_SERVICE: give it, or choose another"
            ),
            Error::BindAgent { address, error } => {
                write!(f, "--agent-listen: can not listen on {address} ({error}): choose another address")
            }
            Error::State { path, error } => {
                write!(f, "the state on disk, {}: {error}: ", path.display())?;
                f.write_str(match error {
                    StoreError::Busy => "stop the other gwm, or give each its own directory with --state",
                    StoreError::Version(_) => {
                        "run the gwm that wrote it, or move it aside with --state-reset, and load balancers register again"
                    }
                    StoreError::Damaged(_) => {
                        "put a backup in its place, or move it aside with --state-reset, and load balancers register again"
                    }
                    StoreError::Disk(_) => "let gwm read and write the directory, or give another one with --state",
                })
            }
            Error::FleetName { node } => write!(
                f,
                "another GWM of the fleet has the name {node}: give each its own with --node, or each fleet its own with \
                 --fleet-name"
            ),
            Error::Start { what, error } => write!(f, "can not {what}: {error}"),
            Error::Takeover { why } => write!(f, "--takeover: the running gwm serves on: {why}"),
            Error::StateBehind { name, changes } => write!(
                f,
                "the state on disk, {name}, is behind: the disk did not take the last changes, {changes} of them, before the \
                 stop"
            ),
            Error::Panicked { thread, text } => {
                write!(f, "{thread} failed, which is a fault of gwm itself (please report it): {text}")
            }
            Error::Ended { thread } => write!(f, "{thread} ended"),
            Error::StopTimeout { running } => write!(f, "{running} threads did not stop in time"),
        }
    }
}
