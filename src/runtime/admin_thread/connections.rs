//! The connections of the admin side. There is a limit; beyond it, the connection ends that is idle longest, so that idle
//! clients, however many, keep nobody out.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::Notify, time::Instant};

use crate::limits;

/// One connection.
pub(super) struct Connection {
    /// Rung once: the connection ends.
    end: Notify,
    ended: AtomicBool,
    /// Since when no request is in work; `None` while one is.
    idle: Mutex<Option<Instant>>,
    /// From where, for the audit lines.
    from: String,
    /// A name of the peer's certificate.
    pub(super) certificate: OnceLock<String>,
    /// The peer is at a TCP address without TLS: names of hosts prove nothing.
    pub(super) plain_tcp: bool,
    /// Requests must show the token, if there is one.
    pub(super) needs_token: bool,
}

impl Connection {
    pub(super) fn new(from: String, plain_tcp: bool, needs_token: bool) -> Connection {
        let idle = Mutex::new(Some(Instant::now()));
        let (end, ended, certificate) = (Notify::new(), AtomicBool::new(false), OnceLock::new());
        Connection { end, ended, idle, from, certificate, plain_tcp, needs_token }
    }

    /// From where, for people.
    pub(super) fn from(&self) -> String {
        match self.certificate.get() {
            Some(name) => format!("{}, certificate {name}", self.from),
            None => self.from.clone(),
        }
    }

    /// Ends the connection.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.end.notify_one();
    }

    /// Waits until the connection is to end.
    pub(super) async fn ended(&self) {
        while !self.ended.load(Ordering::Relaxed) {
            self.end.notified().await;
        }
    }

    /// A request is in work as long as the value lives.
    pub(super) fn work(self: &Arc<Connection>) -> Work {
        self.set_idle(None);
        Work(self.clone())
    }

    fn idle(&self) -> Option<Instant> {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_idle(&self, since: Option<Instant>) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// A request in work.
pub(super) struct Work(Arc<Connection>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.set_idle(Some(Instant::now()));
    }
}

/// All connections.
#[derive(Default)]
pub(super) struct Connections(Mutex<Vec<Arc<Connection>>>);

impl Connections {
    /// Takes a connection, unless all others are at work; at the limit another one ends.
    pub(super) fn add(self: &Arc<Connections>, connection: Arc<Connection>) -> Option<Listed> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= limits::ADMIN_CONNECTIONS {
            let idle = |(at, other): (usize, &Arc<Connection>)| Some((other.idle()?, at));
            let (_, at) = list.iter().enumerate().filter_map(idle).min()?;
            list.swap_remove(at).end();
        }
        list.push(connection.clone());
        Some(Listed { connections: self.clone(), connection })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A connection's place in the list.
pub(super) struct Listed {
    connections: Arc<Connections>,
    pub(super) connection: Arc<Connection>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut list = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = list.iter().position(|other| Arc::ptr_eq(other, &self.connection)) {
            list.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new(String::new(), false, false))
    }

    #[test]
    fn at_the_limit_the_one_that_is_idle_longest_ends() {
        let all = Arc::new(Connections::default());
        let mut listed: Vec<_> = (0..limits::ADMIN_CONNECTIONS).map(|_| all.add(connection()).unwrap()).collect();
        let first_at_work = listed[0].connection.work();
        let more = all.add(connection()).expect("the second is idle");
        assert_eq!(all.len(), limits::ADMIN_CONNECTIONS);
        let ended = |listed: &Listed| listed.connection.ended.load(Ordering::Relaxed);
        assert_eq!((ended(&listed[0]), ended(&listed[1]), ended(&listed[2])), (false, true, false));
        drop((listed.remove(1), more));
        assert_eq!(all.len(), limits::ADMIN_CONNECTIONS - 1, "each gives up its own place only");
        drop(first_at_work);
        let work: Vec<_> = listed.iter().map(|listed| listed.connection.work()).collect();
        let last = all.add(connection()).expect("there is a place");
        let last_work = last.connection.work();
        assert!(all.add(connection()).is_none(), "all are at work");
        drop((work, last_work));
        assert!(all.add(connection()).is_some());
    }
}
