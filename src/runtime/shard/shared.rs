//! What all shards share: a clock, budgets, the sources of connections, the TLS configuration, and whether the server stops.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicBool};
#[cfg(test)]
use std::time::Duration;

use rustls::ServerConfig;

use crate::{
    config::Connections,
    runtime::{
        limit::{
            budget::Budget,
            rate::Rate,
            sources::{Allowance, Sources},
        },
        machine::clock::Clock,
    },
};

/// What the shards have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    /// Connections.
    pub(crate) connections: Budget,
    /// Who has how many of them, and how many more.
    pub(crate) sources: Sources,
    /// Bytes of unfinished messages beyond the first [`crate::limits::READ_BYTES`] of each connection.
    pub(crate) buffered: Budget,
    /// Bytes that peers have yet to take, beyond the same of each.
    pub(crate) unsent: Budget,
    /// Set once: listeners close, connections end as soon as nothing is under way.
    pub(crate) draining: AtomicBool,
    /// How TLS is spoken from now on, if it is. Locked for a moment when a handshake begins.
    tls: Mutex<Option<Arc<ServerConfig>>>,
}

impl Shared {
    pub(crate) fn new(limits: &Connections, tls: Option<Arc<ServerConfig>>) -> Shared {
        Shared {
            clock: Clock::new(),
            connections: Budget::new(u64::from(limits.max)),
            sources: Sources::new(Allowance {
                connections: limits.max_per_source,
                new_connections: Rate::per_second(limits.max_new_per_source),
                handshakes: Rate::per_second(limits.max_handshakes_per_source),
            }),
            buffered: Budget::new(limits.max_buffered_bytes),
            unsent: Budget::new(limits.max_unsent_bytes),
            draining: AtomicBool::new(false),
            tls: Mutex::new(tls),
        }
    }

    /// How the next session speaks TLS.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        let tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        tls.clone().expect("whoever listens with TLS has a configuration for it")
    }

    /// Has sessions speak TLS so from now on.
    pub(crate) fn set_tls(&self, config: Arc<ServerConfig>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }
}

/// Limits for tests of what takes them.
#[cfg(test)]
pub(super) const LIMITS: Connections = Connections {
    max: 10,
    max_per_source: 10,
    max_new_per_source: 0,
    max_handshakes_per_source: 0,
    max_requests_per_second: 0,
    max_message_bytes: 1024,
    max_buffered_bytes: 65536,
    max_unsent_bytes: 65536,
    stall_timeout: Duration::from_secs(60),
    first_message_timeout: Duration::from_secs(60),
    message_timeout: Duration::from_secs(60),
    handshake_timeout: Duration::from_secs(60),
    max_handshakes: 4,
    keepalive: None,
    poll_interval_seconds: 60,
};
