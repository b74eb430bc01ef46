//! Tells whoever asks how a service is. Each form says the same:
//!
//! | condition | agent-check | Kemp, `/load` | ORCA, `/orca` |
//! | --- | --- | --- | --- |
//! | starting, down | `down #REASON` | 101 | status 503 |
//! | up | `ready up` and the weight | 100 × CPU utilisation, 99 at most | status 200, the load report |
//! | maint | `maint #REASON` | 102 | status 200, the load report |
//! | drain, gone | `drain` | 102 | status 200, the load report |
//!
//! The weight of an agent-check ([`Weight`]) is of the figures of [`load`](super::load):
//!
//! | `--agent-weight` | says | formula |
//! | --- | --- | --- |
//! | `capacity` | `N%` | 100 × available cores / nominal cores (`--nominal-cores`, default: the machine's CPUs) |
//! | `absolute` | `weight:N` | 10 × available cores × GHz: for GWMs whose members are on different machines; HAProxy does not know this form |
//! | `idle` | `N%` | 100 × idle share |
//! | `none` | nothing | |
//!
//! A member that is up says at least 1: 0 would mean that it wants no new work. The capacity does not depend on how much
//! work the member has, so weights by it are steady. The idle share falls as the weight rises, and is nothing in an
//! overload; it is there for load balancers that expect it.
//!
//! A load report has `cpu_utilization`, `mem_utilization`, `rps_fractional` and `eps` (if requests are counted), and among
//! `named_metrics` the pressures, latencies, `available_cores` and `capacity`. From a rate of requests the GWM learns the
//! member's capacity; without one, its members file must say the capacity (`weight`).
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`given`] | flags and the TOML file → what is told |
//! | [`words`] | how a service is → the words of each form |
//! | [`request`] | what is asked by HTTP |
//! | [`server`] | listeners, connections, the thread |
//! | `metrics` | the agent's metrics |

pub mod given;
#[cfg(feature = "admin")]
mod metrics;
pub mod request;
pub mod server;
pub mod words;

pub use words::Weight;

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use self::server::{Listener, Role, Server, Site, Told};
use super::{
    load::sampler::{self, Board, Watched},
    pulse::Pulses,
    service::Service,
};

/// What is told to those who ask, and where.
pub struct Answers {
    http: Vec<SocketAddr>,
    /// From one reading to the next.
    interval: Duration,
    pulses: Arc<Pulses>,
    /// `None` if nobody can ask.
    running: Option<Running>,
}

/// The threads that take readings and answer.
struct Running {
    sockets: Sockets,
    site: Arc<Site>,
    load: JoinHandle<()>,
    server: Server,
}

/// A socket as the user names it: for HTTP or not, the address, and whose it is if the system chooses the port.
type Key = (bool, SocketAddr, Option<String>);

type Sockets = Vec<(Key, Listener)>;

impl Answers {
    /// Starts the threads, if anyone can ask. Readings are taken so far apart.
    pub fn start(
        services: &[Arc<Service>],
        http: &[SocketAddr],
        interval: Duration,
        pulses: &Arc<Pulses>,
    ) -> io::Result<Answers> {
        let mut answers = Answers { http: http.to_vec(), interval, pulses: Arc::clone(pulses), running: None };
        answers.change(services)?;
        Ok(answers)
    }

    /// Tells of these services from now on, and asks nobody who waits to come again: sockets of the same address stay. After
    /// an error all is as before.
    pub fn change(&mut self, services: &[Arc<Service>]) -> io::Result<()> {
        let (sockets, listeners) = self.sockets(services)?;
        if sockets.is_empty() {
            self.end();
            return Ok(());
        }
        let board = Arc::new(Board::new(services.len(), self.interval));
        let told =
            |service: &Arc<Service>| Told { weight: service.settings.telling.weight, service: Arc::clone(service) };
        let mut site = Site::new(services.iter().map(told).collect(), Arc::clone(&board));
        if let Some(before) = self.running.as_ref().map(|running| &running.site) {
            site.go_on(before);
        }
        let watched = |service: &Arc<Service>| {
            let of = Arc::clone(service);
            Watched {
                name: service.settings.name.clone(),
                settings: service.settings.telling.load.clone(),
                process: Box::new(move || of.process()),
            }
        };
        let site = Arc::new(site);
        let load = sampler::start(services.iter().map(watched).collect(), &board, self.pulses.add("load"))?;
        self.running = Some(match self.running.take() {
            Some(before) => {
                // Its thread ends by itself; a page that it reads may take a second.
                before.site.board.stop();
                before.server.change(listeners, Arc::clone(&site));
                Running { sockets, site, load, server: before.server }
            }
            None => {
                let server = Server::start(listeners, Arc::clone(&site), self.pulses.add("answers"))?;
                Running { sockets, site, load, server }
            }
        });
        Ok(())
    }

    /// The sockets for these services, and what listens there.
    fn sockets(&self, services: &[Arc<Service>]) -> io::Result<(Sockets, Vec<Listener>)> {
        let mut sockets = Sockets::new();
        let mut listeners = Vec::new();
        let wanted = services.iter().enumerate().flat_map(|(at, service)| {
            let addresses = service.settings.telling.agent_listen.iter();
            addresses.map(move |address| (Role::Agent(at), *address, Some(&service.settings.name)))
        });
        for (role, address, name) in wanted.chain(self.http.iter().map(|address| (Role::Http, *address, None))) {
            let key = (role == Role::Http, address, name.filter(|_| address.port() == 0).cloned());
            let known = self.running.iter().flat_map(|running| &running.sockets).find(|(known, _)| *known == key);
            let flag = if role == Role::Http { "--http-listen" } else { "--agent-listen" };
            let failed = |error: io::Error| {
                // Only ports take a right.
                let right = "a port under 1024 takes the capability CAP_NET_BIND_SERVICE";
                let hint =
                    if error.kind() == io::ErrorKind::PermissionDenied { format!(": {right}") } else { String::new() };
                io::Error::new(error.kind(), format!("{flag} {address}: {error}{hint}"))
            };
            let socket = match known {
                Some((_, socket)) => socket.again(role).map_err(failed)?,
                None => {
                    let (bound, socket) = Listener::bind(address, role).map_err(failed)?;
                    match name {
                        Some(name) => tracing::info!("{name}: agent-checks are answered at {bound}"),
                        None => tracing::info!("HTTP is answered at {bound}"),
                    }
                    socket
                }
            };
            listeners.push(socket.again(role).map_err(failed)?);
            sockets.push((key, socket));
        }
        Ok((sockets, listeners))
    }

    fn end(&mut self) {
        if let Some(Running { site, load, server, .. }) = self.running.take() {
            site.board.stop();
            server.stop();
            let _ = load.join();
        }
    }

    /// Ends the threads.
    pub fn stop(mut self) {
        self.end();
    }
}
