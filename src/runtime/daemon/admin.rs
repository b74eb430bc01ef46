//! What the main thread does for the admin side: binds its listeners, tells what is configured.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use super::listen::{Offer, retried, taken};
use crate::{
    admin::{Calendar, pages::Setting},
    config::{AdminAddress, Config, Source},
    runtime::{Error, shard::Shared, takeover::Taking},
    takeover::Listener,
    web::sockets::{self, Bound},
};

/// The listeners of the admin side.
pub(super) struct Admin {
    pub(super) addresses: Vec<AdminAddress>,
    pub(super) bound: Vec<Bound>,
    /// Files of UNIX sockets; true: the file stays at the end.
    pub(super) files: Vec<Arc<AtomicBool>>,
}

/// Takes the listeners of the admin side over, and binds those that are not there.
pub(super) fn bind(config: &Config, taking: &mut Option<&mut Taking>, offer: &mut Offer) -> Result<Admin, Error> {
    let mut bind_one = |address: &AdminAddress| {
        let (bound, socket) = match (taken(taking, name(address)).pop(), address) {
            (Some(socket), _) => Bound::taken(address, socket)?,
            (None, AdminAddress::Tcp(_)) => retried(address, || sockets::bind(address))?,
            (None, AdminAddress::Socket(_)) => sockets::bind(address)?,
        };
        offer.add(&name(&bound), socket.share()?)?;
        Ok::<_, std::io::Error>((bound, socket))
    };
    let bind = |address: &AdminAddress| {
        bind_one(address).map_err(|error| Error::BindAdmin { address: address.clone(), error })
    };
    let bound: Result<Vec<_>, Error> = config.admin.listen.iter().map(bind).collect();
    let (addresses, bound): (_, Vec<Bound>) = bound?.into_iter().unzip();
    let files = bound.iter().filter_map(Bound::stays).collect();
    Ok(Admin { addresses, bound, files })
}

fn name(address: &AdminAddress) -> Listener {
    match address {
        AdminAddress::Tcp(address) => Listener::Admin(*address),
        AdminAddress::Socket(path) => Listener::AdminSocket(path.to_string_lossy().into_owned().into()),
    }
}

/// The time of day at time zero, and what outlives the process.
pub(super) fn calendar(shared: &Shared, config: &Config) -> Calendar {
    let zero = SystemTime::now() - Duration::from_nanos(shared.clock.now().0);
    Calendar { zero, words_survive: config.state.is_some() || config.fleet.is_some() }
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
