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
        // Else a loss of power could take the new directory away.
        Ok(()) => File::open(parent(directory))?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let file = file(directory);
    if fs::metadata(&file).is_err() {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file)?;
        // Else a loss of power could leave a directory without the file.
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// The directory that has the name of this one.
fn parent(directory: &Path) -> &Path {
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_name_has_a_parent_too() {
        for (directory, expected) in
            [("/var/lib/gwm", "/var/lib"), ("a/b/", "a"), ("state", "."), ("./state", "."), ("/", ".")]
        {
            assert_eq!(parent(Path::new(directory)), Path::new(expected), "{directory}");
        }
    }
}
