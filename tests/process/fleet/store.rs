//! One etcd for GWMs on one machine.

use std::net::{SocketAddr, TcpStream};

use gwm::sasp::ReturnCode;
use serde_json::Value;

use super::bed::{Directory, EtcdProcess};
use crate::{
    admin::{self, read},
    connect::real::{free_address, installed},
    harness::{DAEMONS, Daemon, Permit, until},
};

pub(super) const OK: ReturnCode = ReturnCode::SUCCESSFUL;
pub(super) const A: &str = "10.0.0.1:80";
pub(super) const B: &str = "10.0.0.2:80";

/// The user, as etcd's gateway wants it.
pub(super) const ROOT: &str = r#"{"name":"root","password":"secret"}"#;

/// Passwords cost etcd little: it answers in time on a busy machine, too.
pub(super) const CHEAP: [&str; 2] = ["--bcrypt-cost", "4"];

/// One etcd.
pub(super) struct Store {
    process: Option<EtcdProcess>,
    directory: Directory,
    scheme: &'static str,
    flags: Vec<String>,
    address: SocketAddr,
    peer: SocketAddr,
    permit: Permit,
}

impl Store {
    /// `None` where there is no etcd.
    pub(super) fn start() -> Option<Store> {
        Store::start_with("http", &[])
    }

    pub(super) fn start_with(scheme: &'static str, flags: &[&str]) -> Option<Store> {
        if !installed("etcd", "etcd-server") {
            return None;
        }
        let mut store = Store {
            process: None,
            directory: Directory::new(),
            scheme,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            address: free_address(),
            peer: free_address(),
            permit: Permit::take(DAEMONS),
        };
        store.go_on();
        Some(store)
    }

    /// Kills etcd; what it had stays on its disk.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts etcd, with what is on its disk.
    pub(super) fn go_on(&mut self) {
        let members = [("e".to_owned(), self.peer.to_string())];
        let client = format!("{}://{}", self.scheme, self.address);
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.process = Some(EtcdProcess::start_with(self.directory.path(), "e", &client, &members, &flags));
        until("etcd takes connections", || TcpStream::connect(self.address).is_ok());
    }

    /// Kills etcd, and starts it with an empty disk and the same flags.
    pub(super) fn wipe(&mut self) {
        self.kill();
        self.directory = Directory::new();
        self.go_on();
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self) -> String {
        format!("etcd://{}", self.address)
    }

    pub(super) fn node(&self, name: &str, flags: &[&str]) -> Daemon {
        let url = self.url();
        let fleet = ["--fleet", &url, "--node", name, "--fleet-lease", "2s", "--admin-listen", "127.0.0.1:0"];
        self.daemon(&[&fleet[..], flags].concat())
    }

    pub(super) fn daemon(&self, flags: &[&str]) -> Daemon {
        Daemon::start_permitted(flags, &self.permit)
    }

    /// A request over etcd's HTTP gateway.
    pub(super) fn ask(&self, path: &str, headers: &str, body: &str) -> admin::Answer {
        let stream = TcpStream::connect(self.address).expect("etcd accepts");
        admin::exchange(stream, admin::request("POST", path, headers, body).as_bytes())
    }

    /// From now on the user is `root`, with the password `secret`.
    pub(super) fn ask_for_password(&self) {
        for (path, body) in [
            ("/v3/auth/user/add", ROOT),
            ("/v3/auth/role/add", r#"{"name":"root"}"#),
            ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("/v3/auth/enable", "{}"),
        ] {
            let answer = self.ask(path, "", body);
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }
}

/// The members that a node shows, by group: group, address, and whether they are quiesced.
pub(super) fn members(daemon: &Daemon) -> Vec<(String, String, bool)> {
    let page = read(daemon, "/api/v1/members");
    let rows = page["members"].as_array().expect("rows").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut members: Vec<_> =
        rows.map(|row| (text(&row["group"]), text(&row["address"]), row["quiesced"] == true)).collect();
    members.sort_by(|one, other| one.0.cmp(&other.0));
    members
}
