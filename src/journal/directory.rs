//! The directory of a state, and the file in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The file.
const FILE: &str = "gwm.redb";

/// The file of a state in this directory.
pub fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Makes the directory and an empty file, if they are not there. Nobody else may read them: labels and reasons may be
/// private.
pub fn prepare(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let file = file(directory);
    if fs::metadata(&file).is_err() {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file)?;
        // Else a loss of power could leave a directory without the file.
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}
