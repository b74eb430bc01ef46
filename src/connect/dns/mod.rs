//! DNS: names of a zone show the members of groups, with their weights, as SRV, A and AAAA records.
//!
//! [`Authority`] answers queries for the zone itself; [`Updates`] changes the zone of another server (RFC 2136).
//!
//! | file | what it owns |
//! | --- | --- |
//! | `names` | which names show which groups; names of hosts |
//! | `content` | what a name shows of its group |
//! | `zone` | all answers, ready to send |
//! | `answer` | a query and the zone → an answer |
//! | `limiter` | how many answers a network gets |
//! | `tally` | how many queries there were |
//! | `server` | sockets and threads |
//! | `authority` | the connector that answers queries itself |
//! | `key` | TSIG keys |
//! | `records` | what another server has, read from its answers |
//! | `exchange` | signed messages to another server, and their answers |
//! | `updates` | the connector that changes another server's zone |

mod answer;
mod authority;
mod content;
mod exchange;
mod key;
mod limiter;
mod names;
mod records;
mod server;
mod tally;
mod updates;
mod zone;

use std::time::Duration;

use super::Pool;
pub use answer::Transport;
pub use authority::Authority;
pub use content::WhenNone;
pub(crate) use key::parse as parse_key;
pub use key::{Key, read_key};
pub use names::{Kind, Rule, Shown, ZoneName, absolute, shown, zone};
pub use server::{Bound, ListenError, Listening};
pub use updates::Updates;
pub use zone::Apex;

/// What both connectors need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone's name.
    pub zone: ZoneName,
    /// How long resolvers may keep answers.
    pub ttl: Duration,
    /// The groups of the flags, as pools.
    pub pools: Vec<Pool>,
    /// Which names show which groups.
    pub shown: Vec<Shown>,
    /// What a name shows if no member may get work.
    pub when_none: WhenNone,
}

impl Settings {
    /// Checks that the zone's name leaves room for names of hosts.
    pub fn check(self) -> Result<Settings, String> {
        let longest = "a".repeat(names::HOST_LABEL_BYTES);
        match names::absolute(&format!("{longest}.{}", self.zone)) {
            Ok(_) => Ok(self),
            Err(_) => Err(format!("the zone's name {} is too long for names of hosts in it", self.zone)),
        }
    }
}

/// How many records of this name and type an answer of another server has, or why the answer can not be used; for
/// fuzzers.
pub(crate) fn read_answer(answer: &[u8], name: &ZoneName, rtype: domain::base::Rtype) -> Result<usize, String> {
    match rtype {
        domain::base::Rtype::SOA => records::serial(answer, name).map(|_| 1),
        _ => records::Records::read(answer, name, rtype).map(|records| records.data.len()),
    }
    .map_err(|error| error.to_string())
}
