//! The fleet: several GWMs that share what they know by etcd.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;

use super::{ConfigError, units::duration, usage};
use crate::{
    limits,
    tls::{self, TlsError},
};

/// The longest file with name and password.
const CREDENTIALS_BYTES: usize = 4096;

/// The port of etcd.
const ETCD_PORT: u16 = 2379;

/// Where an etcd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdEndpoint {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Name and password for etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Flags of the fleet.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Fleet")]
pub struct FleetFlags {
    /// The etcd of a fleet: etcd://HOST:PORT,HOST:PORT and so on. The GWMs of a fleet, 2 to 7, share all load balancers,
    /// groups, members, states and the operator's words, and each checks a share of the members [default: no fleet]
    #[arg(long, env = "GWM_FLEET", value_name = "URL", value_parser = endpoints)]
    pub fleet: Option<Endpoints>,

    /// The fleet's name: the keys in etcd begin with /gwm/NAME/. 1 to 64 letters, digits, `.`, `_` and `-`
    #[arg(long, env = "GWM_FLEET_NAME", value_name = "NAME", default_value = "main", value_parser = name)]
    pub fleet_name: String,

    /// This GWM's name in the fleet, which no other one may have. 1 to 64 letters, digits, `.`, `_` and `-` [default: the
    /// name of this machine]
    #[arg(long, env = "GWM_NODE", value_name = "NAME", value_parser = name)]
    pub node: Option<String>,

    /// How long a GWM that etcd does not hear counts as alive, whole seconds, 2s to 60s. After that the others do its
    /// checks, and its load balancers are without a session
    #[arg(long, env = "GWM_FLEET_LEASE", value_name = "DURATION", default_value = "5s",
        value_parser = duration(Duration::from_secs(2)..=Duration::from_secs(60)))]
    pub fleet_lease: Duration,

    /// How many GWMs of a fleet check each member, 1 to 7; a member is down if those that check it agree
    #[arg(long, env = "GWM_PROBE_REDUNDANCY", value_name = "N", default_value = "2",
        value_parser = clap::value_parser!(u8).range(1..=limits::FLEET_NODES as i64))]
    pub probe_redundancy: u8,

    /// A file with USER:PASSWORD for etcd, on one line
    #[arg(long, env = "GWM_FLEET_CREDENTIALS", value_name = "FILE", requires = "fleet")]
    pub fleet_credentials: Option<PathBuf>,

    /// Certificate authorities (PEM) of etcd's certificates: etcd is reached by TLS
    #[arg(long, env = "GWM_FLEET_TLS_CA", value_name = "FILE", requires = "fleet")]
    pub fleet_tls_ca: Option<PathBuf>,

    /// The certificate chain that this GWM shows to etcd (PEM)
    #[arg(long, env = "GWM_FLEET_TLS_CERT", value_name = "FILE", requires_all = ["fleet_tls_ca", "fleet_tls_key"])]
    pub fleet_tls_cert: Option<PathBuf>,

    /// The private key of --fleet-tls-cert (PEM: PKCS#8, PKCS#1 or SEC1)
    #[arg(long, env = "GWM_FLEET_TLS_KEY", value_name = "FILE", requires = "fleet_tls_cert")]
    pub fleet_tls_key: Option<PathBuf>,
}

/// The etcds of a fleet, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(pub Vec<EtcdEndpoint>);

/// The fleet's settings; the flags have the meaning.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The etcds, each once.
    pub endpoints: Vec<EtcdEndpoint>,
    /// The fleet's name.
    pub name: String,
    /// This node's name.
    pub node: String,
    /// The lease.
    pub lease: Duration,
    /// How many nodes check each endpoint.
    pub redundancy: u8,
    /// Name and password for etcd.
    pub credentials: Option<Credentials>,
    /// TLS to etcd.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl Fleet {
    /// The file descriptors that a fleet needs.
    pub(super) fn descriptors(flags: &FleetFlags) -> u64 {
        if flags.fleet.is_some() { 16 } else { 0 }
    }

    /// Checks the flags, and reads the files that they name; `None` without a fleet.
    pub fn new(flags: &FleetFlags) -> Result<Option<Fleet>, ConfigError> {
        let Some(Endpoints(endpoints)) = &flags.fleet else { return Ok(None) };
        if !cfg!(feature = "fleet") {
            return usage("--fleet: this gwm was built without the feature `fleet`".into());
        }
        super::each_once("--fleet", endpoints, |_| false)?;
        if flags.fleet_lease.subsec_nanos() != 0 {
            let lease = humantime::format_duration(flags.fleet_lease);
            return usage(format!("--fleet-lease {lease} is not a whole number of seconds"));
        }
        let failure = |error: TlsError| ConfigError::Failure(error.to_string());
        Ok(Some(Fleet {
            endpoints: endpoints.clone(),
            name: flags.fleet_name.clone(),
            node: flags.node.clone().map_or_else(machine, Ok)?,
            lease: flags.fleet_lease,
            redundancy: flags.probe_redundancy,
            credentials: flags.fleet_credentials.as_deref().map(credentials).transpose()?,
            tls: tls(flags).map_err(failure)?,
        }))
    }
}

