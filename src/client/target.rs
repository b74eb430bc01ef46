//! A GWM, and how to speak with it.

use std::time::Duration;

use super::{Client, Error, Tls};

/// A GWM, and how to speak with it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its `host:port`.
    pub gwm: String,
    /// Bounds a connection, and each reply.
    pub timeout: Duration,
    /// Shared by all connections, so that they resume each other's sessions; without it, plain TCP.
    pub tls: Option<Tls>,
}

impl Target {
    /// Connects.
    pub fn connect(&self) -> Result<Client, Error> {
        match &self.tls {
            None => Client::connect(&self.gwm, self.timeout),
            Some(tls) => Client::connect_tls(&self.gwm, self.timeout, tls),
        }
    }

    /// Whether the GWM serves: it answers a request that changes nothing, and then keeps the connection for a moment. (A
    /// GWM that stops may answer one more request.)
    pub fn serves(&self) -> bool {
        const MOMENT: Duration = Duration::from_millis(250);
        let Ok(mut client) = self.connect() else { return false };
        client.get_weights([]).is_ok() && matches!(client.next_push(MOMENT), Ok(None))
    }
}
