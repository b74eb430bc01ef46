//! What all shards share: a clock, budgets, the sources of connections, the TLS configuration, and whether the server
//! stops.

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

/// The state that all shards share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    /// The budget of open connections.
    pub(crate) connections: Budget,
    /// The limits of each source of connections.
    pub(crate) sources: Sources,
    /// The budget for unfinished messages: bytes beyond the first [`crate::limits::READ_BYTES`] of each connection.
    pub(crate) buffered: Budget,
    /// The budget for unwritten messages: bytes beyond the same number of each connection.
    pub(crate) unsent: Budget,
    /// Set once, when the server stops: listeners close, and connections end after the replies to their requests.
    pub(crate) draining: AtomicBool,
    /// New connections wait in the kernel, because the state changes hands.
    pub(crate) holds: AtomicBool,
    /// Set once, when another process has taken over: listeners close, and connections end one after another.
    pub(crate) over: AtomicBool,
    /// The configuration for new TLS sessions. Locked for a moment when a handshake begins.
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
            holds: AtomicBool::new(false),
            over: AtomicBool::new(false),
            tls: Mutex::new(tls),
        }
    }

    /// The configuration for the next TLS session.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        let tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        tls.clone().expect("a daemon with a TLS listener has a configuration")
    }

    /// Replaces the configuration, for new sessions.
    pub(crate) fn set_tls(&self, config: Arc<ServerConfig>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }
}

/// Limits for tests.
#[cfg(test)]
pub(crate) const LIMITS: Connections = Connections {
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
