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
    service::Service,
};

/// The threads that take readings and answer.
pub struct Answers {
    board: Arc<Board>,
    load: JoinHandle<()>,
    server: Server,
}

impl Answers {
    /// Starts the threads; `None` if nobody can ask. Readings are taken so far apart.
    pub fn start(services: &[Arc<Service>], http: &[SocketAddr], interval: Duration) -> io::Result<Option<Answers>> {
        let mut listeners = Vec::new();
        let mut bind = |address: SocketAddr, role: Role, flag: &str| {
            let failed = |error: io::Error| io::Error::new(error.kind(), format!("{flag} {address}: {error}"));
            let (bound, listener) = Listener::bind(address, role).map_err(failed)?;
            listeners.push(listener);
            Ok::<_, io::Error>(bound)
        };
        for (at, service) in services.iter().enumerate() {
            for address in &service.settings.telling.agent_listen {
                let bound = bind(*address, Role::Agent(at), "--agent-listen")?;
                tracing::info!("{}: agent-checks are answered at {bound}", service.settings.name);
            }
        }
        for address in http {
            let bound = bind(*address, Role::Http, "--http-listen")?;
            tracing::info!("HTTP is answered at {bound}");
        }
        if listeners.is_empty() {
            return Ok(None);
        }
        let board = Arc::new(Board::new(services.len(), interval));
        let watched = |service: &Arc<Service>| {
            let of = Arc::clone(service);
            Watched {
                name: service.settings.name.clone(),
                settings: service.settings.telling.load.clone(),
                process: Box::new(move || of.process()),
            }
        };
        let told =
            |service: &Arc<Service>| Told { weight: service.settings.telling.weight, service: Arc::clone(service) };
        let site = Arc::new(Site::new(services.iter().map(told).collect(), Arc::clone(&board)));
        let load = sampler::start(services.iter().map(watched).collect(), &board)?;
        let server = Server::start(listeners, site)?;
        Ok(Some(Answers { board, load, server }))
    }

    /// Ends the threads.
    pub fn stop(self) {
        self.board.stop();
        self.server.stop();
        let _ = self.load.join();
    }
}
