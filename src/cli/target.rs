//! The connection flags of commands that speak to a GWM, and their failures and exit status.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use rustls::pki_types::ServerName;

use crate::{
    client::{Error, Target, Tls},
    config::{ConfigError, duration},
    sasp::{PORT, ReturnCode},
    tls::{self, TlsError},
};

/// The heading of these flags in the help.
const CONNECTION: &str = "Connection";

/// The connection flags.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// The GWM: HOST:PORT, IPv4:PORT or `[IPv6]:PORT`; without a port, 3860. Repeatable, for the GWMs of a fleet: the first
    /// one that takes a connection; `gwm lb watch` goes to the next one when one fails
    #[arg(long, env = "GWM_GWM", value_name = "ADDR", default_value = "127.0.0.1:3860", value_parser = address,
          value_delimiter = ',', global = true, help_heading = CONNECTION)]
    gwm: Vec<String>,
    #[command(flatten)]
    link: Link,
}

/// The flags that say how to speak with a GWM.
#[derive(Args, Clone, Debug)]
pub(crate) struct Link {
    /// Time limit for a connection, and for a reply: 10ms to 1h. The resolution of a host's name has the system's own
    /// limit
    #[arg(long, env = "GWM_TIMEOUT", value_name = "DURATION", default_value = "5s",
          value_parser = duration(Duration::from_millis(10)..=HOUR), global = true, help_heading = CONNECTION)]
    timeout: Duration,
    /// Speak TLS (1.2 or 1.3) with the GWM, and check its certificate
    #[arg(long, env = "GWM_CLIENT_TLS", value_parser = clap::builder::FalseyValueParser::new(), global = true, help_heading = CONNECTION)]
    tls: bool,
    /// Certificates (PEM) to trust: of authorities, or the GWM's own [default: those that this machine trusts]
    #[arg(long, env = "GWM_CLIENT_TLS_CA", value_name = "FILE", global = true, help_heading = CONNECTION)]
    tls_ca: Option<PathBuf>,
    /// The client's certificate chain (PEM) up to an authority the GWM trusts; needs --tls-key
    #[arg(long, env = "GWM_CLIENT_TLS_CERT", value_name = "FILE", global = true, help_heading = CONNECTION)]
    tls_cert: Option<PathBuf>,
    /// The private key (PEM) of --tls-cert
    #[arg(long, env = "GWM_CLIENT_TLS_KEY", value_name = "FILE", global = true, help_heading = CONNECTION)]
    tls_key: Option<PathBuf>,
    /// The name or IP address that the GWM's certificate must have [default: the host of --gwm]
    #[arg(long, env = "GWM_CLIENT_TLS_SERVER_NAME", value_name = "NAME", value_parser = server_name, global = true, help_heading = CONNECTION)]
    tls_server_name: Option<ServerName<'static>>,
}

/// The longest duration in these commands' flags.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

impl Flags {
    /// Checks the flags and reads the files that they name; gives all GWMs.
    pub(crate) fn all(&self) -> Result<Vec<Target>, Failure> {
        self.gwm.iter().map(|gwm| self.link.target(gwm)).collect()
    }

    /// As [`Flags::all`]; gives the first GWM that takes a connection, or the last one.
    pub(crate) fn read(self) -> Result<Target, Failure> {
        let mut targets = self.all()?;
        let last = targets.pop().expect("there is a default");
        Ok(targets.into_iter().find(|target| target.connect().is_ok()).unwrap_or(last))
    }
}

impl Link {
    /// A GWM to speak with in this way. Checks the flags and reads the files that they name.
    pub(crate) fn target(&self, gwm: &str) -> Result<Target, Failure> {
        let tls = self.tls(gwm).map_err(Failure::Usage)?;
        Ok(Target { gwm: gwm.to_owned(), timeout: self.timeout, tls })
    }

    fn tls(&self, gwm: &str) -> Result<Option<Tls>, String> {
        if !self.tls {
            let given = [
                ("--tls-ca", self.tls_ca.is_some()),
                ("--tls-cert", self.tls_cert.is_some()),
                ("--tls-key", self.tls_key.is_some()),
                ("--tls-server-name", self.tls_server_name.is_some()),
            ];
            // These flags show that the user wants TLS; a plain connection would be a surprise.
            return match given.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(format!("{flag} goes with --tls, which is not given")),
                None => Ok(None),
            };
        }
        let roots = match &self.tls_ca {
            Some(file) => pem("--tls-ca", file, |pem| tls::trusted(Some(pem)))?,
            None => tls::trusted(None).map_err(|error| format!("--tls without --tls-ca: {error}"))?,
        };
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => {
                Some((pem("--tls-cert", chain, tls::certificates)?, pem("--tls-key", key, tls::key)?))
            }
            (None, None) => None,
            (Some(_), None) => return Err("--tls-cert goes with --tls-key, which is not given".into()),
            (None, Some(_)) => return Err("--tls-key goes with --tls-cert, which is not given".into()),
        };
        let config = tls::client(roots, identity).map_err(|error| format!("--tls-cert and --tls-key: {error}"))?;
        let server_name = match &self.tls_server_name {
            Some(name) => name.clone(),
            None => server_name(host(gwm)).map_err(|error| format!("--gwm: {error}: use --tls-server-name"))?,
        };
        Ok(Some(Tls { config, server_name }))
    }
}

