//! The listeners: they are bound before anything starts, and announced when all has started.

use std::{
    fmt::Display,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use super::reload::warn_of_expiry;
use crate::{
    config::{Carries, Config, Listen},
    runtime::{Error, agent_thread, probe, shard::listener},
};

/// How long the daemon tries to get a port that is in use. After the end of a killed gwm, io_uring holds its listeners for
/// some tens of milliseconds.
const BIND_RETRIES: Duration = Duration::from_secs(2);

/// The pause between two tries.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// Binds a listener for each shard. A port in use may belong to a process that has just ended, so the daemon tries again.
pub(super) fn bind(address: SocketAddr, shards: usize, config: &Config) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    retried(address, || listener::bind(address, shards, &config.connections))
}

/// Binds an address, if need be several times.
pub(super) fn retried<T>(address: impl Display, bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    let mut told = false;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < BIND_RETRIES => {
                if !std::mem::replace(&mut told, true) {
                    let retries = humantime::format_duration(BIND_RETRIES);
                    tracing::debug!("{address} is in use, trying again for {retries}");
                }
                thread::sleep(BIND_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Binds the listeners of agent-checks.
pub(super) fn bind_agent(config: &Config) -> Result<(Vec<SocketAddr>, Vec<TcpListener>), Error> {
    let bind = |&address: &SocketAddr| {
        let bound = retried(address, || agent_thread::bind(address));
        bound.map_err(|error| Error::BindAgent { address, error })
    };
    let bound: Result<Vec<_>, Error> = config.agent_listen.iter().map(bind).collect();
    Ok(bound?.into_iter().unzip())
}

/// Says where something is served.
pub(super) fn announce_each(what: &str, addresses: &[impl Display]) {
    let mut out = io::stdout().lock();
    for address in addresses {
        // The lines are news for people, so nobody may read them.
        let _ = writeln!(out, "gwm: {what} on {address}");
    }
    let _ = out.flush();
}

pub(super) fn announce(listeners: &[Listen], config: &Config) {
    let mut out = io::stdout().lock();
    let asks = config.tls.as_ref().is_some_and(|tls| tls.files.client_ca.is_some());
    for Listen { address, carries } in listeners {
        let certificates = if asks && *carries != Carries::Plain { ", client certificates required" } else { "" };
        let _ = writeln!(out, "gwm: listening on {address} ({carries}{certificates})");
    }
    let _ = out.flush();
    config.tls.iter().for_each(warn_of_expiry);
    for Listen { address, .. } in listeners.iter().filter(|listen| listen.is_open()) {
        tracing::warn!(
            "{address} is without TLS and not loopback: whoever reaches it can speak for any load balancer or member \
             that --lb-identity and --member-identity let it; use --tls-listen, or --require-tls to have this refused"
        );
    }
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if config.settings.roster.may_use_icmp()
        && let Err(error) = probe::may_echo()
    {
        tracing::info!("members without a TCP port are not checked by auto: {error}");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        coordinator_core = config.coordinator_cpu,
        shard_cores = ?config.shard_cpus,
        max_connections = config.connections.max,
        listed_members = config.settings.roster.entries(),
        "serving"
    );
}
