//! SIGHUP: the files that flags name are read again, and this machine's addresses. A file that can not be used changes
//! nothing.

use std::{sync::Arc, time::SystemTime};

use crate::{
    config::Config,
    network::OwnAddresses,
    runtime::{
        coordinator_thread::CoordinatorControl,
        probe,
        shard::{MonitoringControl, Shared},
    },
    tls::Server,
};

/// The addresses of this machine's interfaces; only loopback if they can not be read.
pub(super) fn own_addresses() -> OwnAddresses {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!("can not read this machine's addresses, so only loopback counts as its own: {error}");
        Vec::new()
    });
    interfaces.iter().map(if_addrs::Interface::ip).collect()
}

/// Tells the coordinator if this machine has other addresses now.
pub(super) fn look_at_addresses(known: &mut Arc<OwnAddresses>, control: &CoordinatorControl) {
    let now = own_addresses();
    if now != **known {
        tracing::info!("this machine has other addresses now");
        *known = Arc::new(now);
        control.own_addresses.force_push(known.clone());
        control.bell.ring();
    }
}

/// Says what the file of `--config` has new, which counts after a restart.
pub(super) fn look_at_config(by: &str, config: &Config) {
    let Some(file) = config.given.file() else { return };
    let path = file.path().display();
    match file.changes() {
        Ok(changes) if changes.is_empty() => tracing::info!("{by}: {path} is as it was at the start"),
        Ok(changes) => {
            tracing::warn!("{by}: {path} has changed, which counts after a restart: {}", changes.join(", "));
        }
        Err(error) => tracing::error!("{by}: the next start will fail: {error}"),
    }
}

/// Reads the members file again.
pub(super) fn read_members(
    by: &str,
    config: &Config,
    control: &CoordinatorControl,
    monitoring: &[Arc<MonitoringControl>],
) {
    let Some(path) = &config.monitoring.members else { return };
    let roster = config.monitoring.read().map_err(|error| error.to_string()).and_then(|roster| match roster {
        Some(read) if read.0.names_icmp() => probe::may_echo().map(|()| Some(read)).map_err(|error| error.to_string()),
        other => Ok(other),
    });
    match roster {
        Ok(Some((roster, warnings))) => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            tracing::info!(members = roster.entries(), "{by}: {} is in force", path.display());
            let roster = Arc::new(roster);
            monitoring.iter().for_each(|shard| shard.reload(roster.clone()));
            control.roster.force_push(roster);
            control.bell.ring();
        }
        Ok(None) => {}
        Err(error) => tracing::error!("{by}: the old members stay in force: {error}"),
    }
}

/// Reads the access file again. Connections that it does not permit end.
pub(super) fn read_access(by: &str, config: &Config, control: &CoordinatorControl) {
    let Some(path) = &config.access.file else { return };
    match config.access.read() {
        Ok(access) => {
            tracing::info!(entries = access.entries(), "{by}: {} is in force", path.display());
            control.access.force_push(Arc::new(access));
            control.bell.ring();
        }
        Err(error) => tracing::error!("{by}: the old access rules stay in force: {error}"),
    }
}

/// Reads the TLS files again, for new sessions.
pub(super) fn read_tls(by: &str, tls: &mut Option<Server>, shared: &Shared) {
    let Some(server) = tls else { return };
    match server.read_again(SystemTime::now()) {
        Ok(Some(new)) => {
            tracing::info!("{by}: new TLS files are in force, for new sessions: {}", new.files);
            shared.set_tls(new.config.clone());
            warn_of_expiry(&new);
            *server = new;
        }
        Ok(None) => tracing::info!("{by}: the TLS files are as they were: {}", server.files),
        Err(error) => tracing::error!("{by}: the old TLS files stay in force: {error}"),
    }
}

pub(super) fn warn_of_expiry(server: &Server) {
    if let Some(line) = server.expiry(SystemTime::now()) {
        tracing::warn!("{line}");
    }
}
