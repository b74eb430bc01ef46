//! A connection before and in its TLS handshake, and how faults of TLS end the connection.

use std::{
    fmt,
    os::fd::BorrowedFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use rustls::InvalidMessage;

use super::{
    super::{
        cause::Cause,
        context::Context,
        wire::{Fault, Received},
    },
    Call, Connection, Stage, broken,
};
use crate::{
    access::{Certificate, Peer},
    metrics::Id,
    time::Time,
};

/// How long a handshake may take while others wait for its turn: some round trips, wherever the peer is.
pub(super) const HANDSHAKE_TURN_MAX: Duration = Duration::from_secs(3);

/// Whether the handshake has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The connection has not asked for a turn.
    Unasked,
    Asked,
    /// The handshake has had its turn since then.
    Given(Time),
}

impl Connection {
    /// Goes on with the handshake, once it has its turn.
    pub(super) fn secure(&mut self, turn: Turn, socket: BorrowedFd<'_>, context: &Context) -> Call {
        if context.shared.draining.load(Ordering::Relaxed) {
            return Call::Ended(Cause::Draining);
        }
        if !self.readable {
            return Call::Waits;
        }
        if !context.uplink.borrow_mut().has_room() {
            return self.wait_for_room(context);
        }
        match turn {
            // The handshake needs more than the client's first message, so a client that ended its side can not finish.
            Turn::Asked if self.peer_ended => Call::Ended(Cause::PeerClosed),
            Turn::Asked => Call::Waits,
            Turn::Unasked => match self.wire.decide(socket) {
                Ok(None) => {
                    self.readable = false;
                    Call::Waits
                }
                Ok(Some(false)) => {
                    self.open(context, None);
                    Call::Done
                }
                Ok(Some(true)) => {
                    self.stage = Stage::Securing(Turn::Asked);
                    context.handshakes.borrow_mut().ask(self.source(), self.slot);
                    Call::Done
                }
                Err(error) => Call::Ended(broken(&error)),
            },
            Turn::Given(_) => match self.wire.shake_hands(socket, &mut self.readable, self.peer_ended) {
                Ok(Received::End) => Call::Ended(Cause::PeerClosed),
                Ok(_) if self.wire.session().is_some() => self.secured(context),
                Ok(Received::Nothing) => Call::Waits,
                Ok(_) => Call::Done,
                Err(fault) => self.fail(fault, context),
            },
        }
    }

    /// Begins the handshake, whose turn has come.
    pub(in crate::runtime::shard) fn begin_handshake(&mut self, context: &Context) {
        self.stage = Stage::Securing(Turn::Given(context.now()));
        if let Err(error) = self.wire.secure(context.shared.tls()) {
            self.fail(Fault::Tls(error), context);
        }
        self.wake(context);
    }

    /// Opens the connection after a good handshake, unless the client's certificate has expired.
    fn secured(&mut self, context: &Context) -> Call {
        let shown = self.wire.session().and_then(|session| session.peer_certificates()?.first());
        let certificate = match shown.map(|shown| still_valid(shown)).transpose() {
            Ok(certificate) => certificate,
            Err(why) => {
                context.log_closed(Cause::Handshake, self.peer, Some(&why));
                self.return_turn(context);
                self.stage = Stage::Flushing(Cause::Handshake);
                return Call::Done;
            }
        };
        context.count(if self.wire.resumed() { Id::HandshakesResumed } else { Id::HandshakesFull });
        self.return_turn(context);
        self.open(context, certificate);
        // Bytes that came with the end of the handshake are in TLS already, so the socket has no news of them.
        self.readable = true;
        Call::Done
    }

    /// Announces the connection to the coordinator; from now on the connection takes requests.
    pub(in crate::runtime::shard) fn open(&mut self, context: &Context, certificate: Option<Arc<Certificate>>) {
        self.stage = Stage::Open;
        self.announced = true;
        self.since = context.now();
        context.uplink.borrow_mut().opened(self.slot, Peer { address: self.peer.ip(), certificate });
    }

    /// Gives back the turn of the handshake, or the place among those that wait for a turn.
    pub(super) fn return_turn(&mut self, context: &Context) {
        let source = self.source();
        match self.stage {
            Stage::Securing(Turn::Given(_)) => context.handshakes.borrow_mut().end(source),
            Stage::Securing(Turn::Asked) => context.handshakes.borrow_mut().forget(source, self.slot),
            _ => {}
        }
    }

    /// Ends a connection after a fault. If the peer broke the rules of TLS, the alert is sent first.
    pub(super) fn fail(&mut self, fault: Fault, context: &Context) -> Call {
        match fault {
            Fault::Broken(error) => Call::Ended(broken(&error)),
            Fault::Tls(error) => {
                let cause = if self.announced { Cause::Tls } else { Cause::Handshake };
                let no_tls = matches!(error, rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType));
                let detail: &dyn fmt::Display = if no_tls { &"the peer does not speak TLS" } else { &error };
                context.log_closed(cause, self.peer, Some(detail));
                self.return_turn(context);
                self.stage = Stage::Flushing(cause);
                self.since = context.now();
                Call::Done
            }
        }
    }
}

/// The certificate that a client has shown. A resumed session was verified when it began, and may outlive its
/// certificate, so its dates are checked again here.
fn still_valid(shown: &[u8]) -> Result<Arc<Certificate>, String> {
    let certificate = Certificate::parse(shown).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    match now > certificate.not_after {
        true => Err("the client's certificate has expired since its session began".into()),
        false => Ok(Arc::new(certificate)),
    }
}
