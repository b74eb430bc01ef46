//! Where the admin side listens, and who may reach it.

use std::{fmt, net::SocketAddr, path::PathBuf, time::SystemTime};

use clap::Args;

use super::{ConfigError, usage};
use crate::{limits, tls};

/// The shortest token.
const TOKEN_BYTES: usize = 16;

/// An address of the admin side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A UNIX socket, for this machine's users that its mode lets in.
    Socket(PathBuf),
    /// A TCP address; with port 0 the system chooses a port. Loopback is without TLS, others are with TLS.
    Tcp(SocketAddr),
}

impl AdminAddress {
    /// Parses `unix:/run/gwm/admin.sock` and `127.0.0.1:9860`.
    pub fn parse(text: &str) -> Result<AdminAddress, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(AdminAddress::Socket(path)),
                false => Err("write an absolute path, as in unix:/run/gwm/admin.sock".into()),
            };
        }
        let address: Result<SocketAddr, _> = text.parse();
        let mut address =
            address.map_err(|_| "write unix:PATH, or an IP address and a port, such as 127.0.0.1:9860".to_owned())?;
        address.set_ip(address.ip().to_canonical());
        Ok(AdminAddress::Tcp(address))
    }

    /// Whether other machines may reach it.
    pub fn is_remote(&self) -> bool {
        matches!(self, AdminAddress::Tcp(address) if !address.ip().is_loopback())
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Socket(path) => write!(f, "unix:{}", path.display()),
            AdminAddress::Tcp(address) if self.is_remote() => write!(f, "https://{address}/"),
            AdminAddress::Tcp(address) => write!(f, "http://{address}/"),
        }
    }
}

/// The heading of these flags in the help, but for the one that all need.
pub(super) const HEADING: &str = "Admin side";

/// Flags of the admin side, of the daemon and of connectors.
#[derive(Args, Clone, Debug, Default)]
pub struct AdminFlags {
    /// Where operators look into the process, and steer the daemon: unix:PATH (a socket with mode 0660), or an address and
    /// port; repeatable. With port 0 the system chooses a port, which is printed. An address that is not loopback needs
    /// TLS, and client certificates or a token
    #[arg(long, env = "GWM_ADMIN_LISTEN", value_name = "ADDR", value_delimiter = ',',
          value_parser = AdminAddress::parse, global = true)]
    pub admin_listen: Vec<AdminAddress>,

    /// The certificate chain of --admin-listen addresses that are not loopback (PEM). SIGHUP reads it again
    #[arg(long, env = "GWM_ADMIN_TLS_CERT", value_name = "FILE", global = true, help_heading = HEADING)]
    pub admin_tls_cert: Option<PathBuf>,

    /// The private key of --admin-tls-cert (PEM: PKCS#8, PKCS#1 or SEC1)
    #[arg(long, env = "GWM_ADMIN_TLS_KEY", value_name = "FILE", global = true, help_heading = HEADING)]
    pub admin_tls_key: Option<PathBuf>,

    /// Certificate authorities (PEM) of operators: with this flag every TLS client of --admin-listen must show a
    /// certificate from one of them
    #[arg(long, env = "GWM_ADMIN_TLS_CLIENT_CA", value_name = "FILE", global = true, help_heading = HEADING)]
    pub admin_tls_client_ca: Option<PathBuf>,

    /// A file with a token that requests to --admin-listen over TCP must have (Authorization: Bearer TOKEN), but for
    /// /healthz, /readyz and the page itself; 16 or more characters. SIGHUP reads it again
    #[arg(long, env = "GWM_ADMIN_TOKEN_FILE", value_name = "FILE", global = true, help_heading = HEADING)]
    pub admin_token_file: Option<PathBuf>,
}

impl AdminFlags {
    /// Flags that say nothing without others. By hand, because clap's own rules do not hold across subcommands.
    fn relations(&self) -> Result<(), ConfigError> {
        let given = [
            ("--admin-tls-cert", self.admin_tls_cert.is_some(), "--admin-listen", !self.admin_listen.is_empty()),
            ("--admin-tls-cert", self.admin_tls_cert.is_some(), "--admin-tls-key", self.admin_tls_key.is_some()),
            ("--admin-tls-key", self.admin_tls_key.is_some(), "--admin-tls-cert", self.admin_tls_cert.is_some()),
            (
                "--admin-tls-client-ca",
                self.admin_tls_client_ca.is_some(),
                "--admin-tls-cert",
                self.admin_tls_cert.is_some(),
            ),
            ("--admin-token-file", self.admin_token_file.is_some(), "--admin-listen", !self.admin_listen.is_empty()),
        ];
        match given.iter().find(|(_, flag, _, other)| *flag && !*other) {
            Some((flag, _, other, _)) => usage(format!("{flag} goes with {other}, which is not given")),
            None => Ok(()),
        }
    }
}

