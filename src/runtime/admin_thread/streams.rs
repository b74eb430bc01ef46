//! Those who follow the changes. One task asks the coordinator for new events, makes their text once, and gives it to all.
//! A client that is too far behind is dropped.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::{
    sync::{Notify, mpsc},
    time::{self, Instant},
};

use super::Daemon;
use crate::{
    admin::events,
    coordinator::{Answer, Ask},
    limits,
    web::{Connection, Problem},
};

/// How often new events are asked for while somebody follows.
const TICK: Duration = Duration::from_millis(100);

/// How often clients get a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events of one question.
const EVENTS: usize = 512;

/// One client.
struct Client {
    /// The number of the last event that the client has.
    last: u64,
    pieces: mpsc::Sender<Bytes>,
    connection: Arc<Connection>,
}

impl Client {
    /// Gives the client a piece; false if the client is gone, or too far behind, which ends its connection.
    fn give(&self, piece: &Bytes) -> bool {
        match self.pieces.try_send(piece.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.connection.end();
                false
            }
        }
    }
}

/// All clients.
#[derive(Default)]
pub(super) struct Streams {
    clients: Mutex<Vec<Client>>,
    /// Clients, also those that are still being brought up to date.
    count: AtomicUsize,
    news: Notify,
}

impl Streams {
    /// How many clients follow.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends the oldest stream of the peer that has most; says whether there was one. So no peer keeps all places.
    fn end_one(&self) -> bool {
        let mut clients = self.clients();
        let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
        clients.iter().for_each(|client| *counts.entry(client.connection.peer()).or_default() += 1);
        let count = |client: &Client| counts[&client.connection.peer()];
        let Some(most) = clients.iter().map(count).max() else { return false };
        let Some(at) = clients.iter().position(|client| count(client) == most) else { return false };
        clients.remove(at).connection.end();
        true
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer that goes on.
pub(super) struct Following {
    pieces: mpsc::Receiver<Bytes>,
    daemon: Arc<Daemon>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.daemon.streams.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Body for Following {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        self.pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Some events as text, and the number of the last one.
async fn some(daemon: &Daemon, after: u64) -> Result<(String, u64), Problem> {
    match daemon.ask(Ask::Events(after, EVENTS)).await? {
        Answer::Events { last, lost: true, .. } => Ok((events::reset(daemon.id, last), last)),
        Answer::Events { events: rows, last, .. } => {
            Ok((events::text_of(&rows, daemon.id, last, &daemon.parts.calendar), last))
        }
        _ => Err(Problem::busy()),
    }
}

/// Begins to follow, after the event that the client has seen last.
pub(super) async fn follow(
    daemon: &Arc<Daemon>,
    seen: Option<(u64, u64)>,
    connection: Arc<Connection>,
) -> Result<Following, Problem> {
    let before = daemon.streams.count.fetch_add(1, Ordering::Relaxed);
    let (sender, pieces) = mpsc::channel(limits::ADMIN_STREAM_PIECES);
    // Gives the place back, whatever happens.
    let following = Following { pieces, daemon: daemon.clone() };
    if before >= limits::ADMIN_STREAMS && !daemon.streams.end_one() {
        return Err(Problem::new(503, "busy", format!("{} clients follow already", limits::ADMIN_STREAMS)));
    }
    let mut text = String::from(events::RETRY);
    let mut last = match seen {
        None => {
            let Answer::Events { last, .. } = daemon.ask(Ask::Events(u64::MAX, 0)).await? else {
                return Err(Problem::busy());
            };
            // The client knows from the beginning where it would go on.
            text.push_str(&format!("id: {:x}-{last}\n: from here on\n\n", daemon.id));
            last
        }
        Some((id, last)) if id == daemon.id => last,
        Some(_) => u64::MAX, // another daemon's: everything is to be read again
    };
    loop {
        let (more, to) = some(daemon, last).await?;
        let done = to == last;
        text.push_str(&more);
        last = to;
        if done {
            break;
        }
    }
    let client = Client { last, pieces: sender, connection };
    client.give(&text.into());
    daemon.streams.clients().push(client);
    daemon.streams.news.notify_one();
    Ok(following)
}

/// Gives new events to all clients, for ever.
pub(super) async fn pump(daemon: Arc<Daemon>) {
    let mut keep_alive_at = Instant::now() + KEEP_ALIVE;
    loop {
        // The client that is furthest behind decides where to go on; the others get events once more, which does no harm.
        let Some(after) = daemon.streams.clients().iter().map(|client| client.last).min() else {
            daemon.streams.news.notified().await;
            keep_alive_at = Instant::now() + KEEP_ALIVE;
            continue;
        };
        if let Ok((text, last)) = some(&daemon, after).await {
            let piece = Bytes::from(text);
            daemon.streams.clients().retain_mut(|client| {
                let due = client.last < last && !piece.is_empty();
                client.last = client.last.max(last);
                !due || client.give(&piece)
            });
            if last > after + EVENTS as u64 - 1 {
                continue; // there may be more
            }
        }
        if Instant::now() >= keep_alive_at {
            keep_alive_at = Instant::now() + KEEP_ALIVE;
            let comment = Bytes::from_static(events::KEEP_ALIVE.as_bytes());
            daemon.streams.clients().retain(|client| client.give(&comment));
        }
        daemon.streams.clients().retain(|client| !client.pieces.is_closed());
        time::sleep(TICK).await;
    }
}
