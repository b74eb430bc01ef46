//! What can go wrong between a client and its GWM: who, on what, and whether a retry can help.

use std::{fmt, io, time::Duration};

use super::tls;
use crate::sasp::{ComponentType, DecodeError, EncodeError, FrameError, ReturnCode};

/// A failure, and the GWM that it happened with.
///
/// After [`ErrorKind::Refused`] and [`ErrorKind::Encode`] the connection is as good as before; after any other
/// kind the client is of no more use.
#[derive(Debug)]
pub struct Error {
    /// The GWM as the caller named it.
    pub gwm: String,
    /// What happened.
    pub kind: ErrorKind,
}

/// What happened.
#[derive(Debug)]
pub enum ErrorKind {
    /// The operating system reports an error.
    Io {
        /// What was under way: `resolve`, `connect`, `send`, `receive`.
        doing: &'static str,
        /// Its error.
        error: io::Error,
    },
    /// The GWM took too long.
    TimedOut {
        /// What was under way.
        doing: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The GWM closed the connection.
    Closed {
        /// Bytes of a message that will not be completed; 0 when the close came between messages.
        unfinished_bytes: usize,
    },
    /// There is no TLS with it, or no longer: a certificate will not do, or what arrives is not TLS.
    Tls(rustls::Error),
    /// The GWM closed the connection before the TLS handshake was over.
    ClosedInHandshake,
    /// What arrives is not a stream of SASP messages.
    Framing(FrameError),
    /// A message is broken.
    Decode(DecodeError),
    /// A well-formed message that nothing here asked for.
    Unexpected {
        /// The message.
        message: ComponentType,
        /// Its id.
        id: u32,
    },
    /// More bytes of pushes arrived before a reply than are kept.
    Backlog {
        /// The cap.
        max_bytes: usize,
    },
    /// The request does not fit the wire format.
    Encode(EncodeError),
    /// The GWM refused the request.
    Refused {
        /// The request.
        request: ComponentType,
        /// Why.
        code: ReturnCode,
    },
}

impl Error {
    /// The return code, if the GWM refused.
    pub fn refusal(&self) -> Option<ReturnCode> {
        match self.kind {
            ErrorKind::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the same thing can succeed later on a new connection, nothing else having changed.
    pub fn is_transient(&self) -> bool {
        match &self.kind {
            ErrorKind::Encode(_) | ErrorKind::Refused { .. } => false,
            ErrorKind::Tls(rustls::Error::AlertReceived(alert)) => !tls::is_about_us(*alert),
            // A stream that is not SASP counts, and a GWM's bad certificate: both may be replaced there.
            _ => true,
        }
    }
}

impl ErrorKind {
    /// An error of the transport, which may be one of TLS in the clothes of one of the system.
    pub(super) fn io(doing: &'static str, error: io::Error) -> ErrorKind {
        match error.downcast::<rustls::Error>() {
            Ok(error) => ErrorKind::Tls(error),
            Err(error) => ErrorKind::Io { doing, error },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GWM {}: {}", self.gwm, self.kind)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::Io { doing, error } => write!(f, "can not {doing}: {error}"),
            ErrorKind::TimedOut { doing, after } => {
                write!(f, "can not {doing}: nothing happened within {}", humantime::format_duration(*after))
            }
            ErrorKind::Closed { unfinished_bytes: 0 } => f.write_str("closed the connection"),
            ErrorKind::Closed { unfinished_bytes } => {
                write!(f, "closed the connection {unfinished_bytes} bytes into a message")
            }
            ErrorKind::Tls(error) => f.write_str(&tls::explain(error)),
            ErrorKind::ClosedInHandshake => {
                f.write_str("closed the connection in the TLS handshake: it may not speak TLS")
            }
            // The type and version of a record that is an alert or a handshake.
            ErrorKind::Framing(FrameError::NotAHeader(ComponentType(0x1503 | 0x1603))) => {
                f.write_str("speaks TLS, and we do not")
            }
            ErrorKind::Framing(error) => write!(f, "does not send SASP: {error}"),
            ErrorKind::Decode(error) => write!(f, "sent a broken message: {error}"),
            ErrorKind::Unexpected { message, id } => write!(f, "sent an unexpected {message} with id {id}"),
            ErrorKind::Backlog { max_bytes } => write!(f, "sent over {max_bytes} bytes of pushes before its reply"),
            ErrorKind::Encode(error) => write!(f, "can not send the request: {error}"),
            ErrorKind::Refused { request, code } => write!(f, "refused the {request}: {code} (0x{:02X})", code.0),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ErrorKind::Io { error, .. } => Some(error),
            ErrorKind::Tls(error) => Some(error),
            ErrorKind::Framing(error) => Some(error),
            ErrorKind::Decode(error) => Some(error),
            ErrorKind::Encode(error) => Some(error),
            _ => None,
        }
    }
}
