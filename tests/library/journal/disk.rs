//! A disk that loses power. Writes and lengths since the last sync may be there after the crash or not, each by itself, in
//! any order, and a write may be there in part: sector by sector.

use std::{
    fmt, io,
    sync::{Arc, Mutex},
};

use fastrand::Rng;
use gwm::journal::StorageBackend;

/// A disk writes a sector whole or not at all.
const SECTOR: usize = 512;

/// What the disk was told since the last sync.
#[derive(Clone)]
enum Told {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Default)]
struct State {
    /// What reads see.
    now: Vec<u8>,
    /// What is certain.
    synced: Vec<u8>,
    unsynced: Vec<Told>,
    /// Chooses the points of crashes; `None`: there are none.
    crashes: Option<(Rng, u32)>,
    /// What crashes left, with the number of the caller at that time.
    images: Vec<(u64, Vec<u8>)>,
    number: u64,
}

/// The disk, and a handle of the test.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// A disk with these bytes.
    pub(super) fn of(bytes: Vec<u8>) -> Disk {
        let disk = Disk::default();
        disk.with(|state| (state.now, state.synced) = (bytes.clone(), bytes));
        disk
    }

    /// From now on, one of `one_in` calls is the moment of a crash. The disk goes on; [`Disk::take_images`] has what the
    /// crash would have left.
    pub(super) fn crash(&self, rng: Rng, one_in: u32) {
        self.with(|state| state.crashes = Some((rng, one_in)));
    }

    /// Images of crashes from now on have this number.
    pub(super) fn set_number(&self, number: u64) {
        self.with(|state| state.number = number);
    }

    pub(super) fn take_images(&self) -> Vec<(u64, Vec<u8>)> {
        self.with(|state| std::mem::take(&mut state.images))
    }

    /// The bytes of the disk as they are.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.with(|state| state.now.clone())
    }

    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.0.lock().expect("no test panics with the lock"))
    }

    fn call<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        self.with(|state| {
            let done = act(state);
            if let Some((mut rng, one_in)) = state.crashes.take() {
                if rng.u32(..one_in) == 0 {
                    let image = state.left_by_crash(&mut rng);
                    state.images.push((state.number, image));
                }
                state.crashes = Some((rng, one_in));
            }
            done
        })
    }
}

impl State {
    fn left_by_crash(&self, rng: &mut Rng) -> Vec<u8> {
        let mut image = self.synced.clone();
        let mut told = self.unsynced.clone();
        // All, none, or some of them.
        let kept = [0, 20, 50, 80, 100][rng.usize(..5)];
        if rng.bool() {
            rng.shuffle(&mut told);
        }
        for told in told {
            if rng.u32(..100) >= kept {
                continue;
            }
            match told {
                Told::Length(length) => image.resize(length, 0),
                Told::Write(at, bytes) => {
                    let whole = rng.u8(..4) > 0;
                    for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                        if whole || rng.bool() {
                            put(&mut image, at + sector * SECTOR, part);
                        }
                    }
                }
            }
        }
        image
    }
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0); // the file system made room first
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|state| state.now.len()) as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        self.with(|state| {
            let bytes = state.now.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(|state| {
            state.now.resize(len as usize, 0);
            state.unsynced.push(Told::Length(len as usize));
        });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(|state| {
            for told in std::mem::take(&mut state.unsynced) {
                match told {
                    Told::Length(length) => state.synced.resize(length, 0),
                    Told::Write(at, bytes) => put(&mut state.synced, at, &bytes),
                }
            }
        });
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(|state| {
            state.now[offset as usize..offset as usize + data.len()].copy_from_slice(data);
            state.unsynced.push(Told::Write(offset as usize, data.to_vec()));
        });
        Ok(())
    }
}
