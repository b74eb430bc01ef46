//! The connections of the admin side. There is a limit; beyond it, the connection ends whose peer has kept it waiting
//! longest, so that idle and slow clients, however many, keep nobody out. Some places are for UNIX sockets only: an
//! operator on the machine gets in, whatever the network does.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::Notify, time::Instant};

use crate::limits;

/// One connection.
pub struct Connection {
    /// Rung once: the connection ends.
    end: Notify,
    ended: AtomicBool,
    state: Mutex<State>,
    /// From where, for the audit lines.
    from: String,
    /// The peer's address; `None`: by a UNIX socket.
    peer: Option<IpAddr>,
    /// A name of the peer's certificate.
    pub(super) certificate: OnceLock<String>,
    /// The peer is at a TCP address without TLS: names of hosts prove nothing.
    pub(super) plain_tcp: bool,
}

/// Whether the peer or the daemon is to act.
struct State {
    /// A request is in work.
    at_work: bool,
    /// Since when the connection waits for its peer: for a request, for the rest of one, or for the peer to take bytes.
    waits: Option<Instant>,
}

impl Connection {
    /// A connection by a UNIX socket.
    pub(super) fn local(from: String) -> Connection {
        Connection::new(from, None, false)
    }

    /// A connection by TCP.
    pub(super) fn tcp(peer: SocketAddr, plain: bool) -> Connection {
        Connection::new(peer.to_string(), Some(peer.ip()), plain)
    }

    fn new(from: String, peer: Option<IpAddr>, plain_tcp: bool) -> Connection {
        let state = Mutex::new(State { at_work: false, waits: Some(Instant::now()) });
        let (end, ended, certificate) = (Notify::new(), AtomicBool::new(false), OnceLock::new());
        Connection { end, ended, state, from, peer, certificate, plain_tcp }
    }

    /// The peer's address; `None`: the peer is on this machine, by a UNIX socket.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Whether the connection is by a UNIX socket.
    pub(super) fn is_local(&self) -> bool {
        self.peer.is_none()
    }

    /// From where, for people.
    pub fn from(&self) -> String {
        match self.certificate.get() {
            Some(name) => format!("{}, certificate {name}", self.from),
            None => self.from.clone(),
        }
    }

    /// Ends the connection.
    pub fn end(&self) {
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
        *self.state() = State { at_work: true, waits: None };
        Work(self.clone())
    }

    /// From now on the peer is to act, though a request is in work.
    pub(super) fn wait(&self) {
        self.state().waits.get_or_insert_with(Instant::now);
    }

    /// The peer has acted.
    pub(super) fn go_on(&self) {
        let mut state = self.state();
        if state.at_work {
            state.waits = None;
        }
    }

    fn waits(&self) -> Option<Instant> {
        self.state().waits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in work.
pub(super) struct Work(Arc<Connection>);

impl Drop for Work {
    fn drop(&mut self) {
        *self.0.state() = State { at_work: false, waits: Some(Instant::now()) };
    }
}

/// All connections.
#[derive(Default)]
pub(super) struct Connections(Mutex<Vec<Arc<Connection>>>);

impl Connections {
    /// Takes a connection; at the limit another one ends that waits for its peer. If there is none, the new one is not
    /// taken. One by TCP takes no place that is for UNIX sockets, and ends no connection of these.
    pub(super) fn add(self: &Arc<Connections>, connection: Arc<Connection>) -> Option<Listed> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let by_tcp = list.iter().filter(|other| !other.is_local()).count();
        let no_place = !connection.is_local() && by_tcp >= limits::ADMIN_CONNECTIONS - limits::ADMIN_SOCKET_CONNECTIONS;
        if no_place || list.len() >= limits::ADMIN_CONNECTIONS {
            let may_end = |other: &Connection| connection.is_local() || !other.is_local();
            let waits = |(at, other): (usize, &Arc<Connection>)| Some((other.waits().filter(|_| may_end(other))?, at));
            let (_, at) = list.iter().enumerate().filter_map(waits).min()?;
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

    const BY_TCP: usize = limits::ADMIN_CONNECTIONS - limits::ADMIN_SOCKET_CONNECTIONS;

    fn local() -> Arc<Connection> {
        Arc::new(Connection::local(String::new()))
    }

    fn tcp() -> Arc<Connection> {
        Arc::new(Connection::tcp(([127, 0, 0, 1], 1).into(), true))
    }

    fn ended(listed: &Listed) -> bool {
        listed.connection.ended.load(Ordering::Relaxed)
    }

    #[test]
    fn at_the_limit_the_one_that_is_idle_longest_ends() {
        let all = Arc::new(Connections::default());
        let mut listed: Vec<_> = (0..limits::ADMIN_CONNECTIONS).map(|_| all.add(local()).unwrap()).collect();
        let first_at_work = listed[0].connection.work();
        let more = all.add(local()).expect("the second is idle");
        assert_eq!(all.len(), limits::ADMIN_CONNECTIONS);
        assert_eq!((ended(&listed[0]), ended(&listed[1]), ended(&listed[2])), (false, true, false));
        drop((listed.remove(1), more));
        assert_eq!(all.len(), limits::ADMIN_CONNECTIONS - 1, "each gives up its own place only");
        drop(first_at_work);
        let work: Vec<_> = listed.iter().map(|listed| listed.connection.work()).collect();
        let last = all.add(local()).expect("there is a place");
        let last_work = last.connection.work();
        assert!(all.add(local()).is_none(), "all are at work");
        drop((work, last_work));
        assert!(all.add(local()).is_some());
    }

    #[test]
    fn some_places_are_for_unix_sockets_only() {
        let all = Arc::new(Connections::default());
        let by_tcp: Vec<_> = (0..BY_TCP).map(|_| all.add(tcp()).unwrap()).collect();
        let work: Vec<_> = by_tcp.iter().map(|listed| listed.connection.work()).collect();
        assert!(all.add(tcp()).is_none(), "all others by TCP are at work");
        let by_socket: Vec<_> = (BY_TCP..limits::ADMIN_CONNECTIONS).map(|_| all.add(local()).unwrap()).collect();
        assert!(all.add(tcp()).is_none(), "idle ones of UNIX sockets make no place for TCP");
        assert!(by_socket.iter().all(|listed| !ended(listed)));
        let more = all.add(local()).expect("another one of a UNIX socket is idle");
        assert!(ended(&by_socket[0]) && !by_tcp.iter().any(ended));
        drop((work, more));
    }

    #[test]
    fn who_waits_for_its_peer_is_not_at_work() {
        let all = Arc::new(Connections::default());
        let listed: Vec<_> = (0..BY_TCP).map(|_| all.add(tcp()).unwrap()).collect();
        let work: Vec<_> = listed.iter().map(|listed| listed.connection.work()).collect();
        let (slow, slower) = (&listed[7].connection, &listed[5].connection);
        slower.wait();
        slow.wait();
        slower.wait(); // it has waited all the time
        listed[6].connection.wait();
        listed[6].connection.go_on();
        let first = all.add(tcp()).expect("one waits");
        let first_work = first.connection.work();
        assert!(ended(&listed[5]) && !ended(&listed[7]));
        let second = all.add(tcp()).expect("another one waits");
        assert!(ended(&listed[7]) && !ended(&listed[6]));
        let second_work = second.connection.work();
        assert!(all.add(tcp()).is_none());
        drop((work, first_work, second_work));
        listed[6].connection.go_on();
        assert!(all.add(tcp()).is_some(), "without a request it waits for one, whatever was written");
    }
}
