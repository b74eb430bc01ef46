//! Groups and members as text: on the command line and in TOML files. UIDs, names and labels are bytes;
//! [`escape`](crate::sasp::escape) describes how they are written.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::{
    files::{self, Fault, FileError, Mistake, fault},
    limits,
    sasp::{
        Endpoint, EscapeError, Escaped, GroupData, MemberData,
        component::{TCP, UDP},
        unescape,
    },
};

/// A group and its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSpec {
    /// The group's LB, if the file names one.
    pub lb: Option<Box<[u8]>>,
    /// Its name; 1 to 255 bytes.
    pub name: Box<[u8]>,
    /// Its members, each endpoint once.
    pub members: Vec<MemberSpec>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSpec {
    /// Address, protocol and port.
    pub endpoint: Endpoint,
    /// At most 255 bytes.
    pub label: Box<[u8]>,
}

impl GroupSpec {
    /// The group on the wire; `lb` if the file names no LB.
    pub fn data<'a>(&'a self, lb: &'a [u8]) -> GroupData<'a> {
        GroupData { lb_uid: self.lb.as_deref().unwrap_or(lb), name: &self.name }
    }
}

impl MemberSpec {
    /// The member on the wire.
    pub fn data(&self) -> MemberData<'_> {
        MemberData { endpoint: self.endpoint, label: &self.label }
    }
}

/// Why a text is not a group or a member.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    /// A backslash that begins no escape.
    #[error(transparent)]
    Escape(#[from] EscapeError),
    /// Not an LB UID.
    #[error("{0} bytes: an LB UID has 1 to {max}", max = limits::LB_UID_BYTES)]
    UidSize(usize),
    /// A group without a name.
    #[error("the group name is missing: write NAME=MEMBER,…")]
    NoGroupName,
    /// A group name that does not fit.
    #[error("a group name of {0} bytes: at most {max} fit", max = limits::GROUP_NAME_BYTES)]
    GroupNameSize(usize),
    /// A label that does not fit.
    #[error("a label of {0} bytes: at most {max} fit", max = limits::LABEL_BYTES)]
    LabelSize(usize),
    /// A member twice in a group.
    #[error("{member} stands twice in group {}", Escaped(group))]
    Twice {
        /// The member.
        member: Endpoint,
        /// The group.
        group: Box<[u8]>,
    },
    /// A group twice.
    #[error("group {} is given twice", Escaped(.0))]
    GroupTwice(Box<[u8]>),
    /// Not a member.
    #[error(
        "`{0}` is not a member: write ADDRESS, ADDRESS:PORT or ADDRESS:PORT/PROTOCOL, an IPv6 address with a port in [ ]"
    )]
    NotAMember(String),
    /// An IPv4 address in brackets.
    #[error("`{0}`: only an IPv6 address stands in [ ]")]
    Brackets(String),
    /// A protocol without a port.
    #[error("`{0}` has a protocol but no port; a whole system has neither")]
    NoPort(String),
    /// Not an IP protocol.
    #[error("`{0}` is not a protocol: tcp, udp or 0 to 255")]
    NotAProtocol(String),
    /// A file that can not be used.
    #[error("{0}")]
    File(String),
}

/// An LB UID: 1 to 64 bytes.
pub fn lb_uid(text: &str) -> Result<Box<[u8]>, SpecError> {
    let uid = unescape(text)?;
    match uid.len() {
        1..=limits::LB_UID_BYTES => Ok(uid.into()),
        bytes => Err(SpecError::UidSize(bytes)),
    }
}

/// `web=10.0.0.1:80,[2001:db8::1]:8080/udp,10.0.0.9`; `web` alone has no members. A `=` of the name is written `\x3D`.
pub fn group(text: &str) -> Result<GroupSpec, SpecError> {
    let (name, list) = text.split_once('=').unwrap_or((text, ""));
    let mut group = GroupSpec { lb: None, name: group_name(name)?, members: Vec::new() };
    let mut seen = HashSet::new();
    for member in list.split(',').filter(|_| !list.is_empty()) {
        let endpoint = endpoint(member.trim())?;
        if !seen.insert(endpoint) {
            return Err(SpecError::Twice { member: endpoint, group: group.name });
        }
        group.members.push(MemberSpec { endpoint, label: Box::default() });
    }
    Ok(group)
}

/// A group's name: 1 to 255 bytes.
pub fn group_name(text: &str) -> Result<Box<[u8]>, SpecError> {
    let name = unescape(text)?;
    match name.len() {
        0 => Err(SpecError::NoGroupName),
        1..=limits::GROUP_NAME_BYTES => Ok(name.into()),
        bytes => Err(SpecError::GroupNameSize(bytes)),
    }
}

