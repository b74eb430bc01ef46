//! Files for the processes that a run starts. They are in memory, so that nothing is left behind however a run ends; only a
//! state on disk is in a folder.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{DupFlags, dup3},
};

use crate::Result;

/// A folder on disk that goes with this value; it is made by whoever needs it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A name that no other folder of this process has.
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Folder(std::env::temp_dir().join(format!("gwm-loadgen-{}-{number}", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file in memory: other processes of this user open it by its path for as long as this process has it.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    number: RawFd,
    file: Mutex<OwnedFd>,
}

impl MemoryFile {
    /// A new file with this text.
    pub(crate) fn new(text: &str) -> Result<MemoryFile> {
        let file = filled(text).map_err(|error| format!("can not make a file in memory: {error}"))?;
        Ok(MemoryFile { number: file.as_raw_fd(), file: Mutex::new(file) })
    }

    /// Where to open it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.number).into()
    }

    /// Replaces the text: later readers get the new text; a reader that has the file open keeps the old text.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = filled(text)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(dup3(&new, &mut file, DupFlags::CLOEXEC)?)
    }
}

fn filled(text: &str) -> io::Result<OwnedFd> {
    let mut file = fs::File::from(memfd_create("gwm-loadgen", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    Ok(file.into())
}

/// A server's members file.
#[derive(Clone, Debug)]
pub(crate) enum MembersFile {
    /// For a server that was started for the run.
    Ours(Arc<MemoryFile>),
    /// For a server that runs already.
    Named(PathBuf),
}

impl From<OsString> for MembersFile {
    fn from(path: OsString) -> MembersFile {
        MembersFile::Named(path.into())
    }
}

impl MembersFile {
    /// Whether it has this text already.
    pub(crate) fn says(&self, text: &str) -> bool {
        fs::read_to_string(self.path()).is_ok_and(|found| found == text)
    }

    /// Replaces it at once: a reader sees the old text or the new one.
    pub(crate) fn replace(&self, text: &str) -> Result<()> {
        match self {
            MembersFile::Ours(file) => file.replace(text),
            MembersFile::Named(path) => replace(path, text),
        }
        .map_err(|error| format!("can not write {}: {error}", self.path().display()))
    }

    fn path(&self) -> PathBuf {
        match self {
            MembersFile::Ours(file) => file.path(),
            MembersFile::Named(path) => path.clone(),
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_in_memory_is_replaced_at_once() {
        let file = MembersFile::Ours(Arc::new(MemoryFile::new("old").unwrap()));
        assert!(file.says("old"));
        let mut open = fs::File::open(file.path()).unwrap();
        file.replace("new").unwrap();
        assert!(file.says("new"));
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old", "who has it open reads on");
    }
}
