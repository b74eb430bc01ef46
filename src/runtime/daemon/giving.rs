//! What the main thread does for a process that takes over: gathers what that process gets, and starts the thread that gives
//! it.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
};

use super::{Event, threads::Threads};
use crate::{
    config::Config,
    runtime::{
        coordinator_thread::CoordinatorControl,
        mesh::Bell,
        shard::Shared,
        takeover::{Giving, Parts, Still, Takeovers, tell_systemd},
    },
};

/// What the thread needs, but for listeners and files; `None` without `--state`, and in a fleet, whose state is not in one
/// file.
pub(super) fn parts(
    config: &Config,
    threads: &Threads,
    (control, shared, bells): (&Arc<CoordinatorControl>, &Arc<Shared>, &[Arc<Bell>]),
    takeovers: Arc<Takeovers>,
    events: &mpsc::Sender<Event>,
) -> Option<(PathBuf, Parts)> {
    let state = config.state.as_ref().filter(|_| config.fleet.is_none())?;
    let still = Still {
        control: control.clone(),
        journal: threads.keeper.as_ref()?.journal.clone(),
        shared: shared.clone(),
        bells: bells.to_vec(),
        pause_admin: pause_admin(threads),
    };
    let events = events.clone();
    let parts = Parts {
        offered: Vec::new(),
        still,
        takeovers,
        files: Vec::new(),
        over: Box::new(move || drop(events.send(Event::Over))),
        heir: Box::new(tell_systemd),
    };
    Some((state.directory.clone(), parts))
}

/// Tells the admin side whether it may accept.
#[cfg(feature = "admin")]
fn pause_admin(threads: &Threads) -> Box<dyn Fn(bool) + Send + Sync> {
    match threads.admin.as_ref().map(|admin| admin.thread.pause()) {
        Some(pause) => Box::new(move |paused| _ = pause.send(paused)),
        None => Box::new(|_| {}),
    }
}

#[cfg(not(feature = "admin"))]
fn pause_admin(_: &Threads) -> Box<dyn Fn(bool) + Send + Sync> {
    Box::new(|_| {})
}

/// Starts the thread. The daemon serves without it, too.
pub(super) fn start((directory, parts): (PathBuf, Parts)) -> Option<Giving> {
    match Giving::start(&directory, parts) {
        Ok(giving) => Some(giving),
        Err(error) => {
            tracing::warn!("no process can take over from this one: {}: {error}", directory.display());
            None
        }
    }
}