/// A label: at most 255 bytes.
pub fn label(text: &str) -> Result<Box<[u8]>, SpecError> {
    let label = unescape(text)?;
    match label.len() {
        0..=limits::LABEL_BYTES => Ok(label.into()),
        bytes => Err(SpecError::LabelSize(bytes)),
    }
}

/// A member: `10.0.0.1:80` (TCP), `[2001:db8::1]:53/udp`, `10.0.0.1:7/132` (any IP protocol number), or a whole system:
/// `10.0.0.1`.
pub fn endpoint(text: &str) -> Result<Endpoint, SpecError> {
    let (place, protocol_name) = match text.split_once('/') {
        Some((place, name)) => (place, Some(name)),
        None => (text, None),
    };
    let bare = place.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(place);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        if bare.len() != place.len() && ip.is_ipv4() {
            return Err(SpecError::Brackets(text.into()));
        }
        return match protocol_name {
            None => Ok(Endpoint::new(ip, 0, 0)),
            Some(_) => Err(SpecError::NoPort(text.into())),
        };
    }
    let Ok(place) = place.parse::<SocketAddr>() else { return Err(SpecError::NotAMember(text.into())) };
    Ok(Endpoint::new(place.ip(), protocol(protocol_name.unwrap_or("tcp"))?, place.port()))
}

/// `tcp`, `udp`, or an IP protocol number.
pub fn protocol(name: &str) -> Result<u8, SpecError> {
    match name {
        "tcp" => Ok(TCP),
        "udp" => Ok(UDP),
        number => number.parse().map_err(|_| SpecError::NotAProtocol(number.into())),
    }
}

/// The file's own structure.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    group: Vec<FileGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGroup {
    lb: Option<Spanned<String>>,
    name: Spanned<String>,
    #[serde(default)]
    member: Vec<Spanned<FileMember>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMember {
    address: String,
    protocol: Option<FileProtocol>,
    port: Option<u16>,
    #[serde(default)]
    label: String,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a protocol is \"tcp\", \"udp\" or a number from 0 to 255")]
enum FileProtocol {
    Number(u8),
    Name(String),
}

/// The most bytes of a file of groups: over two million members.
const FILE_BYTES: u64 = 256 << 20;

/// Reads a file of groups; `lb_allowed` says whether a group may name its LB.
pub fn read_file(path: &Path, lb_allowed: bool) -> Result<Vec<GroupSpec>, FileError> {
    let text = files::read(path, "file", FILE_BYTES)?;
    parse_file(&text, lb_allowed).map_err(|mistake| mistake.of(path))
}

fn parse_file(text: &str, lb_allowed: bool) -> Result<Vec<GroupSpec>, Mistake> {
    files::parse(text, |file: File| file.group.into_iter().map(|group| group_spec(group, lb_allowed)).collect())
}

fn group_spec(group: FileGroup, lb_allowed: bool) -> Result<GroupSpec, Fault> {
    let at = group.name.span().start;
    let here = |error: SpecError| (at, error.to_string());
    let lb = match group.lb {
        None => None,
        Some(lb) if !lb_allowed => return fault(lb.span().start, "`lb` is for files of `gwm member`"),
        Some(lb) => Some(lb_uid(lb.get_ref()).map_err(|error| (lb.span().start, error.to_string()))?),
    };
    let name = group_name(group.name.get_ref()).map_err(here)?;
    let mut members = Vec::with_capacity(group.member.len());
    let mut seen = HashSet::with_capacity(group.member.len());
    for member in group.member {
        let at = member.span().start;
        let member = member_spec(member.into_inner()).map_err(|error| (at, error))?;
        if !seen.insert(member.endpoint) {
            return fault(at, SpecError::Twice { member: member.endpoint, group: name }.to_string());
        }
        members.push(member);
    }
    Ok(GroupSpec { lb, name, members })
}

fn member_spec(member: FileMember) -> Result<MemberSpec, String> {
    let ip: IpAddr = member.address.parse().map_err(|_| format!("`{}` is not an IP address", member.address))?;
    let protocol = match member.protocol {
        None => None,
        Some(FileProtocol::Number(number)) => Some(number),
        Some(FileProtocol::Name(name)) => Some(protocol(&name).map_err(|error| error.to_string())?),
    };
    let endpoint = match (protocol, member.port) {
        (None | Some(0), None) => Endpoint::new(ip, 0, 0),
        (Some(_), None) => return Err("a member with a protocol needs a port; a whole system has neither".into()),
        (protocol, Some(port)) => Endpoint::new(ip, protocol.unwrap_or(TCP), port),
    };
    Ok(MemberSpec { endpoint, label: label(&member.label).map_err(|error| error.to_string())? })
}

