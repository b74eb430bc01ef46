//! The members file: endpoints whose weight the operator fixed. An error names the file and the line.

use std::{collections::HashMap, io::Read, net::IpAddr, path::Path};

use serde::Deserialize;
use toml::Spanned;

use crate::{
    judgement::Policy,
    roster::{self, Roster},
    sasp::Endpoint,
};

/// The longest members file that is read: a million members, generously written.
const FILE_BYTES: u64 = 256 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    member: Vec<Spanned<Member>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    address: IpAddr,
    protocol: Option<Spanned<Protocol>>,
    port: Option<u16>,
    weight: Spanned<u16>,
    monitor: Monitor,
}

/// A name or a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Protocol {
    Number(i64),
    Name(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Monitor {
    None,
}

/// Reads a members file; the error is one line for the operator.
pub fn read(path: &Path, weight_max: u16) -> Result<HashMap<Endpoint, u16>, String> {
    let failed = |error: std::io::Error| format!("can not read the members file {}: {error}", path.display());
    let mut text = String::new();
    // Not the length that the file system states: a device states none, and a file can grow.
    let bytes = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if bytes as u64 > FILE_BYTES {
        return Err(format!("the members file {} has more than {FILE_BYTES} bytes", path.display()));
    }
    parse(&text, weight_max).map_err(|(line, message)| format!("{}:{line}: {message}", path.display()))
}

/// The roster that fixes these weights and says nothing of other members.
pub fn roster(fixed: HashMap<Endpoint, u16>, weight_max: u16) -> Roster {
    let mut all = Roster::new(roster::Member::unknown(weight_max), Policy::Auto);
    for (endpoint, weight) in fixed {
        all.add(endpoint, roster::Member::fixed(weight));
    }
    all
}

/// Parses the file's text; an error has its line, from 1.
pub fn parse(text: &str, weight_max: u16) -> Result<HashMap<Endpoint, u16>, (usize, String)> {
    let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let file: File = toml::from_str(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        (line(error.span().map_or(0, |span| span.start)), message)
    })?;
    let mut fixed = HashMap::with_capacity(file.member.len());
    for member in file.member {
        let at = member.span().start;
        let member = member.into_inner();
        let Monitor::None = member.monitor;
        let protocol_at = member.protocol.as_ref().map_or(at, |protocol| protocol.span().start);
        let protocol = member.protocol.map(Spanned::into_inner).map(protocol).transpose();
        let protocol = protocol.map_err(|message| (line(protocol_at), message))?;
        let (protocol, port) = match (protocol, member.port) {
            (None, None) => (0, 0),
            (protocol, Some(port)) => (protocol.unwrap_or(crate::sasp::component::TCP), port),
            (Some(0), None) => (0, 0),
            (Some(_), None) => {
                let message = "a member with a protocol needs a port; leave out both to mean the whole system";
                return Err((line(at), message.into()));
            }
        };
        let weight = *member.weight.get_ref();
        if weight > weight_max {
            let message = format!("weight {weight} is over --weight-max {weight_max}");
            return Err((line(member.weight.span().start), message));
        }
        let endpoint = Endpoint::new(member.address, protocol, port);
        if fixed.insert(endpoint, weight).is_some() {
            return Err((line(at), format!("member {endpoint} is listed twice")));
        }
    }
    Ok(fixed)
}

fn protocol(protocol: Protocol) -> Result<u8, String> {
    match protocol {
        Protocol::Number(number) => {
            u8::try_from(number).map_err(|_| format!("protocol {number} is not between 0 and 255"))
        }
        Protocol::Name(name) => match name.as_str() {
            "tcp" => Ok(crate::sasp::component::TCP),
            "udp" => Ok(crate::sasp::component::UDP),
            _ => Err(format!("protocol \"{name}\" is not \"tcp\", \"udp\" or a number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_applications_and_systems() {
        let text = r#"
            [[member]]
            address = "10.0.0.1"
            protocol = "tcp"
            port = 80
            weight = 40
            monitor = "none"

            [[member]]
            address = "2001:db8::1"
            protocol = 132
            port = 7
            weight = 0
            monitor = "none"

            [[member]]
            address = "10.0.0.9"
            weight = 100
            monitor = "none"
        "#;
        let fixed = parse(text, 100).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(fixed.len(), 3);
        assert_eq!(fixed[&Endpoint::new(ip("10.0.0.1"), 6, 80)], 40);
        assert_eq!(fixed[&Endpoint::new(ip("2001:db8::1"), 132, 7)], 0);
        assert_eq!(fixed[&Endpoint::new(ip("10.0.0.9"), 0, 0)], 100);
        assert!(parse("", 100).unwrap().is_empty());
    }

    #[test]
    fn errors_name_their_line() {
        let one = "[[member]]\naddress = \"10.0.0.1\"\nport = 80\nweight = 40\nmonitor = \"none\"\n";
        let cases = [
            (format!("{one}colour = 1\n"), 6, "colour"),
            (format!("{one}\n[member2]\n"), 7, "member2"),
            (one.replace("40", "101"), 4, "--weight-max 100"),
            (one.replace("40", "65536"), 4, "65536"),
            (one.replace("40", "\"x\""), 4, "invalid type"),
            (one.replace("10.0.0.1", "10.0.0"), 2, "IP address"),
            (one.replace("none", "http"), 5, "none"),
            (one.replace("port = 80", "protocol = \"tcp\""), 1, "needs a port"),
            (one.replace("port = 80", "port = 80\nprotocol = \"icmp\""), 4, "icmp"),
            (one.replace("port = 80", "port = 80\nprotocol = 256"), 4, "256"),
            (format!("{one}{one}"), 6, "listed twice"),
            (format!("{one}= 3"), 6, ""),
            (one.replace("weight = 40\n", ""), 1, "weight"),
        ];
        for (text, line, part) in cases {
            let (at, message) = parse(&text, 100).expect_err(&text);
            assert!(message.contains(part), "{text}\n{message}");
            assert_eq!(at, line, "{text}\n{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        assert!(read(Path::new("/nonexistent/members.toml"), 1).unwrap_err().contains("/nonexistent/members.toml"));
    }

    #[test]
    fn a_file_without_end_is_not_read_without_end() {
        assert!(read(Path::new("/dev/zero"), 1).unwrap_err().contains("/dev/zero has more than"));
    }
}
