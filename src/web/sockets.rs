//! The admin side's listeners.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::AdminAddress;

/// Who may use a UNIX socket: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound listener.
pub enum Bound {
    /// A UNIX socket; its file goes with this value.
    Unix(UnixListener, SocketFile),
    /// A TCP listener, with TLS or without.
    Tcp {
        /// The listener.
        listener: TcpListener,
        /// Whether clients speak TLS.
        tls: bool,
    },
}

/// The file of a UNIX socket; removed at the end, unless it is another process's by then.
pub struct SocketFile {
    path: PathBuf,
    stays: Arc<AtomicBool>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.stays.load(Ordering::Acquire) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// A listener that another process has bound. The file of a UNIX socket stays until [`Bound::stays`] is false.
    pub fn taken(address: &AdminAddress, socket: OwnedFd) -> io::Result<(AdminAddress, Bound)> {
        match address {
            AdminAddress::Socket(path) => {
                let listener = UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                let file = SocketFile { path: path.clone(), stays: Arc::new(AtomicBool::new(true)) };
                Ok((address.clone(), Bound::Unix(listener, file)))
            }
            AdminAddress::Tcp(_) => {
                let listener = TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Ok((AdminAddress::Tcp(listener.local_addr()?), Bound::Tcp { listener, tls: address.is_remote() }))
            }
        }
    }

    /// Another descriptor of the socket.
    pub fn share(&self) -> io::Result<OwnedFd> {
        match self {
            Bound::Unix(listener, _) => listener.try_clone().map(OwnedFd::from),
            Bound::Tcp { listener, .. } => listener.try_clone().map(OwnedFd::from),
        }
    }

    /// Whether the file of a UNIX socket stays at the end, if there is one: to be read and changed.
    pub fn stays(&self) -> Option<Arc<AtomicBool>> {
        match self {
            Bound::Unix(_, file) => Some(file.stays.clone()),
            Bound::Tcp { .. } => None,
        }
    }
}

/// Binds an address; gives the address with the port that the system chose.
pub fn bind(address: &AdminAddress) -> io::Result<(AdminAddress, Bound)> {
    match address {
        AdminAddress::Socket(path) => {
            let listener = bind_unix(path)?;
            let file = SocketFile { path: path.clone(), stays: Arc::default() };
            Ok((address.clone(), Bound::Unix(listener, file)))
        }
        AdminAddress::Tcp(wanted) => {
            let listener = TcpListener::bind(wanted)?;
            listener.set_nonblocking(true)?;
            let bound = AdminAddress::Tcp(listener.local_addr()?);
            Ok((bound, Bound::Tcp { listener, tls: address.is_remote() }))
        }
    }
}

/// Binds a UNIX socket with [`SOCKET_MODE`]. A socket file that nobody listens at is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    make_way(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the socket's mode as far as the umask lets it; so at no moment may others connect.
    let mode = Mode::from_raw_mode(SOCKET_MODE);
    fchmod(&socket, mode).map_err(io::Error::from)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Removes the socket file of a process that has ended.
fn make_way(path: &Path) -> io::Result<()> {
    let exists = |text: String| io::Error::new(io::ErrorKind::AlreadyExists, text);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(file) if !file.file_type().is_socket() => Err(exists("the file is there and is no socket".into())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("gwm-admin-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn a_socket_is_for_owner_and_group_and_goes_with_its_value() {
        let path = path("mode");
        let (_, bound) = bind(&AdminAddress::Socket(path.clone())).expect("a free path");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_another_process_takes_keeps_its_file() {
        let path = path("taken");
        let address = AdminAddress::Socket(path.clone());
        let (_, bound) = bind(&address).expect("a free path");
        let (_, taken) = Bound::taken(&address, bound.share().expect("a descriptor")).expect("a listener");
        bound.stays().expect("a file").store(true, Ordering::Release);
        drop(bound);
        UnixStream::connect(&path).expect("the other one listens");
        taken.stays().expect("a file").store(false, Ordering::Release);
        drop(taken);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_everything_else_is_left_alone() {
        let path = path("stale");
        drop(UnixListener::bind(&path).expect("a free path"));
        let address = AdminAddress::Socket(path.clone());
        let (_, bound) = bind(&address).expect("a stale socket is no hindrance");
        let refused = bind(&address).err().expect("a live socket is");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(bound);
        fs::write(&path, "precious").unwrap();
        assert!(bind(&address).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }
}