/// Groups from flags and file together; a group may stand only once for each LB. A file has a group at least.
pub fn combine(flags: &[GroupSpec], file: Option<&Path>, lb_allowed: bool) -> Result<Vec<GroupSpec>, SpecError> {
    let mut groups = flags.to_vec();
    if let Some(path) = file {
        let read = read_file(path, lb_allowed).map_err(|error| SpecError::File(error.to_string()))?;
        if read.is_empty() {
            return Err(SpecError::File(format!("{}: the file has no [[group]]", path.display())));
        }
        groups.extend(read);
    }
    let mut seen = HashSet::new();
    for group in &groups {
        if !seen.insert((&group.lb, &group.name)) {
            return Err(SpecError::GroupTwice(group.name.clone()));
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn members_are_read_as_they_are_shown() {
        for (text, meant) in [
            ("10.0.0.1:80", Endpoint::new(ip("10.0.0.1"), 6, 80)),
            ("10.0.0.1:80/tcp", Endpoint::new(ip("10.0.0.1"), 6, 80)),
            ("[2001:db8::1]:8080/udp", Endpoint::new(ip("2001:db8::1"), 17, 8080)),
            ("10.0.0.1:7/132", Endpoint::new(ip("10.0.0.1"), 132, 7)),
            ("10.0.0.1:0", Endpoint::new(ip("10.0.0.1"), 6, 0)),
            ("10.0.0.1:9/0", Endpoint::new(ip("10.0.0.1"), 0, 9)),
            ("10.0.0.9", Endpoint::new(ip("10.0.0.9"), 0, 0)),
            ("2001:db8::9", Endpoint::new(ip("2001:db8::9"), 0, 0)),
            ("[2001:db8::9]", Endpoint::new(ip("2001:db8::9"), 0, 0)),
            ("::1", Endpoint::new(ip("::1"), 0, 0)),
        ] {
            assert_eq!(endpoint(text), Ok(meant), "{text}");
            assert_eq!(endpoint(&meant.to_string()), Ok(meant), "shown as {meant}");
        }
    }

    #[test]
    fn what_is_not_a_member_is_refused() {
        for bad in [
            "",
            "web",
            "10.0.0",
            "10.0.0.1:",
            "10.0.0.1:65536",
            "10.0.0.1:-1",
            "10.0.0.1/tcp",
            "10.0.0.1:80/",
            "10.0.0.1:80/256",
            "10.0.0.1:80/TCPX",
            "10.0.0.1:80/tcp/udp",
            "2001:db8::1:80:90:1:2:3:4",
            "[2001:db8::1",
            "[10.0.0.1]",
            "[10.0.0.1]:80",
            "10.0.0.1:80 ",
        ] {
            assert!(endpoint(bad).is_err(), "`{bad}` is taken for {:?}", endpoint(bad));
        }
    }

    #[test]
    fn a_group_lists_its_members() {
        let web = group("web=10.0.0.1:80,[2001:db8::1]:8080/udp, 10.0.0.9").unwrap();
        assert_eq!(*web.name, *b"web");
        let endpoints: Vec<_> = web.members.iter().map(|member| member.endpoint.to_string()).collect();
        assert_eq!(endpoints, ["10.0.0.1:80", "[2001:db8::1]:8080/udp", "10.0.0.9"]);
        assert_eq!(group("web").unwrap().members, []);
        assert_eq!(group("web=").unwrap().members, []);
        for bad in ["", "=10.0.0.1", "web=,", "web=10.0.0.1,", "web=10.0.0.1:80,10.0.0.1:80/tcp"] {
            assert!(group(bad).is_err(), "{bad}");
        }
        assert!(group(&"x".repeat(255)).is_ok() && group(&"x".repeat(256)).is_err());
        assert!(lb_uid(&"x".repeat(64)).is_ok() && lb_uid("").is_err() && lb_uid(&"x".repeat(65)).is_err());
    }

    #[test]
    fn uids_names_and_labels_are_bytes() {
        assert_eq!(*lb_uid(r"c\x7F\xFF\x17\\").unwrap(), *b"c\x7F\xFF\x17\\");
        let web = group(r"a\x3D\xFF=10.0.0.1:80").unwrap();
        assert_eq!((&*web.name, web.members.len()), (&b"a=\xFF"[..], 1));
        assert_eq!(*label(r"\0\u{202e}").unwrap(), *"\0\u{202e}".as_bytes());
        assert!(lb_uid(&r"\xFF".repeat(64)).is_ok() && lb_uid(&r"\xFF".repeat(65)).is_err());
        assert!(group_name(&r"\xFF".repeat(255)).is_ok() && group_name(&r"\xFF".repeat(256)).is_err());
        assert!(label(&r"\xFF".repeat(255)).is_ok() && label(&r"\xFF".repeat(256)).is_err());
        for bad in [r"a\z", r"\", r"\x7"] {
            let error = "does not begin with an escape";
            assert!(lb_uid(bad).unwrap_err().to_string().contains(error), "{bad}");
            assert!(group(bad).unwrap_err().to_string().contains(error), "{bad}");
            assert!(label(bad).unwrap_err().to_string().contains(error), "{bad}");
        }
        let text = "[[group]]\nlb = 'c\\x7F\\xFF\\x17\\\\'\nname = '\\xFE'\n[[group.member]]\naddress = '10.0.0.1'\nlabel = '\\xFD'";
        let groups = parse_file(text, true).unwrap();
        assert_eq!(groups[0].data(b"LB1"), GroupData { lb_uid: b"c\x7F\xFF\x17\\", name: b"\xFE" });
        assert_eq!(*groups[0].members[0].label, *b"\xFD");
    }

    #[test]
    fn a_file_lists_groups_with_labels() {
        let text = r#"
            [[group]]
            name = "web"
            [[group.member]]
            address = "10.0.0.1"
            port = 80
            label = "web-1"
            [[group.member]]
            address = "2001:db8::1"
            protocol = "udp"
            port = 53
            [[group.member]]
            address = "10.0.0.9"
            [[group.member]]
            address = "10.0.0.9"
            protocol = 132
            port = 7

            [[group]]
            lb = "LB2"
            name = "empty"
        "#;
        let groups = parse_file(text, true).unwrap();
        let shown: Vec<_> = groups[0].members.iter().map(|m| (m.endpoint.to_string(), &*m.label)).collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.1:80".to_owned(), &b"web-1"[..]),
                ("[2001:db8::1]:53/udp".to_owned(), b""),
                ("10.0.0.9".to_owned(), b""),
                ("10.0.0.9:7/132".to_owned(), b""),
            ]
        );
        assert_eq!((&*groups[1].name, groups[1].members.len()), (&b"empty"[..], 0));
        assert_eq!(groups[1].data(b"LB1").lb_uid, b"LB2");
        assert_eq!(groups[0].data(b"LB1").lb_uid, b"LB1");
        let mistake = Mistake { line: 20, text: "`lb` is for files of `gwm member`".into() };
        assert_eq!(parse_file(text, false).unwrap_err(), mistake);
    }

    #[test]
    fn a_fault_of_a_file_has_its_line() {
        let cases = [
            ("[[group]]\nname = \"web\"\ncolour = 1\n", 3, "unknown field `colour`"),
            ("[[groups]]\nname = \"web\"\n", 1, "unknown field `groups`"),
            ("[[group]]\n", 1, "missing field `name`"),
            ("[[group]]\nname = \"\"\n", 2, "the group name is missing"),
            ("[[group]]\nname = 'a\\z'\n", 2, "`\\z` does not begin"),
            ("[[group]]\nname = \"a\"\nlb = 'a\\z'\n", 3, "`\\z` does not begin"),
            ("[[group]]\nname = 7\n", 2, "invalid type"),
            ("[[group]]\nname = \"w\"\n[[group.member]]\nadress = \"10.0.0.1\"\n", 4, "unknown field `adress`"),
            ("[[group]]\nname = \"w\"\n[[group.member]]\naddress = \"10.0.0\"\n", 3, "`10.0.0` is not an IP"),
            ("[[group]]\nname = \"w\"\n[[group.member]]\naddress = \"10.0.0.1\"\nport = 70000\n", 5, "invalid value"),
            (
                "[[group]]\nname = \"w\"\n[[group.member]]\naddress = \"10.0.0.1\"\nprotocol = \"tcp\"\n",
                3,
                "a member with a protocol needs a port",
            ),
            (
                "[[group]]\nname = \"w\"\n[[group.member]]\naddress = \"10.0.0.1\"\nprotocol = 256\nport = 1\n",
                5,
                "a protocol is",
            ),
            (
                "[[group]]\nname = \"w\"\n[[group.member]]\naddress = \"10.0.0.1\"\n[[group.member]]\naddress = \"10.0.0.1\"\n",
                5,
                "10.0.0.1 stands twice in group w",
            ),
            ("[[group]\n", 1, ""),
        ];
        for (text, line, expected) in cases {
            let mistake = parse_file(text, true).unwrap_err();
            assert!(mistake.line == line && mistake.text.starts_with(expected), "{text:?} gives {mistake}");
        }
    }

    #[test]
    fn a_group_stands_once() {
        let web = group("web").unwrap();
        assert!(combine(&[web.clone(), web.clone()], None, false).is_err());
        let empty = combine(std::slice::from_ref(&web), Some(Path::new("/dev/null")), false).unwrap_err();
        assert_eq!(empty.to_string(), "/dev/null: the file has no [[group]]");
        assert!(combine(&[web.clone(), GroupSpec { lb: Some((*b"LB2").into()), ..web }], None, true).is_ok());
    }
}
