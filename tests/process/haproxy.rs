//! A real HAProxy, to compare with.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::harness::{TempFile, until};

/// HAProxy with a configuration, until it is dropped.
pub(crate) struct HaProxy {
    child: Child,
    socket: PathBuf,
    _configuration: TempFile,
}

impl HaProxy {
    /// Starts HAProxy. `sections` are its frontends and backends.
    pub(crate) fn start(sections: &str) -> HaProxy {
        // The path of a socket has 108 bytes at most, so it is not in the target directory.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gwm-haproxy-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let socket = std::env::temp_dir().join(name);
        let configuration = format!(
            "global\n stats socket {}\n\
             defaults\n mode http\n timeout connect 10s\n timeout client 10s\n timeout server 10s\n timeout check 10s\n\
             {sections}\n",
            socket.display()
        );
        let configuration = TempFile::new("haproxy.cfg", configuration);
        let checked = Command::new("haproxy").args(["-c", "-f", configuration.path()]).output();
        let checked = checked.expect("the tests need HAProxy (Debian package haproxy)");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let child = Command::new("haproxy")
            .args(["-db", "-f", configuration.path()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("HAProxy starts");
        HaProxy { child, socket, _configuration: configuration }
    }

    /// The result of each server's first checks, by name, as in `L7OK`.
    pub(crate) fn checks(&self) -> BTreeMap<String, String> {
        let mut checks = BTreeMap::new();
        until("HAProxy has checked all servers", || {
            let Ok(mut stream) = UnixStream::connect(&self.socket) else { return false };
            let mut table = String::new();
            stream.write_all(b"show stat\n").expect("HAProxy takes commands");
            stream.read_to_string(&mut table).expect("HAProxy answers");
            let mut lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
            let Some(head) = lines.next() else { return false };
            let column = |name: &str| head.iter().position(|title| title.trim_start_matches("# ") == name);
            let (Some(name), Some(status)) = (column("svname"), column("check_status")) else { return false };
            let servers = lines.filter(|row| row.len() > name.max(status) && !row[status].is_empty());
            checks = servers.map(|row| (row[name].to_owned(), row[status].to_owned())).collect();
            !checks.is_empty() && checks.values().all(|status| status != "INI" && !status.starts_with('*'))
        });
        checks
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
