//! Arbitrary bytes on two connections: frames, the session's rules, and the coordinator's replies.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    access::Peer,
    coordinator::{CloseReason, ConnectionId, Coordinator, Kind, Outbox, Settings, Time, Totals},
    judgement::Policy,
    roster::{Member, Roster},
    sasp::{ComponentType, Framer, Header, Message, ReturnCode},
    session::{FrameAction, examine},
};

/// The Interval of Get Weights replies, in seconds.
const INTERVAL: u16 = 64;

/// From one message to the next.
const PACE: Duration = Duration::from_millis(1);

/// How long an LB's state is kept after its connection ends.
const HOLD: Duration = Duration::from_secs(1);

/// The longest message.
const MAX_BYTES: u32 = 4096;

/// Two connections to one coordinator. Every frame gets a reply, or a well-formed refusal, or ends its connection. The
/// sizes of the pieces in which bytes arrive do not matter. After the hold time the tables are empty.
///
/// The first byte of `data` is the size of the pieces. If its top bit is set, the rest is the stream of one connection.
/// Otherwise the rest is a list of messages; two bytes before each one are its connection and its length, and each one
/// gets the nine bytes of a header that make it a frame.
pub fn session(data: &[u8]) {
    let Some((&size, rest)) = data.split_first() else { return };
    let arrivals = if size & 0x80 != 0 { vec![(0, rest.to_vec())] } else { messages(rest) };
    let cut = arrivals.iter().flat_map(|(from, bytes)| {
        bytes.chunks(usize::from(size & 0x7F).max(1)).map(|piece| (*from, piece)).collect::<Vec<_>>()
    });
    let whole = talk(arrivals.iter().map(|(from, bytes)| (*from, &bytes[..])));
    assert_eq!(whole, talk(cut), "a split changes what is answered");
}

/// One of the two connections, 0 or 1.
type From = usize;

fn messages(mut data: &[u8]) -> Vec<(From, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((&[from, length], rest)) = data.split_first_chunk() {
        let (body, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        let mut message = vec![0x20, 0x10, 0x00, 0x0D, 1];
        message.extend((9 + body.len() as u32).to_be_bytes());
        message.extend(body);
        found.push((usize::from(from & 1), message));
    }
    found
}

/// All bytes sent to each of the two peers, and whether their connections were closed.
fn talk<'s>(arrivals: impl Iterator<Item = (From, &'s [u8])>) -> [(Vec<u8>, bool); 2] {
    let mut table = Table::new();
    for (from, mut piece) in arrivals {
        while !table.peers[from].closed {
            // The frame borrows the framer, so the framer is taken out of the table.
            let mut framer = std::mem::replace(&mut table.peers[from].framer, Framer::new(MAX_BYTES));
            match framer.next(&mut piece) {
                Ok(Some(frame)) => table.take(from, frame),
                Ok(None) => {
                    table.peers[from].framer = framer;
                    break;
                }
                Err(_) => table.end(from),
            }
            table.peers[from].framer = framer;
        }
    }
    table.finish()
}

/// Two connections and the coordinator.
struct Table {
    now: Time,
    coordinator: Coordinator,
    peers: [Peered; 2],
    sent: Sent,
}

struct Peered {
    framer: Framer,
    closed: bool,
    sent: Vec<u8>,
}

impl Table {
    fn new() -> Table {
        let mut coordinator = Coordinator::new(settings(), 1);
        for peer in 0..2 {
            coordinator.opened(id(peer), Peer::from(IpAddr::from(Ipv4Addr::LOCALHOST)));
        }
        let peers = [(); 2].map(|()| Peered { framer: Framer::new(MAX_BYTES), closed: false, sent: Vec::new() });
        Table { now: Time(0), coordinator, peers, sent: Sent::default() }
    }

