//! A file that is only read: what the engine writes to it stays in memory. So a look at a file that a crash left behind
//! does not change the file, and needs no right to write.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io,
    ops::Bound,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::{BackendError, StorageBackend, backends::FileBackend};

use super::store::{Result as Opened, StoreError};

/// Bytes are kept in pieces of this length.
const PIECE: usize = 4096;

/// The file, and what was written in memory.
pub(super) struct Unchanged {
    file: FileBackend,
    written: Mutex<Written>,
}

struct Written {
    /// The length that reads see.
    length: u64,
    /// So many bytes of the file count; behind them are zeros.
    of_file: u64,
    /// Whole pieces, by their number.
    pieces: BTreeMap<u64, Box<[u8; PIECE]>>,
}

impl Unchanged {
    pub(super) fn open(path: &Path) -> Opened<Unchanged> {
        let refused = |error: io::Error| StoreError::Disk(error.to_string());
        let file = FileBackend::new(File::open(path).map_err(refused)?)?;
        let length = file.len().map_err(refused)?;
        let written = Mutex::new(Written { length, of_file: length, pieces: BTreeMap::new() });
        Ok(Unchanged { file, written })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads bytes of the file, and zeros where it has none.
    fn read_file(&self, of_file: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(of_file.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (read, behind) = out.split_at_mut(there);
        behind.fill(0);
        if read.is_empty() { Ok(()) } else { self.file.read(offset, read) }
    }
}

/// The parts of these bytes that are in one piece each: the piece's number, where the part begins in the piece, and its
/// length.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = (at % PIECE as u64) as usize;
        let part = (PIECE - start).min(length - done);
        done += part;
        (part > 0).then_some((at / PIECE as u64, start, part))
    })
}

impl fmt::Debug for Unchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unchanged")
    }
}

impl StorageBackend for Unchanged {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > written.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut rest) = (offset, out);
        for (number, start, length) in parts(offset, rest.len()) {
            let (part, behind) = rest.split_at_mut(length);
            match written.pieces.get(&number) {
                Some(piece) => part.copy_from_slice(&piece[start..][..length]),
                None => self.read_file(written.of_file, at, part)?,
            }
            (at, rest) = (at + length as u64, behind);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        if length < written.length {
            // What is cut off is zeros if the file becomes longer again.
            written.of_file = written.of_file.min(length);
            let last = length / PIECE as u64;
            written.pieces.retain(|number, _| *number <= last);
            if let Some(piece) = written.pieces.get_mut(&last) {
                piece[(length % PIECE as u64) as usize..].fill(0);
            }
        }
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > written.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = data;
        for (number, start, length) in parts(offset, data.len()) {
            let (part, behind) = rest.split_at(length);
            if !written.pieces.contains_key(&number) {
                let mut piece = Box::new([0; PIECE]);
                self.read_file(written.of_file, number * PIECE as u64, &mut piece[..])?;
                written.pieces.insert(number, piece);
            }
            let piece = written.pieces.get_mut(&number).expect("it was put there");
            piece[start..][..length].copy_from_slice(part);
            rest = behind;
        }
        Ok(())
    }

    /// A daemon is kept out, and others that only read are not.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;

    /// Random calls, beside the same calls on bytes in memory.
    #[test]
    fn it_is_a_disk_and_the_file_stays_as_it_was() {
        let path = env::temp_dir().join(format!("gwm-unchanged-{}", process::id()));
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut bytes: Vec<u8> = (0..rng.usize(..5 * PIECE)).map(|_| rng.u8(..)).collect();
            let before = bytes.clone();
            fs::write(&path, &bytes).expect("the directory for temporary files");
            let disk = Unchanged::open(&path).expect("the file is there");
            for _ in 0..60 {
                let start = rng.usize(..=bytes.len());
                let length = rng.usize(..=bytes.len() - start);
                match rng.u8(..4) {
                    0 => {
                        bytes.resize(rng.usize(..6 * PIECE), 0);
                        disk.set_len(bytes.len() as u64).expect("memory");
                    }
                    1 => {
                        let data: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
                        disk.write(start as u64, &data).expect("within the length");
                        bytes[start..][..length].copy_from_slice(&data);
                    }
                    _ => {
                        let mut read = vec![7; length];
                        disk.read(start as u64, &mut read).expect("within the length");
                        assert_eq!(read, bytes[start..][..length], "seed {seed}");
                    }
                }
                assert_eq!(disk.len().expect("memory"), bytes.len() as u64);
            }
            let end = bytes.len() as u64;
            assert!(disk.read(end, &mut [0]).is_err() && disk.write(end, &[0]).is_err());
            assert!(disk.read(u64::MAX, &mut [0]).is_err() && disk.write(u64::MAX, &[0]).is_err());
            assert_eq!(fs::read(&path).expect("the file"), before, "seed {seed}");
        }
        let _ = fs::remove_file(&path);
    }
}
