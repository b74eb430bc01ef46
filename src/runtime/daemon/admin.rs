//! What the main thread does for the admin side: binds its listeners, tells what is configured.

use std::time::{Duration, SystemTime};

use super::listen::retried;
use crate::{
    admin::{Calendar, pages::Setting},
    config::{AdminAddress, Config, Source},
    runtime::{Error, shard::Shared},
    web::sockets::{self, Bound},
};

/// Binds the listeners of the admin side.
pub(super) fn bind(config: &Config) -> Result<(Vec<AdminAddress>, Vec<Bound>), Error> {
    let bind = |address: &AdminAddress| {
        let bound = match address {
            AdminAddress::Tcp(_) => retried(address, || sockets::bind(address)),
            AdminAddress::Socket(_) => sockets::bind(address),
        };
        bound.map_err(|error| Error::BindAdmin { address: address.clone(), error })
    };
    let bound: Result<Vec<_>, Error> = config.admin.listen.iter().map(bind).collect();
    Ok(bound?.into_iter().unzip())
}

/// The time of day at time zero, and what outlives the process.
pub(super) fn calendar(shared: &Shared, config: &Config) -> Calendar {
    let zero = SystemTime::now() - Duration::from_nanos(shared.clock.now().0);
    Calendar { zero, words_survive: config.state.is_some() }
}

/// The flags with their values; what a flag leaves to the daemon is shown as the daemon chose.
pub(super) fn shown_flags(config: &Config) -> Vec<Setting> {
    let shown = |setting: crate::config::Setting| Setting {
        flag: setting.flag,
        value: setting.value,
        source: setting.source.name(),
        at: match setting.source {
            Source::File(place) => Some(place.to_string()),
            _ => None,
        },
    };
    config.given.settings(Some(config)).into_iter().map(shown).collect()
}
