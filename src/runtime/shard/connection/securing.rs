//! A connection before and in its TLS handshake, and what comes of a fault of TLS.

use std::{
    fmt,
    os::fd::BorrowedFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use rustls::InvalidMessage;

use super::{
    super::{
        Shard,
        cause::Cause,
        counters::count,
        wire::{Fault, Received},
    },
    Call, Connection, Stage, broken,
};
use crate::{
    access::{Certificate, Peer},
    coordinator::Time,
};

/// How long a handshake may be under way while others wait for its turn: some round trips, wherever the peer is.
pub(super) const TURN: Duration = Duration::from_secs(3);

/// Whether a handshake may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was not asked for.
    Unasked,
    Asked,
    /// Since then.
    Given(Time),
}

impl Connection {
    /// Goes on with the handshake, once it has its turn.
    pub(super) fn secure(&mut self, turn: Turn, socket: BorrowedFd<'_>, shard: &Shard) -> Call {
        if shard.shared.draining.load(Ordering::Relaxed) {
            return Call::Ended(Cause::Draining);
        }
        if !self.readable {
            return Call::Waits;
        }
        if !shard.uplink.borrow_mut().has_room() {
            return self.starve(shard);
        }
        match turn {
            // A handshake takes more than the client has sent: one that has ended its side is not waited for.
            Turn::Asked if self.ended => Call::Ended(Cause::PeerClosed),
            Turn::Asked => Call::Waits,
            Turn::Unasked => match self.wire.decide(socket) {
                Ok(None) => {
                    self.readable = false;
                    Call::Waits
                }
                Ok(Some(false)) => {
                    self.open(shard, None);
                    Call::Done
                }
                Ok(Some(true)) => {
                    self.stage = Stage::Securing(Turn::Asked);
                    shard.handshakes.borrow_mut().ask(self.source(), self.slot);
                    Call::Done
                }
                Err(error) => Call::Ended(broken(&error)),
            },
            Turn::Given(_) => match self.wire.shake_hands(socket, &mut self.readable, self.ended) {
                Ok(Received::End) => Call::Ended(Cause::PeerClosed),
                Ok(_) if self.wire.session().is_some() => self.secured(shard),
                Ok(Received::Nothing) => Call::Waits,
                Ok(_) => Call::Done,
                Err(fault) => self.fail(fault, shard),
            },
        }
    }

    /// It is this connection's turn to shake hands.
    pub(in crate::runtime::shard) fn begin_handshake(&mut self, shard: &Shard) {
        self.stage = Stage::Securing(Turn::Given(shard.shared.clock.now()));
        if let Err(error) = self.wire.secure(shard.shared.tls()) {
            self.fail(Fault::Tls(error), shard);
        }
        self.wake(shard);
    }

    /// The handshake has ended well.
    fn secured(&mut self, shard: &Shard) -> Call {
        let shown = self.wire.session().and_then(|session| session.peer_certificates()?.first());
        let certificate = match shown.map(|shown| still_valid(shown)).transpose() {
            Ok(certificate) => certificate,
            Err(why) => {
                shard.note(Cause::Handshake, self.peer, Some(&why));
                self.return_turn(shard);
                self.stage = Stage::Flushing(Cause::Handshake);
                return Call::Done;
            }
        };
        count(if self.wire.resumed() { &shard.counters.resumptions } else { &shard.counters.handshakes });
        self.return_turn(shard);
        self.open(shard, certificate);
        // What came with the handshake's end has been taken in already.
        self.readable = true;
        Call::Done
    }

    /// From now on it is a connection like any other.
    pub(in crate::runtime::shard) fn open(&mut self, shard: &Shard, certificate: Option<Arc<Certificate>>) {
        self.stage = Stage::Open;
        self.known = true;
        self.since = shard.shared.clock.now();
        shard.uplink.borrow_mut().opened(self.slot, Peer { address: self.peer.ip(), certificate });
    }

    /// Gives back the right to a handshake, or the place among those who wait for it.
    pub(in crate::runtime::shard) fn return_turn(&mut self, shard: &Shard) {
        let source = self.source();
        match self.stage {
            Stage::Securing(Turn::Given(_)) => shard.handshakes.borrow_mut().end(source),
            Stage::Securing(Turn::Asked) => shard.handshakes.borrow_mut().forget(source, self.slot),
            _ => {}
        }
    }

    /// Nothing more is to be had from the peer; if that is its fault, it gets the alert that says so.
    pub(super) fn fail(&mut self, fault: Fault, shard: &Shard) -> Call {
        match fault {
            Fault::Broken(error) => Call::Ended(broken(&error)),
            Fault::Tls(error) => {
                let cause = if self.known { Cause::Tls } else { Cause::Handshake };
                let stranger = matches!(error, rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType));
                let detail: &dyn fmt::Display = if stranger { &"the peer does not speak TLS" } else { &error };
                shard.note(cause, self.peer, Some(detail));
                self.return_turn(shard);
                self.stage = Stage::Flushing(cause);
                self.since = shard.shared.clock.now();
                Call::Done
            }
        }
    }
}

/// The names of a client's certificate. A resumed session was checked when it began, and may outlive its certificate.
fn still_valid(shown: &[u8]) -> Result<Arc<Certificate>, String> {
    let certificate = Certificate::parse(shown)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    match now > certificate.not_after {
        true => Err("the client's certificate has expired since its session began".into()),
        false => Ok(Arc::new(certificate)),
    }
}
