//! The directory of a state, and the file in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use rustix::fs::{Access, Advice, AtFlags, CWD, accessat, fadvise};

use super::store::Store;

/// The file.
const FILE: &str = "gwm.redb";

/// What the name of a file begins with that is not whole yet; the id of its process follows.
const UNFINISHED: &str = "gwm.redb.new-";

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

/// Makes the directory and the file of a state without rows, if they are not there. Nobody else may read them: labels and
/// reasons may be private.
pub fn prepare(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        // Else a loss of power could take the new directory away.
        Ok(()) => File::open(parent(directory))?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    match fs::metadata(file(directory)) {
        Ok(_) => Ok(()),
        Err(_) => make(directory),
    }
}

/// Makes the file. It has its name when it is whole: what a crash leaves of the engine's first steps would be refused.
fn make(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED)) {
            fs::remove_file(entry.path())?;
        }
    }
    let (file, new) = (file(directory), directory.join(format!("{UNFINISHED}{}", process::id())));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let made = Store::open(&new).map(drop).map_err(|error| io::Error::other(error.to_string()));
    // Not renamed: another process may have made the file meanwhile, and use it. Some file systems have no second names.
    let named = made.and_then(|()| match fs::hard_link(&new, &file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) if fs::symlink_metadata(&file).is_err() => fs::rename(&new, &file),
        named => named,
    });
    let _ = fs::remove_file(&new);
    named?;
    // Else a loss of power could leave a directory without the file.
    File::open(directory)?.sync_all()
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
    fn a_file_has_its_name_when_it_is_whole() {
        let directory = std::env::temp_dir().join(format!("gwm-directory-{}", process::id()));
        fs::create_dir(&directory).expect("a new directory");
        // A crash has left this.
        let left = directory.join(format!("{UNFINISHED}1"));
        fs::write(&left, [0; 5000]).expect("a new file");
        prepare(&directory).expect("it can be made");
        assert!(!left.exists() && Store::is_closed(&file(&directory)).expect("a whole file"));
        assert_eq!(fs::read_dir(&directory).expect("the directory").count(), 1);
        // A file that is there stays.
        let before = fs::read(file(&directory)).expect("the file");
        make(&directory).expect("nothing to do");
        prepare(&directory).expect("nothing to do");
        assert!(fs::read(file(&directory)).expect("the file") == before);
        assert_eq!(fs::read_dir(&directory).expect("the directory").count(), 1);
        fs::remove_dir_all(&directory).expect("the own directory");
    }

    #[test]
    fn a_relative_name_has_a_parent_too() {
        for (directory, expected) in
            [("/var/lib/gwm", "/var/lib"), ("a/b/", "a"), ("state", "."), ("./state", "."), ("/", ".")]
        {
            assert_eq!(parent(Path::new(directory)), Path::new(expected), "{directory}");
        }
    }
}
