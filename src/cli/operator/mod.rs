//! The commands of operators, which ask a running daemon by its admin side: `status`, `quiesce`, `resume`, `weight`.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `ask.rs` | a request to the admin side, and its answer |
//! | `candidates.rs` | names of a running daemon, for completion in shells |
//! | `status.rs` | `gwm status`: which answers, as tables or JSON |
//! | `watch.rs` | `gwm status --watch`: which answers are asked for again, and when |
//! | `show.rs` | answers as lines |
//! | `write.rs` | `gwm quiesce`, `gwm resume`, `gwm weight` |

mod ask;
mod candidates;
mod show;
pub mod status;
mod watch;
pub mod write;

use std::{path::PathBuf, time::Duration};

use ask::Daemon;

use super::target::{Failure, HOUR};
use crate::{
    client::spec,
    config::{AdminAddress, duration},
    limits,
    sasp::component::{TCP, UDP},
};

/// Time limit for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the daemon's admin side is.
#[derive(clap::Args)]
pub(super) struct Flags {
    /// The daemon's --admin-listen address: unix:PATH, or an address of loopback and its port
    #[arg(long, env = "GWM_ADMIN", value_name = "ADDR", default_value = "unix:/run/gwm/admin.sock",
          value_parser = AdminAddress::parse, global = true)]
    admin: AdminAddress,
    /// The file of the daemon's --admin-token-file, for an address that asks for a token
    #[arg(long, env = "GWM_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Time limit for an answer: 10ms to 1h [default: 5s, and 12s for a change]
    #[arg(long, env = "GWM_TIMEOUT", value_name = "DURATION",
          value_parser = duration(Duration::from_millis(10)..=HOUR), global = true)]
    timeout: Option<Duration>,
}

impl Flags {
    /// Checks the flags and reads the token.
    fn daemon(self) -> Result<Daemon, Failure> {
        if self.admin.is_remote() {
            return Err(Failure::Usage(format!("--admin {}: write unix:PATH or an address of loopback", self.admin)));
        }
        let token = match self.token_file {
            None => None,
            Some(file) => {
                let read = std::fs::read_to_string(&file);
                let text =
                    read.map_err(|error| Failure::Usage(format!("--token-file: {}: {error}", file.display())))?;
                Some(text.trim().to_owned())
            }
        };
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        let act_timeout = self.timeout.unwrap_or(limits::ACT_WAIT);
        Ok(Daemon { address: self.admin, token, timeout, act_timeout })
    }
}

/// A member or a whole address, as in a query or the body of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    address: String,
    /// Port and protocol; without them all that is at the address.
    service: Option<(u16, String)>,
}

/// Parses `10.0.0.1:80`, `10.0.0.1:53/udp`, or an address alone.
fn place(text: &str) -> Result<Place, String> {
    let endpoint = spec::endpoint(text).map_err(|error| error.to_string())?;
    let protocol = match endpoint.protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        other => other.to_string(),
    };
    let is_address = endpoint.port == 0 && endpoint.protocol == 0;
    let service = (!is_address).then_some((endpoint.port, protocol));
    Ok(Place { address: endpoint.ip().to_string(), service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_members_or_addresses() {
        let of = |text| place(text).map(|place| (place.address, place.service));
        assert_eq!(of("10.0.0.1:80"), Ok(("10.0.0.1".into(), Some((80, "tcp".into())))));
        assert_eq!(of("[2001:db8::1]:53/udp"), Ok(("2001:db8::1".into(), Some((53, "udp".into())))));
        assert_eq!(of("10.0.0.1:7/132"), Ok(("10.0.0.1".into(), Some((7, "132".into())))));
        assert_eq!(of("10.0.0.1"), Ok(("10.0.0.1".into(), None)));
        assert!(of("web-1").is_err());
    }
}
