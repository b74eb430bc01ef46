//! Why connections end.

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Cause {
    /// The peer closed its side.
    PeerClosed,
    /// The connection broke: reset, keepalive.
    Failed,
    /// The peer's bytes are not framed as SASP.
    Framing,
    /// The peer sent a message that is not a request, so no reply exists.
    NoReply,
    /// Another connection speaks for the same load balancer.
    TakenOver,
    /// The new access rules do not permit the peer to speak for its load balancer.
    NotPermitted,
    /// The operator closed it.
    Operator,
    /// The disk does not take what the peer's request changes.
    NotKept,
    /// The peer took no bytes for too long.
    Stalled,
    /// The first message took too long.
    FirstMessageTimeout,
    /// A later message took too long.
    MessageTimeout,
    /// The unfinished messages of all connections exceed their budget.
    BufferedBytes,
    /// The unwritten bytes of all connections exceed their budget.
    UnsentBytes,
    /// The source has as many connections as it may have.
    SourceConnections,
    /// The source opens connections too fast.
    SourceRate,
    /// The TLS handshake failed.
    Handshake,
    /// The TLS handshake took too long.
    HandshakeTimeout,
    /// The TLS handshake had its turn for too long, and others waited.
    HandshakeTurn,
    /// The peer broke the rules of TLS after the handshake.
    Tls,
    /// The server stops.
    Draining,
    /// Another process has taken over.
    HandedOver,
    /// A fault of the server itself.
    Panicked,
}

/// Number of [`Cause`]s.
pub(crate) const CAUSES: usize = Cause::Panicked as usize + 1;

impl Cause {
    /// Every cause, in order.
    pub(crate) const ALL: [Cause; CAUSES] = [
        Cause::PeerClosed,
        Cause::Failed,
        Cause::Framing,
        Cause::NoReply,
        Cause::TakenOver,
        Cause::NotPermitted,
        Cause::Operator,
        Cause::NotKept,
        Cause::Stalled,
        Cause::FirstMessageTimeout,
        Cause::MessageTimeout,
        Cause::BufferedBytes,
        Cause::UnsentBytes,
        Cause::SourceConnections,
        Cause::SourceRate,
        Cause::Handshake,
        Cause::HandshakeTimeout,
        Cause::HandshakeTurn,
        Cause::Tls,
        Cause::Draining,
        Cause::HandedOver,
        Cause::Panicked,
    ];

    /// The cause in words, for logs.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Cause::PeerClosed => "the peer closed it",
            Cause::Failed => "it broke",
            Cause::Framing => "the bytes are not SASP",
            Cause::NoReply => "a message that is not a request",
            Cause::TakenOver => "another connection speaks for the same load balancer",
            Cause::NotPermitted => "the new --access file does not let it speak for its load balancer",
            Cause::Operator => "the operator dropped its load balancer",
            Cause::NotKept => "the disk does not take what its request changes (--state)",
            Cause::Stalled => "the peer took nothing for --stall-timeout",
            Cause::FirstMessageTimeout => "no whole message within --first-message-timeout",
            Cause::MessageTimeout => "a message was not whole within --message-timeout",
            Cause::BufferedBytes => "unfinished messages would exceed --max-buffered-bytes",
            Cause::UnsentBytes => "the bytes that peers have yet to take would exceed --max-unsent-bytes",
            Cause::SourceConnections => "its address has --max-connections-per-source open",
            Cause::SourceRate => "its address opens more than --max-new-connections-per-source a second",
            Cause::Handshake => "the TLS handshake failed",
            Cause::HandshakeTimeout => "the TLS handshake did not end within --handshake-timeout",
            Cause::HandshakeTurn => "the TLS handshake was slow, and others waited: --max-handshakes are under way",
            Cause::Tls => "the TLS session broke",
            Cause::Draining => "the server stops",
            Cause::HandedOver => "another process has taken over (--takeover)",
            Cause::Panicked => "a fault of gwm itself: please report it",
        }
    }
}
