//! How many file descriptors the daemon needs.

use super::{Admin, ConfigError, Flags, Fleet, Host, Probe};
use crate::limits;

/// File descriptors that are not connections: listeners, rings, event descriptors, files.
const DESCRIPTORS_BASE: u64 = 64;
const DESCRIPTORS_PER_EXECUTOR: u64 = 16;

/// The default of `--max-connections`, if the file-descriptor limit allows it.
const CONNECTIONS_DEFAULT: u32 = 16384;

/// The default of `--max-probes`, if the file-descriptor limit allows it.
const PROBES_DEFAULT: u32 = 4096;

/// The use of file descriptors.
pub(super) struct Descriptors {
    pub(super) connections: u32,
    pub(super) probes: u32,
    /// The limit that they need.
    pub(super) limit: u64,
}

/// Finds out how many there may be, and how many are needed.
pub(super) fn descriptors(
    flags: &Flags,
    host: &Host,
    shards: usize,
    listeners: usize,
) -> Result<Descriptors, ConfigError> {
    let own = DESCRIPTORS_BASE
        + DESCRIPTORS_PER_EXECUTOR * (shards as u64 + 1)
        + (listeners * shards) as u64
        + Admin::descriptors(&flags.admin)
        + Fleet::descriptors(&flags.fleet)
        + agent_descriptors(flags)
        + takeover_descriptors(flags, listeners * shards);
    let room = host.descriptors.saturating_sub(own);
    // A members file may name monitors now or when it is read again.
    let watches = flags.probe != Probe::Off || flags.members.is_some();
    let narrow = |number: u64, most: u32| u32::try_from(number).unwrap_or(u32::MAX).min(most);
    let probes = match flags.max_probes {
        _ if !watches => 0,
        Some(probes) => probes,
        None => narrow(room / 4, PROBES_DEFAULT),
    };
    let connections = match flags.max_connections {
        Some(connections) => connections,
        None => narrow(room.saturating_sub(probes.into()), CONNECTIONS_DEFAULT),
    };
    let needed = u64::from(connections.max(1)) + u64::from(probes);
    if needed <= room && connections > 0 && (probes > 0 || !watches) {
        return Ok(Descriptors { connections, probes, limit: own + needed });
    }
    let (limit, all) = (host.descriptors, needed + own);
    let raise = "raise it (ulimit -Hn, or LimitNOFILE= in a systemd unit)";
    Err(ConfigError::Failure(match (flags.max_connections, flags.max_probes.filter(|_| watches)) {
        (Some(connections), _) => {
            let checks =
                if probes == 0 { String::new() } else { format!(" and {probes} checks at a time (--max-probes)") };
            let lower = match room.saturating_sub(probes.into()) {
                0 => "or lower both".into(),
                room => format!("or lower --max-connections to {room}"),
            };
            format!(
                "--max-connections {connections}{checks} takes {all} file descriptors, and the limit is {limit}: {raise}, \
                 {lower}"
            )
        }
        (None, Some(probes)) if room > 1 => format!(
            "--max-probes {probes} and a single connection take {all} file descriptors, and the limit is {limit}: \
             {raise}, or lower --max-probes, to {} at most",
            room - 1
        ),
        (None, _) => format!(
            "the file-descriptor limit is {limit}, and {} are needed before the first connection: {raise}",
            own + 1 + u64::from(watches) * 4
        ),
    }))
}

/// The file descriptors that agent-checks need.
fn agent_descriptors(flags: &Flags) -> u64 {
    match flags.agent_listen.len() as u64 {
        0 => 0,
        listeners => listeners + limits::AGENT_CONNECTIONS as u64 + 4,
    }
}

/// Further descriptors of all listeners, for a process that takes over.
fn takeover_descriptors(flags: &Flags, listeners: usize) -> u64 {
    match flags.state {
        Some(_) => (listeners + flags.admin.admin_listen.len() + flags.agent_listen.len()) as u64,
        None => 0,
    }
}