/// The content of a PEM file; an error names the flag and the file.
fn pem<T>(flag: &str, file: &Path, parse: impl FnOnce(&[u8]) -> Result<T, TlsError>) -> Result<T, String> {
    let bytes = tls::flag_file(flag, file).map_err(|error| error.to_string())?;
    parse(&bytes).map_err(|error| format!("{flag}: {}: {error}", file.display()))
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// A name that can stand in a certificate.
fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned()).map_err(|_| format!("`{text}` is neither a DNS name nor an IP address"))
}

/// Why a command did not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Flags or files are wrong: exit status 2.
    Usage(String),
    /// An error, or the GWM refused: exit status 1.
    Failed(String),
    /// Nobody reads the output any more (as with `| head`): a quiet end.
    OutputClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        match error {
            ConfigError::Usage(text) => Failure::Usage(text),
            ConfigError::Failure(text) => Failure::Failed(text),
        }
    }
}

impl From<io::Error> for Failure {
    /// An error of writing the output, the only I/O that the commands do themselves.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Failed(format!("can not write the output: {error}")),
        }
    }
}

impl Failure {
    /// What went wrong.
    pub(crate) fn text(self) -> String {
        match self {
            Failure::Usage(text) | Failure::Failed(text) => text,
            Failure::OutputClosed => "nobody reads the output".into(),
        }
    }
}

/// Prints a failure on stderr and gives the exit status.
pub(crate) fn finish(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            super::complain(format_args!("error: {message}"));
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            super::complain(format_args!("error: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// A return code by name and number.
pub(crate) struct Named(pub(crate) ReturnCode);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.name() {
            Some(name) => write!(f, "{name} (0x{:02X})", self.0.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// `host:port` from an address with or without a port.
pub(crate) fn address(text: &str) -> Result<String, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT).to_string());
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, _)) if !matches!(ip.parse(), Ok(IpAddr::V6(_))) => {
            return Err(format!("`{ip}` is not an IPv6 address"));
        }
        Some((ip, "")) => return Ok(format!("[{ip}]:{PORT}")),
        Some((ip, port)) => (ip, port.strip_prefix(':').ok_or("after `]` write `:` and a port")?),
        None => match text.split_once(':') {
            Some(parts) => parts,
            None => (text, "3860"),
        },
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err("the host is missing: write HOST:PORT".into());
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => {
            Err(format!("`{port}` is not a port: 1 to 65535 (an IPv6 address with a port is written [::1]:3860)"))
        }
        Ok(port) if host.contains(':') => Ok(format!("[{host}]:{port}")),
        Ok(port) => Ok(format!("{host}:{port}")),
    }
}

/// A byte: decimal, or hexadecimal with `0x`.
pub(crate) fn byte(text: &str) -> Result<u8, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|_| format!("`{text}` is not a byte: 0 to 255, or 0x00 to 0xFF"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_port_that_they_lack() {
        for (given, meant) in [
            ("10.0.0.1", "10.0.0.1:3860"),
            ("10.0.0.1:4000", "10.0.0.1:4000"),
            ("::1", "[::1]:3860"),
            ("[::1]", "[::1]:3860"),
            ("[2001:db8::1]:4000", "[2001:db8::1]:4000"),
            ("gwm.example", "gwm.example:3860"),
            ("gwm.example:4000", "gwm.example:4000"),
        ] {
            assert_eq!(address(given).as_deref(), Ok(meant), "{given}");
        }
        for bad in ["", ":3860", "host:", "host:0", "host:65536", "[::1", "[::1]4000", "[10.0.0.1]:1", "a b:1", "1:2:3"]
        {
            assert!(address(bad).is_err(), "{bad} is taken for {:?}", address(bad));
        }
    }

    #[test]
    fn the_host_of_an_address_is_the_name_to_expect() {
        for (given, name) in [("gwm.example:4000", "gwm.example"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1")] {
            assert_eq!(host(&address(given).unwrap()), name);
            assert_eq!(server_name(name).unwrap().to_str(), name);
        }
        assert!(server_name("a b").is_err() && server_name("").is_err());
    }

    #[test]
    fn bytes_have_ends() {
        assert_eq!((byte("0"), byte("255"), byte("0x7F")), (Ok(0), Ok(255), Ok(127)));
        for bad in ["", "256", "-1", "0x", "0x100", "ff"] {
            assert!(byte(bad).is_err(), "{bad}");
        }
    }
}