/// The settings of the admin side.
#[derive(Clone, Default)]
pub struct Admin {
    /// The addresses; without any there is no admin side.
    pub listen: Vec<AdminAddress>,
    /// The TLS settings, for addresses that other machines may reach.
    pub tls: Option<tls::Server>,
    /// The file of the token that every request over TCP must show.
    pub token_file: Option<PathBuf>,
    /// Its content.
    pub token: Option<Box<[u8]>>,
}

impl fmt::Debug for Admin {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("listen", &self.listen).field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Admin {
    /// The file descriptors that the admin side needs.
    pub(super) fn descriptors(flags: &AdminFlags) -> u64 {
        match flags.admin_listen.len() as u64 {
            0 => 0,
            listeners => listeners + limits::ADMIN_CONNECTIONS as u64 + 16,
        }
    }

    /// Checks the flags, and reads the files that they name.
    pub fn new(flags: &AdminFlags) -> Result<Admin, ConfigError> {
        flags.relations()?;
        let listen = flags.admin_listen.clone();
        if !cfg!(feature = "admin") && !listen.is_empty() {
            return usage("--admin-listen: this gwm was built without the feature `admin`".into());
        }
        let is_free = |address: &AdminAddress| matches!(address, AdminAddress::Tcp(address) if address.port() == 0);
        super::each_once("--admin-listen", &listen, is_free)?;
        let token = flags.admin_token_file.as_ref().map(read_token).transpose()?;
        let tls = match (&flags.admin_tls_cert, &flags.admin_tls_key) {
            (Some(certificate), Some(key)) => {
                let files = tls::Files {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    client_ca: flags.admin_tls_client_ca.clone(),
                    min_version: tls::Version::Tls12,
                    allow_expired: false,
                };
                Some(tls::Server::read(files, SystemTime::now()).map_err(|error| of_admin(&error))?)
            }
            _ => None,
        };
        if let Some(address) = listen.iter().find(|address| address.is_remote()) {
            let AdminAddress::Tcp(address) = address else { unreachable!("a socket is not remote") };
            if tls.is_none() {
                return usage(format!(
                    "--admin-listen {address} is not loopback, so it needs --admin-tls-cert and --admin-tls-key"
                ));
            }
            if flags.admin_tls_client_ca.is_none() && token.is_none() {
                return usage(format!(
                    "--admin-listen {address} is not loopback, so it needs --admin-tls-client-ca or --admin-token-file: \
                     whoever reaches it could take members out of service"
                ));
            }
        } else if tls.is_some() {
            return usage(
                "--admin-tls-cert is for addresses that are not loopback, and --admin-listen names none: leave it out"
                    .into(),
            );
        }
        Ok(Admin { listen, tls, token_file: flags.admin_token_file.clone(), token })
    }

    /// Reads the token again.
    pub fn read_token(&self) -> Result<Option<Box<[u8]>>, ConfigError> {
        self.token_file.as_ref().map(read_token).transpose()
    }
}

/// The words of an error about TLS files, with the flags of the admin side.
pub fn of_admin(error: &tls::TlsError) -> ConfigError {
    ConfigError::Failure(error.to_string().replace("--tls-", "--admin-tls-"))
}

/// The token in a file, without white space around it.
fn read_token(path: &PathBuf) -> Result<Box<[u8]>, ConfigError> {
    let failure = |text: String| ConfigError::Failure(format!("--admin-token-file: {}: {text}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failure(error.to_string()))?;
    let token = bytes.trim_ascii();
    let printable = token.iter().all(u8::is_ascii_graphic);
    if token.len() < TOKEN_BYTES || !printable {
        return Err(failure(format!(
            "a token has {TOKEN_BYTES} or more printable characters: make one with `openssl rand -hex 16`"
        )));
    }
    Ok(token.into())
}
