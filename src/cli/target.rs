//! What the commands that speak to a GWM share: where it is, how long to wait, and how an end is told.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use crate::{
    client::{Client, Error},
    limits,
    sasp::{PORT, ReturnCode},
};

/// Where the GWM is.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The GWM: HOST:PORT, IPv4:PORT or `[IPv6]:PORT`; without a port, 3860
    #[arg(long, env = "GWM_GWM", value_name = "ADDR", default_value = "127.0.0.1:3860", value_parser = address, global = true)]
    pub(crate) gwm: String,
    /// Longest wait for a connection, and for a reply: 10ms to 1h
    #[arg(long, env = "GWM_TIMEOUT", value_name = "DURATION", default_value = "5s",
          value_parser = |text: &str| duration(text, Duration::from_millis(10)..=HOUR), global = true)]
    pub(crate) timeout: Duration,
}

/// The longest duration that these commands take.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

impl Target {
    /// Connects.
    pub(crate) fn connect(&self) -> Result<Client, Error> {
        Client::connect(&self.gwm, self.timeout)
    }
}

/// Why a command ends without having done what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The flags or files can not be meant so: exit status 2.
    Usage(String),
    /// It went wrong, or the GWM refused: exit status 1.
    Failed(String),
    /// Nobody reads the output any more: a quiet end, as of `| head`.
    OutputClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error.to_string())
    }
}

impl From<io::Error> for Failure {
    /// Of writing the output, the only I/O that the commands do themselves.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Failed(format!("can not write the output: {error}")),
        }
    }
}

/// Tells of a failure on stderr and gives the exit status.
pub(crate) fn finish(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            eprintln!("error: {message}");
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

/// `host:port` from an address that may lack the port.
pub(crate) fn address(text: &str) -> Result<String, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT).to_string());
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, _)) if !matches!(ip.parse(), Ok(IpAddr::V6(_))) => {
            return Err(format!("`{ip}` is not an IPv6 address"));
        }
        Some((ip, "")) => return Ok(format!("[{ip}]:{PORT}")),
        Some((ip, port)) => (ip, port.strip_prefix(':').ok_or("after `]` a `:` and a port are due")?),
        None => match text.split_once(':') {
            Some(parts) => parts,
            None => (text, "3860"),
        },
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err("a host is missing: HOST:PORT is due".into());
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => {
            Err(format!("`{port}` is not a port: 1 to 65535 (an IPv6 address with a port is written [::1]:3860)"))
        }
        Ok(port) if host.contains(':') => Ok(format!("[{host}]:{port}")),
        Ok(port) => Ok(format!("{host}:{port}")),
    }
}

/// A duration such as `5ms`, `2s`, `1m`, in a range.
pub(crate) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let shown = humantime::format_duration;
    let given = humantime::parse_duration(text).map_err(|error| format!("{error} (such as 500ms, 20s, 1m)"))?;
    if range.contains(&given) {
        return Ok(given);
    }
    Err(format!("{} is not between {} and {}", shown(given), shown(*range.start()), shown(*range.end())))
}

/// A byte: decimal, or hexadecimal with `0x`.
pub(crate) fn byte(text: &str) -> Result<u8, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|_| format!("`{text}` is not a byte: 0 to 255, or 0x00 to 0xFF"))
}

/// An LB UID: 1 to 64 bytes.
pub(crate) fn lb_uid(text: &str) -> Result<String, String> {
    match text.len() {
        1..=limits::LB_UID_BYTES => Ok(text.to_owned()),
        bytes => Err(format!("{bytes} bytes: an LB UID has 1 to {}", limits::LB_UID_BYTES)),
    }
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
    fn durations_have_units_and_ends() {
        let range = Duration::from_secs(1)..=HOUR;
        assert_eq!(duration("1s", range.clone()), Ok(Duration::from_secs(1)));
        assert_eq!(duration("1h", range.clone()), Ok(HOUR));
        assert_eq!(duration("1m 30s", range.clone()), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "999ms", "3601s", "fast", "-1s"] {
            assert!(duration(bad, range.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_and_uids_have_ends() {
        assert_eq!((byte("0"), byte("255"), byte("0x7F")), (Ok(0), Ok(255), Ok(127)));
        for bad in ["", "256", "-1", "0x", "0x100", "ff"] {
            assert!(byte(bad).is_err(), "{bad}");
        }
        assert!(lb_uid(&"x".repeat(64)).is_ok() && lb_uid("").is_err() && lb_uid(&"x".repeat(65)).is_err());
    }
}
