//! TLS for a client: the handshake, records in and out, and TLS errors in words.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use rustix::net::SendFlags;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, InvalidMessage,
    pki_types::{ServerName, UnixTime},
};

use super::{
    ErrorKind,
    transport::{MOMENT, Transport, is_end, is_retry, time_left},
};
use crate::sasp::Escaped;

/// The TLS settings of a client.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The trusted authorities and the client's own certificate. Connections with the same settings resume each other's
    /// sessions.
    pub config: Arc<ClientConfig>,
    /// The name or address that the GWM's certificate must have.
    pub server_name: ServerName<'static>,
}

/// A TCP connection after its TLS handshake.
pub(super) struct Stream {
    tls: ClientConnection,
    tcp: TcpStream,
}

impl Stream {
    /// Does the handshake before the deadline, which is `timeout` after connecting began.
    pub(super) fn open(tcp: TcpStream, tls: &Tls, deadline: Instant, timeout: Duration) -> Result<Stream, ErrorKind> {
        let doing = "finish the TLS handshake";
        let connection = ClientConnection::new(tls.config.clone(), tls.server_name.clone()).map_err(ErrorKind::Tls)?;
        let mut stream = Stream { tls: connection, tcp };
        while stream.tls.is_handshaking() || stream.tls.wants_write() {
            let Some(left) = time_left(deadline) else { return Err(ErrorKind::TimedOut { doing, after: timeout }) };
            match stream.step(left) {
                Ok(true) => {}
                Ok(false) => return Err(ErrorKind::ClosedInHandshake),
                Err(error) if is_retry(&error) => {}
                Err(error) if is_end(&error) => return Err(ErrorKind::ClosedInHandshake),
                Err(error) => return Err(ErrorKind::io(doing, error)),
            }
        }
        Ok(stream)
    }

    /// Sends waiting records, or else reads once; `false` at the stream's end.
    fn step(&mut self, left: Duration) -> io::Result<bool> {
        if self.tls.wants_write() {
            Transport::set_write_timeout(&mut self.tcp, left)?;
            return self.send().map(|()| true);
        }
        Transport::set_read_timeout(&mut self.tcp, left)?;
        Ok(self.receive()? > 0)
    }

    /// Reads once from the socket and processes the records; gives the bytes read.
    fn receive(&mut self) -> io::Result<usize> {
        let read = self.tls.read_tls(&mut self.tcp)?;
        if let Err(error) = self.tls.process_new_packets() {
            // The alert tells the peer why.
            let _ = self.tls.write_tls(&mut self.tcp);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(read)
    }

    /// Sends waiting records, as many as the socket takes.
    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if is_end(&error) => return Err(self.last_words().unwrap_or(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The peer's reason for closing. With TLS 1.3 a peer refuses a client's certificate when the handshake is over for
    /// the client, which sends already.
    fn last_words(&mut self) -> Option<io::Error> {
        Transport::set_read_timeout(&mut self.tcp, MOMENT).ok()?;
        loop {
            match self.receive() {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Some(error),
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// Decrypted bytes; `None` if there are none.
    fn plaintext(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        match self.tls.reader().read(out) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The stream ended without close_notify. A SASP message states its length, so a cut message is noticed anyway.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(read) = self.plaintext(out)? {
            return Ok(read);
        }
        // Records such as a key update. A peer that does not read them now may wait for us to read.
        while self.tls.wants_write() && self.tls.write_tls(&mut AtOnce(&self.tcp)).is_ok() {}
        self.receive()?;
        // Wait only once: a peer that sends single bytes must not hold the caller beyond its deadline.
        self.plaintext(out)?.ok_or_else(|| io::ErrorKind::Interrupted.into())
    }
}

impl Write for Stream {
    /// Buffers bytes; [`Write::flush`] sends them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send()?; // so there is room
        self.tls.writer().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

impl Transport for Stream {
    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        Transport::set_read_timeout(&mut self.tcp, timeout)
    }

    fn set_write_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        Transport::set_write_timeout(&mut self.tcp, timeout)
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.tcp.socket()
    }
}

impl Drop for Stream {
    /// Sends close_notify, if the socket takes it at once.
    fn drop(&mut self) {
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(&mut AtOnce(&self.tcp));
    }
}

/// A socket whose writes never wait.
struct AtOnce<'a>(&'a TcpStream);

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A TLS error in words that follow the GWM's name.
pub(super) fn explain(error: &rustls::Error) -> String {
    use rustls::Error;
    match error {
        Error::InvalidCertificate(error) => format!("shows a certificate {}", certificate(error)),
        Error::AlertReceived(AlertDescription::CertificateRequired) => "wants a client certificate".into(),
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "breaks off the TLS handshake: it has no cipher or key exchange that is spoken here (ECDHE with AES-GCM or \
             ChaCha20; neither CBC nor RSA key exchange), or it wants a client certificate"
                .into()
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!("speaks no TLS that is spoken here (1.2 and 1.3): {error}")
        }
        Error::AlertReceived(alert) if is_about_us(*alert) => format!("does not take our certificate: {alert:?}"),
        Error::AlertReceived(alert) => format!("breaks off TLS: {alert:?}"),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "does not speak TLS".into(),
        error => format!("breaks the rules of TLS: {error}"),
    }
}

/// An error of the GWM's certificate in words.
fn certificate(error: &CertificateError) -> String {
    match error {
        // An authority of the same name has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "of an authority that is not trusted here".into()
        }
        CertificateError::ExpiredContext { not_after, .. } => format!("that was valid until {}", date(*not_after)),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("that is not valid before {}", date(*not_before))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            match &presented[..] {
                [] => format!("that is not for {expected}, nor for any name"),
                names => {
                    let names: Vec<_> = names.iter().map(|name| Escaped(plain(name).as_bytes()).to_string()).collect();
                    format!("that is not for {expected} but for {}", names.join(", "))
                }
            }
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "that is not one for servers".into()
        }
        other => format!("that is not accepted: {other}"),
    }
}

/// A name without rustls' decoration.
fn plain(name: &str) -> &str {
    let of_kind = |kind| name.strip_prefix(kind)?.strip_suffix("\")");
    ["DnsName(\"", "UniformResourceIdentifier(\""].into_iter().find_map(of_kind).unwrap_or(name)
}

fn date(time: UnixTime) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    time.map_or("the end of time".into(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// Whether an alert is about the client's certificate, or its absence.
pub(super) fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}
