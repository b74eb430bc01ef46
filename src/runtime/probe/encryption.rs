//! TLS of a check: records in and out, and the errors of TLS as reasons.

use std::{
    io::{ErrorKind, Read, Write},
    os::fd::BorrowedFd,
};

use rustix::{
    io::Errno,
    net::{SendFlags, send},
};
use rustls::{
    AlertDescription, CertificateError, ClientConnection, Error, InvalidMessage, PeerIncompatible,
    pki_types::{ServerName, UnixTime},
};

use super::theirs;
use crate::{
    monitor::{Outcome, Reason, TlsFault},
    roster::Tls,
    sasp::Endpoint,
};

/// The most encrypted bytes taken for one answer, with the handshake: certificates may be long, an answer is not.
const TLS_BYTES: usize = 256 << 10;

/// The TLS of one check.
pub(super) struct Encryption {
    member: Endpoint,
    connection: ClientConnection,
    received: usize,
}

impl Encryption {
    pub(super) fn new(tls: &Tls, endpoint: &Endpoint) -> Result<Encryption, Outcome> {
        let name = match &tls.server_name {
            Some(name) => ServerName::try_from(name.clone()).map_err(|_| Outcome::Inconclusive(Reason::NoResources))?,
            None => ServerName::from(endpoint.ip()),
        };
        let connection = ClientConnection::new(tls.config.clone(), name);
        let connection = connection.map_err(|_| Outcome::Inconclusive(Reason::NoResources))?;
        Ok(Encryption { member: *endpoint, connection, received: 0 })
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the socket has to take more before more can be written.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.wants_write()
    }

    /// Takes bytes to encrypt, none during the handshake; gives how many.
    pub(super) fn write(&mut self, plain: &[u8]) -> usize {
        match plain.is_empty() || self.is_handshaking() {
            true => 0,
            false => self.connection.writer().write(plain).unwrap_or(0),
        }
    }

    /// Sends encrypted bytes until none are left, or the socket takes no more.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> Result<(), Outcome> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Socket(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The member's alert, which says why, may wait to be read.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    return Ok(());
                }
                Err(error) => {
                    let rules = Outcome::Failed(Reason::Tls(TlsFault::Rules));
                    return Err(Errno::from_io_error(&error).map_or(rules, theirs));
                }
            }
        }
        Ok(())
    }

    /// Takes some encrypted bytes from the begin of `bytes`; whether TLS has ended.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<bool, Reason> {
        let before = bytes.len();
        match self.connection.read_tls(bytes) {
            // Bytes after the end of TLS are not taken.
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(_) => return Err(Reason::Malformed),
        }
        self.received += before - bytes.len();
        if self.received > TLS_BYTES {
            return Err(Reason::Malformed);
        }
        match self.connection.process_new_packets() {
            Ok(state) => Ok(state.peer_has_closed()),
            Err(error) => {
                tracing::debug!(member = %self.member, "TLS: {error}");
                Err(match error {
                    // Only gRPC asks for a protocol.
                    Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Reason::NoHttp2,
                    error => Reason::Tls(fault(&error)),
                })
            }
        }
    }

    /// Gives decrypted bytes.
    pub(super) fn read(&mut self, plain: &mut [u8]) -> usize {
        self.connection.reader().read(plain).unwrap_or(0)
    }
}

/// An error of TLS as a reason.
fn fault(error: &Error) -> TlsFault {
    let seconds =
        |from: UnixTime, to: UnixTime| to.as_secs().saturating_sub(from.as_secs()).try_into().unwrap_or(u32::MAX);
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::ExpiredContext { time, not_after } => TlsFault::Expired(seconds(*not_after, *time)),
            CertificateError::NotValidYetContext { time, not_before } => {
                TlsFault::NotYetValid(seconds(*time, *not_before))
            }
            // An authority of the same name has another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFault::UnknownAuthority,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFault::OtherName,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => TlsFault::Purpose,
            // The type of this error is not rustls' own.
            error if error.to_string().contains("CaUsedAsEndEntity") => TlsFault::Authority,
            _ => TlsFault::Certificate,
        },
        Error::AlertReceived(alert) => match alert {
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => TlsFault::NothingInCommon,
            AlertDescription::ProtocolVersion => TlsFault::Version,
            AlertDescription::UnrecognisedName => TlsFault::UnknownName,
            AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => TlsFault::Client,
            other => TlsFault::Alert((*other).into()),
        },
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => TlsFault::Version,
        Error::PeerIncompatible(_) => TlsFault::NothingInCommon,
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => TlsFault::NotTls,
        _ => TlsFault::Rules,
    }
}

/// Writes to a socket without SIGPIPE.
struct Socket<'a>(BorrowedFd<'a>);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match send(self.0, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
