//! What HAProxy answers.

use std::net::IpAddr;

use crate::sasp::{Endpoint, component::TCP};

/// A row of `show servers state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The backend's name.
    pub backend: String,
    /// The server's name, unique in its backend.
    pub name: String,
    /// Address and port; `None` for a UNIX socket, or a name that was not resolved.
    pub endpoint: Option<Endpoint>,
    /// The bits of what someone set, or the configuration says.
    pub admin_state: u32,
    /// The weight in use.
    pub weight: u32,
    /// The weight of the configuration.
    pub own_weight: u32,
}

impl Server {
    /// Whether someone set the state `maint` (bit 0 of HAProxy's `enum srv_admin`).
    pub fn is_in_maintenance(&self) -> bool {
        self.admin_state & 0x01 != 0
    }

    /// Whether someone set the state `drain` (bit 3).
    pub fn is_drained(&self) -> bool {
        self.admin_state & 0x08 != 0
    }
}

/// Separates the answers to many commands: an empty line ends each. `None`: the last one has no end.
pub fn answers(text: &str) -> Option<Vec<String>> {
    let mut answers = Vec::new();
    let mut answer = String::new();
    for line in text.lines() {
        if line.is_empty() {
            answers.push(std::mem::take(&mut answer));
            continue;
        }
        if !answer.is_empty() {
            answer.push('\n');
        }
        answer += line;
    }
    answer.is_empty().then_some(answers)
}

/// The process id in the answer to `show info`.
pub fn process(info: &str) -> Option<String> {
    let id = info.lines().find_map(|line| line.strip_prefix("Pid: "))?;
    id.parse::<u32>().ok().map(|id| id.to_string())
}

/// Reads the answer to `show servers state`: a version, a line of titles, and a row for each server. Rows with names
/// that no configuration can have are left out. The error is the line that does not fit.
pub fn servers(answer: &str) -> Result<Vec<Server>, String> {
    let mut lines = answer.lines();
    let version = lines.next().unwrap_or_default();
    if version != "1" {
        return Err(version.into());
    }
    let titles = lines.next().unwrap_or_default();
    let titles: Vec<&str> = titles.strip_prefix("# ").ok_or(titles)?.split(' ').collect();
    let column =
        |title: &str| titles.iter().position(|other| *other == title).ok_or_else(|| format!("no column {title}"));
    let [backend, name, address, port] = ["be_name", "srv_name", "srv_addr", "srv_port"].map(column);
    let [admin_state, weight, own_weight] = ["srv_admin_state", "srv_uweight", "srv_iweight"].map(column);
    let (backend, name, address, port) = (backend?, name?, address?, port?);
    let (admin_state, weight, own_weight) = (admin_state?, weight?, own_weight?);
    let server = |line: &str| {
        let cells: Vec<&str> = line.split(' ').collect();
        let cell = |at: usize| cells.get(at).copied();
        let ip = cell(address)?.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
        let port = cell(port)?.parse::<u16>().ok()?;
        Some(Server {
            backend: cell(backend)?.into(),
            name: cell(name)?.into(),
            endpoint: ip.filter(|_| port > 0).map(|ip| Endpoint::new(ip, TCP, port)),
            admin_state: cell(admin_state)?.parse().ok()?,
            weight: cell(weight)?.parse().ok()?,
            own_weight: cell(own_weight)?.parse().ok()?,
        })
    };
    let servers = lines.map(|line| server(line).ok_or_else(|| line.to_owned()));
    let usable = |server: &Server| is_name(&server.backend) && is_name(&server.name);
    Ok(servers.collect::<Result<Vec<_>, _>>()?.into_iter().filter(usable).collect())
}

/// Reads the answer to `show backend`: a title, and a name on each line.
pub fn backends(answer: &str) -> impl Iterator<Item = &str> {
    answer.lines().skip(1).filter(|name| is_name(name))
}

/// The bytes that HAProxy allows in names; a command can not break out of them.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// The start of an answer, in one line.
pub(super) fn excerpt(answer: &str) -> String {
    answer.escape_debug().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight \
                          srv_iweight srv_fqdn srv_port\n";

    #[test]
    fn the_state_of_servers() {
        let table = format!(
            "{TITLES}2 web 1 s1 127.0.0.1 2 0 20 10 - 8001\n2 web 2 s:2 ::1 2 9 0 1 - 80\n3 st 1 u - 2 0 1 1 - 0\n\
             3 st 2 n - 0 32 1 1 host.example 80\n3 st 3 z 0.0.0.0 0 0 1 1 - 80\n4 <IN> 1 a 10.0.0.1 0 0 1 1 - 80\n"
        );
        let read = servers(&table).unwrap();
        let shown: Vec<_> = read.iter().map(|s| (&*s.backend, &*s.name, s.endpoint, s.weight, s.own_weight)).collect();
        let endpoint = |ip: &str, port| Some(Endpoint::new(ip.parse().unwrap(), TCP, port));
        let first = ("web", "s1", endpoint("127.0.0.1", 8001), 20, 10);
        let second = ("web", "s:2", endpoint("::1", 80), 0, 1);
        assert_eq!(shown[..2], [first, second]);
        assert_eq!(shown[2..], [("st", "u", None, 1, 1), ("st", "n", None, 1, 1), ("st", "z", None, 1, 1)]);
        assert!(read[1].is_drained() && read[1].is_in_maintenance() && !read[0].is_drained());
        assert_eq!(servers(""), Err(String::new()));
        assert_eq!(servers("2\n# be_name\n"), Err("2".into()));
        assert_eq!(servers("1\n# be_name\n"), Err("no column srv_name".into()));
        for row in ["2 web 1 s1", "2 web 1 s1 127.0.0.1 2 0 -1 10 - 8001", "2 web 1 s1 127.0.0.1 2 0 1 10 - 70000"] {
            assert_eq!(servers(&format!("{TITLES}{row}\n")), Err(row.into()));
        }
    }

    #[test]
    fn an_empty_line_ends_each_answer() {
        assert_eq!(answers("\nNo such server.\n\na\nb\n\n\n").unwrap(), ["", "No such server.", "a\nb", ""]);
        assert_eq!(answers("").unwrap(), [""; 0]);
        assert_eq!(answers("\nhalf\n"), None);
        assert_eq!(process("Name: HAProxy\nPid: 27\n").unwrap(), "27");
        assert_eq!(process("Name: HAProxy\n"), None);
        assert_eq!(backends("# name\nweb\n<HTTPCLIENT>\nst\n").collect::<Vec<_>>(), ["web", "st"]);
    }
}
