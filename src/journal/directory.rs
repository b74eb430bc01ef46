//! The directory of a state, and the file in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, Advice, AtFlags, CWD, accessat, fadvise};

/// The file.
const FILE: &str = "gwm.redb";

/// The file of a state in this directory.
pub fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Whether [`prepare`] and the daemon can use the directory, by its rights; changes nothing. Gives whether there is a file
/// with something in it.
pub fn look(directory: &Path) -> io::Result<bool> {
    let may = |path: &Path, access| {
        accessat(CWD, path, access, AtFlags::EACCESS).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })
    };
    let change = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    match fs::metadata(directory) {
        Ok(metadata) if !metadata.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => may(directory, change)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = directory.parent().filter(|parent| *parent != Path::new(""));
            may(parent.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    let file = file(directory);
    match fs::metadata(&file) {
        Ok(metadata) => {
            may(&file, Access::READ_OK | Access::WRITE_OK)?;
            Ok(metadata.len() > 0)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
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

/// Lets reads of a file see what the disk has. After a write that failed, the system has pages in memory that the disk has
/// not taken, calls them written, and says no more about them. With these pages a transaction looks whole, replies are
/// sent, and after the next loss of power all of the file is damaged.
pub fn look_at_disk(file: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(file)?;
    // Only pages that wait for nothing can be dropped. What the disk refuses now does not wait any more.
    let _ = file.sync_data();
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
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