fn tls(flags: &FleetFlags) -> Result<Option<Arc<rustls::ClientConfig>>, TlsError> {
    let Some(ca) = &flags.fleet_tls_ca else { return Ok(None) };
    let named = |flag: &'static str, path: &Path| format!("{flag}: {}", path.display());
    let trusted = tls::flag_file("--fleet-tls-ca", ca)?;
    let trusted = tls::trusted(Some(&trusted)).map_err(|error| error.of(named("--fleet-tls-ca", ca)))?;
    let identity = match (&flags.fleet_tls_cert, &flags.fleet_tls_key) {
        (Some(certificate), Some(private)) => {
            let chain = tls::flag_file("--fleet-tls-cert", certificate)?;
            let chain = tls::certificates(&chain);
            let key = tls::flag_file("--fleet-tls-key", private)?;
            let key = tls::key(&key);
            Some((
                chain.map_err(|error| error.of(named("--fleet-tls-cert", certificate)))?,
                key.map_err(|error| error.of(named("--fleet-tls-key", private)))?,
            ))
        }
        _ => None,
    };
    let mut config = tls::client(trusted, identity).map_err(|error| error.of("--fleet-tls-cert"))?;
    // gRPC is HTTP/2.
    Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(config))
}

/// Parses `etcd://10.0.0.1:2379,etcd2.example`.
fn endpoints(text: &str) -> Result<Endpoints, String> {
    const FORM: &str = "write etcd://HOST:PORT,HOST:PORT, as in etcd://10.0.0.1:2379,10.0.0.2:2379";
    let list = text.strip_prefix("etcd://").ok_or(FORM)?;
    if list.contains('@') {
        return Err("name and password belong into a file: --fleet-credentials FILE".into());
    }
    let endpoint = |part: &str| {
        let part = part.trim();
        let (host, port) = match part.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or(FORM)?)),
            None => part.rsplit_once(':').map_or((part, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(ETCD_PORT), |port| port.parse().map_err(|_| FORM))?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || port == 0 || !host.bytes().all(plain) {
            return Err(FORM.to_owned());
        }
        Ok(EtcdEndpoint { host: host.to_owned(), port })
    };
    let list: Vec<_> = list.split(',').map(endpoint).collect::<Result<_, _>>()?;
    if list.len() > limits::FLEET_ETCDS {
        return Err(format!("a fleet has at most {} etcds", limits::FLEET_ETCDS));
    }
    Ok(Endpoints(list))
}

/// Parses a name that may be a part of a key.
fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.len() {
        1..=limits::FLEET_NAME_BYTES if text.bytes().all(plain) => Ok(text.to_owned()),
        _ => Err(format!("a name has 1 to {} characters: letters, digits, `.`, `_` and `-`", limits::FLEET_NAME_BYTES)),
    }
}

/// This machine's name.
fn machine() -> Result<String, ConfigError> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name(&host).map_err(|_| {
        ConfigError::Usage(format!("--node: the name of this machine, {host:?}, can not be used: name the node"))
    })
}

fn credentials(path: &Path) -> Result<Credentials, ConfigError> {
    let failure = |text: &str| ConfigError::Failure(format!("--fleet-credentials: {}: {text}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failure(&error.to_string()))?;
    if bytes.len() > CREDENTIALS_BYTES {
        return Err(failure("it is too long for USER:PASSWORD"));
    }
    let text = String::from_utf8(bytes).map_err(|_| failure("it is not UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']).split_once(':') {
        Some((user, password)) if !user.is_empty() && !text.trim_end().contains('\n') => {
            Ok(Credentials { user: user.into(), password: password.into() })
        }
        _ => Err(failure("write USER:PASSWORD on one line")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_are_hosts_with_ports() {
        let list = |text| endpoints(text).map(|list| list.0.iter().map(EtcdEndpoint::to_string).collect::<Vec<_>>());
        assert_eq!(list("etcd://10.0.0.1:2379,e2").unwrap(), ["10.0.0.1:2379", "e2:2379"]);
        assert_eq!(list("etcd://[2001:db8::1]:99,[::1]").unwrap(), ["[2001:db8::1]:99", "[::1]:2379"]);
        for bad in
            ["", "10.0.0.1:2379", "etcd://", "etcd://a:0", "etcd://a:x", "etcd://a,,b", "etcd://a/b", "etcd://[::1]2"]
        {
            assert!(list(bad).unwrap_err().starts_with("write etcd://"), "{bad}");
        }
        assert!(list("etcd://me:secret@a:1").unwrap_err().contains("--fleet-credentials"));
        let many = format!("etcd://{}", ["a"; limits::FLEET_ETCDS + 1].join(","));
        assert!(list(&many).unwrap_err().contains("at most"));
    }

    #[test]
    fn names_are_parts_of_keys() {
        assert_eq!(name("gwm-1.a_b"), Ok("gwm-1.a_b".into()));
        for bad in ["", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
