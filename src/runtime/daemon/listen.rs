//! The listeners: they are bound before anything starts, and announced when all has started.

use std::{
    fmt::Display,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

#[cfg(feature = "admin")]
use super::admin;
use super::reload::warn_of_expiry;
use crate::{
    config::{Carries, Config, Listen},
    runtime::{
        Error, agent_thread, probe,
        shard::listener::{self, Listener},
        takeover::{Offered, Taking},
    },
    takeover,
};

/// How long the daemon tries to get a port that is in use. After the end of a killed gwm, io_uring holds its listeners for
/// some tens of milliseconds.
const BIND_RETRIES: Duration = Duration::from_secs(2);

/// The pause between two tries.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// All listeners.
pub(super) struct Listeners {
    /// The addresses of SASP.
    pub(super) listening: Vec<Listen>,
    /// Each shard's listeners.
    pub(super) shards: Vec<Vec<Listener>>,
    #[cfg(feature = "admin")]
    pub(super) admin: admin::Admin,
    pub(super) agent: (Vec<SocketAddr>, Vec<TcpListener>),
    /// Further descriptors of all of them, for a process that takes over.
    pub(super) offered: Offered,
}

/// What a process that takes over may get.
pub(super) struct Offer {
    /// Some process may take over.
    on: bool,
    offered: Offered,
}

impl Offer {
    pub(super) fn add(&mut self, listener: &takeover::Listener, socket: impl AsFd) -> io::Result<()> {
        if self.on {
            self.offered.push((listener.clone(), socket.as_fd().try_clone_to_owned()?));
        }
        Ok(())
    }
}

/// Takes listeners over, and binds those that are not there.
pub(super) fn bind(config: &Config, mut taking: Option<&mut Taking>) -> Result<Listeners, Error> {
    let shards = config.shard_cpus.len();
    let mut offer = Offer { on: config.state.is_some(), offered: Offered::new() };
    let mut by_shard: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
    let mut listening = Vec::new();
    for &Listen { address, carries } in &config.listen {
        let taken = taken(&mut taking, takeover::Listener::Sasp(address));
        let bound = bind_sasp(address, taken, shards, config);
        let (bound, sockets) = bound.map_err(|error| Error::Bind { address, carries, error })?;
        listening.push(Listen { address: bound, carries });
        let name = takeover::Listener::Sasp(bound);
        // A process with more shards may have left more sockets than there are shards.
        for (at, socket) in sockets.into_iter().enumerate() {
            offer.add(&name, &socket).map_err(|error| Error::Bind { address, carries, error })?;
            let shard = by_shard.get_mut(at % shards).expect("there is a shard");
            shard.push(Listener::new(socket, carries));
        }
    }
    Ok(Listeners {
        listening,
        shards: by_shard,
        #[cfg(feature = "admin")]
        admin: admin::bind(config, &mut taking, &mut offer)?,
        agent: bind_agent(config, &mut taking, &mut offer)?,
        offered: offer.offered,
    })
}

/// The sockets of a listener that the running daemon has.
pub(super) fn taken(taking: &mut Option<&mut Taking>, wanted: takeover::Listener) -> Vec<OwnedFd> {
    taking.as_mut().map(|taking| taking.take(&wanted)).unwrap_or_default()
}

/// Binds a listener for each shard. A port in use may belong to a process that has just ended, so the daemon tries again.
fn bind_sasp(
    address: SocketAddr,
    taken: Vec<OwnedFd>,
    shards: usize,
    config: &Config,
) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    match taken.is_empty() {
        true => retried(address, || listener::bind(address, shards, &config.connections)),
        false => listener::complete(taken, shards, &config.connections),
    }
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
fn bind_agent(
    config: &Config,
    taking: &mut Option<&mut Taking>,
    offer: &mut Offer,
) -> Result<(Vec<SocketAddr>, Vec<TcpListener>), Error> {
    let mut bind_one = |address: SocketAddr| {
        let taken = taken(taking, takeover::Listener::AgentChecks(address)).pop().map(TcpListener::from);
        let (bound, listener) = match taken {
            Some(listener) => (listener.local_addr()?, listener),
            None => retried(address, || agent_thread::bind(address))?,
        };
        offer.add(&takeover::Listener::AgentChecks(bound), &listener)?;
        Ok::<_, io::Error>((bound, listener))
    };
    let bind = |&address: &SocketAddr| bind_one(address).map_err(|error| Error::BindAgent { address, error });
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
