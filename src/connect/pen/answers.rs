//! What pen answers.

use std::net::IpAddr;

use crate::sasp::Endpoint;

/// A row of pen's table of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its index. Pen makes a server of each index that a command names, so only listed ones may be named.
    pub index: u32,
    /// Address and port; `None` for an empty row, or one that is no address.
    pub endpoint: Option<Endpoint>,
    /// Open connections.
    pub connections: u64,
    /// Bytes to the server (`sx`), and from it (`rx`), since pen's start.
    pub bytes: (Option<u64>, Option<u64>),
    /// Its weight; pen shows what it was told, unchecked.
    pub weight: i64,
}

/// Reads the answer to `servers`:
/// `0 addr 127.0.0.1 port 9101 conn 0 max 0 hard 0 weight 30 prio 0 sx 0 rx 0`. The error is the line that does not fit.
pub fn servers(answer: &str, protocol: u8) -> Result<Vec<Server>, String> {
    let lines = answer.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| server(line, protocol).ok_or_else(|| line.chars().take(100).collect())).collect()
}

fn server(line: &str, protocol: u8) -> Option<Server> {
    let mut words = line.split_whitespace();
    let index = words.next()?.parse().ok()?;
    let (mut address, mut port, mut connections, mut weight) = (None, None, None, None);
    let mut bytes = (None, None);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        match name {
            "addr" => address = Some(value),
            "port" => port = Some(value.parse::<u16>().ok()?),
            "conn" => connections = Some(value.parse::<i64>().ok()?),
            "weight" => weight = Some(value.parse().ok()?),
            "sx" => bytes.0 = value.parse().ok(),
            "rx" => bytes.1 = value.parse().ok(),
            _ => {}
        }
    }
    let ip = address?.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
    let endpoint = ip.zip(port).filter(|(_, port)| *port > 0).map(|(ip, port)| Endpoint::new(ip, protocol, port));
    Some(Server { index, endpoint, connections: connections?.try_into().unwrap_or(0), bytes, weight: weight? })
}

/// Whether pen chooses servers by weight, from the answer to `mode`: `no hash no roundrobin no stubborn weight no prio`.
/// `prio` goes before `weight`. `None`: that is no answer to `mode`.
pub fn uses_weights(answer: &str) -> Option<bool> {
    let (mut weight, mut prio) = (None, None);
    let mut words = answer.split_whitespace();
    while let Some(word) = words.next() {
        let (name, on) = if word == "no" { (words.next()?, false) } else { (word, true) };
        match name {
            "weight" => weight = Some(on),
            "prio" => prio = Some(on),
            _ => {}
        }
    }
    Some(weight? && !prio?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasp::component::{TCP, UDP};

    #[test]
    fn the_table_of_servers() {
        let answer = "0 addr 127.0.0.1 port 9101 conn 3 max 0 hard 0 weight 30 prio 0 sx 12 rx 7\n\
                      2 addr fd00::1 port 53 conn 0 max 0 hard 0 weight -4 prio 0 sx 0 rx -1\n\
                      3 addr 0.0.0.0 port 0 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n";
        let tcp = |ip: &str, port| Some(Endpoint::new(ip.parse().unwrap(), TCP, port));
        let read = servers(answer, TCP).unwrap();
        let bytes = (Some(12), Some(7));
        assert_eq!(read[0], Server { index: 0, endpoint: tcp("127.0.0.1", 9101), connections: 3, bytes, weight: 30 });
        let bytes = (Some(0), None);
        assert_eq!(read[1], Server { index: 2, endpoint: tcp("fd00::1", 53), connections: 0, bytes, weight: -4 });
        let bytes = (Some(0), Some(0));
        assert_eq!(read[2], Server { index: 3, endpoint: None, connections: 0, bytes, weight: 0 });
        assert_eq!(read.len(), 3);
        assert_eq!(servers(answer, UDP).unwrap()[0].endpoint.unwrap().protocol, UDP);
        assert_eq!(servers("", TCP), Ok(vec![]));
        for bad in ["do_cmd: ignoring command starting with 'servers'\n", "0 addr 10.0.0.1\n", "-1 addr 10.0.0.1\n"] {
            assert_eq!(servers(bad, TCP), Err(bad.trim().to_owned()));
        }
    }

    #[test]
    fn weights_count_in_one_mode_only() {
        assert_eq!(uses_weights("no hash no roundrobin no stubborn weight no prio\n"), Some(true));
        assert_eq!(uses_weights("no hash roundrobin no stubborn no weight no prio\n"), Some(false));
        assert_eq!(uses_weights("no hash roundrobin no stubborn weight prio\n"), Some(false));
        assert_eq!(uses_weights(""), None);
        assert_eq!(uses_weights("weight no"), None);
    }
}
