//! Errors between a client and its GWM: which GWM, doing what, and whether a retry can help.

use std::{fmt, io, time::Duration};

use super::tls;
use crate::sasp::{ComponentType, DecodeError, EncodeError, FrameError, ReturnCode};

/// An error with a GWM.
///
/// After [`ErrorKind::Refused`] and [`ErrorKind::Encode`] the connection stays usable; after any other kind it does not.
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
        /// The action: `resolve`, `connect`, `send`, `receive`.
        doing: &'static str,
        /// The system's error.
        error: io::Error,
    },
    /// The GWM took too long.
    TimedOut {
        /// The action.
        doing: &'static str,
        /// How long the client waited.
        after: Duration,
    },
    /// The GWM closed the connection.
    Closed {
        /// Bytes of an incomplete message; 0 if the close came between messages.
        unfinished_bytes: usize,
    },
    /// TLS failed: a certificate was refused, or the bytes are not TLS.
    Tls(rustls::Error),
    /// The GWM closed the connection before the TLS handshake was over.
    ClosedInHandshake,
    /// The bytes are not a stream of SASP messages.
    Framing(FrameError),
    /// A message is broken.
    Decode(DecodeError),
    /// A well-formed message that the client did not ask for.
    Unexpected {
        /// The message.
        message: ComponentType,
        /// Its id.
        id: u32,
    },
    /// Too many bytes of pushes arrived before a reply.
    Backlog {
        /// The limit.
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

    /// Whether the same action can succeed later on a new connection, with nothing else changed.
    pub fn is_transient(&self) -> bool {
        match &self.kind {
            ErrorKind::Encode(_) | ErrorKind::Refused { .. } => false,
            ErrorKind::Tls(rustls::Error::AlertReceived(alert)) => !tls::is_about_us(*alert),
            // The operator of the GWM may mend a stream that is not SASP, or a bad certificate.
            _ => true,
        }
    }
}

impl ErrorKind {
    /// An error of the transport; an I/O error may hold a TLS error.
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
            ErrorKind::Io { doing, error } if error.kind() == io::ErrorKind::ConnectionRefused => {
                write!(f, "can not {doing}: {error}; is gwm serve running there?")
            }
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
            // The first bytes of a TLS alert or handshake.
            ErrorKind::Framing(FrameError::NotAHeader(ComponentType(0x1503 | 0x1603))) => {
                f.write_str("speaks TLS, and we do not")
            }
            ErrorKind::Framing(error) => write!(f, "does not send SASP: {error}"),
            ErrorKind::Decode(error) => write!(f, "sent a broken message: {error}"),
            ErrorKind::Unexpected { message, id } => write!(f, "sent an unexpected {message} with id {id}"),
            ErrorKind::Backlog { max_bytes } => write!(f, "sent over {max_bytes} bytes of pushes before its reply"),
            ErrorKind::Encode(error) => write!(f, "can not send the request: {error}"),
            ErrorKind::Refused { request, code } => {
                let look_at = if *code == ReturnCode::LB_NOT_CONTACTED { "; look at --lb" } else { "" };
                write!(f, "refused the {request}: {code} (0x{:02X}){look_at}", code.0)
            }
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