    /// One frame of a peer.
    fn take(&mut self, from: From, frame: &[u8]) {
        self.now = self.now + PACE;
        let (header, kind) = Header::read(frame).expect("a frame has a header and a type");
        let mut refusal = Vec::new();
        match examine(frame, INTERVAL, &mut refusal) {
            FrameAction::Request(judged, message) => {
                let number = header.id;
                assert_eq!((judged, message.component_type()), (header, kind));
                assert!(refusal.is_empty());
                self.coordinator.request(self.now, id(from), number, &message, &mut self.sent);
                let replies: Vec<_> = self.sent.messages.iter().filter(|sent| sent.1 == Kind::Reply).collect();
                let [(to, _, reply)] = &replies[..] else { panic!("{} replies to one request", replies.len()) };
                assert_eq!(*to, id(from), "an answer to someone else");
                let (answer, answered) = Message::decode(reply).expect("a reply is well-formed");
                assert_eq!((answer.id, Some(answered.component_type())), (number, kind.reply()));
            }
            FrameAction::Refused(error) => {
                assert!(error.offset <= frame.len(), "{error}");
                let (answer, answered) = Header::read(&refusal).expect("a reply begins like any message");
                assert_eq!((answer.version, answer.length as usize, answer.id), (1, refusal.len(), header.id));
                assert_eq!(Some(answered), kind.reply());
                assert_eq!(refusal[17], ReturnCode::NOT_UNDERSTOOD.0);
                self.peers[from].sent.extend(refusal);
            }
            FrameAction::Close(reason) => {
                assert_eq!((reason.0, kind.reply()), (kind, None));
                assert!(refusal.is_empty());
                self.end(from);
            }
        }
        self.coordinator.poll(self.now, &mut self.sent);
        self.hand_over();
    }

    /// Delivers the coordinator's messages and closes to the peers.
    fn hand_over(&mut self) {
        for (to, kind, message) in std::mem::take(&mut self.sent.messages) {
            if kind == Kind::Push {
                let (header, push) = Message::decode(&message).expect("a push is well-formed");
                assert_eq!((header.id, push.component_type()), (0, ComponentType::SEND_WEIGHTS));
            }
            self.peers[to.slot as usize].sent.extend(message);
            self.coordinator.delivered(to, u32::MAX);
        }
        for closed in std::mem::take(&mut self.sent.closes) {
            self.end(closed.slot as usize);
        }
    }

    fn end(&mut self, peer: From) {
        self.peers[peer].closed = true;
        self.coordinator.closed(self.now, id(peer), &mut self.sent);
    }

    fn finish(mut self) -> [(Vec<u8>, bool); 2] {
        let ends = self.peers.map(|peer| (peer.sent, peer.closed));
        for peer in 0..2 {
            self.coordinator.closed(self.now, id(peer), &mut self.sent);
        }
        self.now = self.now + HOLD;
        self.coordinator.poll(self.now, &mut self.sent);
        assert_eq!(self.coordinator.totals(), Totals::default(), "something outlives the hold time");
        assert!(self.sent.messages.is_empty(), "something is sent to connections that have ended");
        ends
    }
}

fn id(peer: From) -> ConnectionId {
    ConnectionId { shard: 0, slot: peer as u32, generation: 1 }
}

/// All limits are low, so that requests reach them.
fn settings() -> Settings {
    Settings {
        hold_time: HOLD,
        poll_interval_seconds: INTERVAL,
        push_window: PACE,
        push_refresh: PACE * 20,
        max_load_balancers: 3,
        max_groups: 6,
        max_groups_per_lb: 3,
        max_members_per_group: 4,
        max_memberships_per_lb: 8,
        max_memberships: 12,
        weight_max: 100,
        roster: Arc::new(Roster::new(Member::unknown(100), Policy::Auto)),
        access: Arc::default(),
        icmp: true,
        panic_percent: 50,
        panic_time: Duration::from_secs(30),
        own_addresses: Arc::default(),
        hash_seed: 1,
    }
}

/// The coordinator's messages and closes.
#[derive(Default)]
struct Sent {
    buffer: Vec<u8>,
    messages: Vec<(ConnectionId, Kind, Vec<u8>)>,
    closes: Vec<ConnectionId>,
}

impl Outbox for Sent {
    fn has_room(&self, _: u16) -> bool {
        true
    }

    fn buffer(&mut self, _: u16) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn commit(&mut self, connection: ConnectionId, start: usize, body: Option<&Bytes>, kind: Kind) {
        assert_eq!(start, 0, "a message that was not committed");
        self.buffer.extend_from_slice(body.map_or(&[], |body| body));
        self.messages.push((connection, kind, std::mem::take(&mut self.buffer)));
    }

    fn close(&mut self, connection: ConnectionId, _: CloseReason) {
        self.closes.push(connection);
    }
}
