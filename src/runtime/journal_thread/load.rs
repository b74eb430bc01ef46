//! The start: opens the file, and gives the coordinator what is in it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{First, Kept, today};
use crate::{
    config::State,
    coordinator::Coordinator,
    journal::{self, Epoch, Restored, Store, StoreError, directory},
    runtime::{error::Error, machine::clock::Clock},
};

/// Gives the state to a fleet.
type ToFleet<'a> = Option<&'a mut dyn FnMut(&Store) -> Result<(), StoreError>>;

/// Opens the state and fills the coordinator that `empty` makes. With `--state-reset`, a file that can not be used is
/// moved aside first.
pub(in crate::runtime) fn load(
    state: &State,
    clock: Clock,
    empty: impl Fn() -> Coordinator,
    to_fleet: ToFleet<'_>,
) -> Result<(Kept, Coordinator), Error> {
    let path = directory::file(&state.directory);
    let failed = |error| Error::State { path: path.clone(), error };
    let disk = |error: io::Error| failed(StoreError::Disk(error.to_string()));
    if fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
        // Somebody, or a file system, has emptied it.
        tracing::warn!("the state on disk, {}, is an empty file: the state begins empty", path.display());
    }
    directory::prepare(&state.directory).map_err(disk)?;
    // The process before may have ended while the disk refused its writes.
    directory::look_at_disk(&path).map_err(disk)?;
    let (start, alone) = (Instant::now(), to_fleet.is_none());
    let (store, coordinator, restored) = match open(&path, clock, &empty) {
        Err(error @ (StoreError::Version(_) | StoreError::Damaged(_))) if state.reset => {
            let aside = move_aside(&path).map_err(disk)?;
            tracing::warn!(
                "--state-reset: {} can not be used ({error}): it is {} now, and the state begins empty",
                path.display(),
                aside.display()
            );
            directory::prepare(&state.directory).map_err(disk)?;
            open(&path, clock, &empty)
        }
        opened => opened,
    }
    .map_err(failed)?;
    let mut kept = tell((store, restored), &path, start, alone);
    if let Some(to_fleet) = to_fleet {
        to_fleet(&kept.store).map_err(failed)?;
    }
    match kept.begin(clock) {
        // A full disk keeps nobody from serving what it has: the thread tries again, and says so.
        Ok(()) | Err(StoreError::Disk(_)) => {}
        Err(error) => return Err(failed(error)),
    }
    Ok((kept, coordinator))
}

/// As [`load`], of a state that another process may still want: nothing of it is changed before [`Kept::begin`], and it is
/// not moved aside.
pub(in crate::runtime) fn load_taken(
    state: &State,
    clock: Clock,
    empty: impl Fn() -> Coordinator,
) -> Result<(Kept, Coordinator), Error> {
    let path = directory::file(&state.directory);
    let start = Instant::now();
    let opened = open(&path, clock, &empty).map_err(|error| Error::State { path: path.clone(), error });
    let (store, coordinator, restored) = opened?;
    Ok((tell((store, restored), &path, start, true), coordinator)) // a GWM of a fleet does not take over
}

/// Says what was loaded.
fn tell((store, restored): (Store, Restored), path: &Path, start: Instant, alone: bool) -> Kept {
    let Restored { load_balancers, groups, memberships, words, verdicts, first } = restored;
    let took_ms = start.elapsed().as_millis() as u64;
    tracing::info!(load_balancers, groups, memberships, words, verdicts, took_ms, "state on disk: {}", path.display());
    let (name, path, again) = (path.display().to_string(), path.to_owned(), path.to_owned());
    let first = Some(First { entries: first, alone });
    let named = Box::new(move || fs::metadata(&path).ok().map(|file| (file.dev(), file.ino())));
    Kept { store, name, reopen: Box::new(move || open_again(&again)), named, first }
}

/// Looks whether a start can use the state, and changes nothing; gives a note for the operator.
pub fn look(state: &State) -> Result<Option<String>, Error> {
    let path = directory::file(&state.directory);
    let told = |error| Error::State { path: path.clone(), error };
    if !directory::look(&state.directory).map_err(|error| told(StoreError::Disk(error.to_string())))? {
        return Ok(None);
    }
    match Store::open_unchanged(&path).and_then(|store| store.check()) {
        Ok(_) => Ok(None),
        Err(StoreError::Busy) => {
            Ok(Some(format!("--state: {} was not looked at: a daemon has it open", path.display())))
        }
        Err(error @ (StoreError::Version(_) | StoreError::Damaged(_))) if state.reset => {
            Ok(Some(format!("--state-reset: the start moves {} aside: {error}", path.display())))
        }
        Err(error) => Err(told(error)),
    }
}

fn open(
    path: &Path,
    clock: Clock,
    empty: &impl Fn() -> Coordinator,
) -> Result<(Store, Coordinator, Restored), StoreError> {
    let store = Store::open(path)?;
    let mut coordinator = empty();
    let now = clock.now();
    let restored = journal::restore(&store, &mut coordinator, now, Epoch::new(now, today()))?;
    Ok((store, coordinator, restored))
}

/// Opens a file that must be there, and that a write may have failed for.
fn open_again(path: &Path) -> Result<Store, StoreError> {
    directory::look_at_disk(path).map_err(|error| StoreError::Disk(error.to_string()))?;
    Store::open(path)
}

/// Gives the file a name that no file has.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let mut number = today().0 / 1000;
    loop {
        let aside = path.with_extension(format!("redb.unusable-{number}"));
        match fs::symlink_metadata(&aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::rename(path, &aside)?;
                return Ok(aside);
            }
            _ => number += 1,
        }
    }
}
