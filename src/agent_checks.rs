//! The agent-checks that load balancers make of the daemon: what they ask, and the answer from the weights.
//!
//! HAProxy sends what its `agent-send` says, and reads one line. Kemp's load balancers ask by HTTP and read one number.

use std::{collections::HashMap, net::SocketAddr};

use percent_encoding::percent_decode;

use crate::sasp::{Endpoint, EntryFlags, Standing, WeightEntry, component::TCP};

/// The longest request.
pub const REQUEST_BYTES: usize = 4096;

/// The longest name of a group, and the longest label: SASP has no longer ones.
const NAME_BYTES: usize = u8::MAX as usize;

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One line, as HAProxy reads it.
    Line,
    /// An HTTP response with one number.
    Http,
}

/// Where the asked member is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a group of this name.
    Group(Box<[u8]>),
    /// In any group.
    Endpoint(Endpoint),
}

/// The asked member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where it is.
    pub place: Place,
    /// Its label, or its address and port.
    pub member: Box<[u8]>,
    /// How to answer.
    pub style: Style,
}

/// What the bytes of a request are so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// There may be more. `is_key`: what is there may be a whole one, too.
    Unfinished {
        /// It has bytes, and is no HTTP.
        is_key: bool,
    },
    /// A whole one.
    Question(Question),
    /// Not a request.
    Wrong(Style),
}

/// Reads a request. `ended`: no more bytes will come. A key need not end with a line feed, because HAProxy's command line
/// can not send one.
pub fn read(bytes: &[u8], ended: bool) -> Request {
    const GET: &[u8] = b"GET ";
    let is_http = bytes.starts_with(GET);
    let has_end = |end: &[u8]| bytes.windows(end.len()).any(|window| window == end);
    let whole = match is_http {
        true => has_end(b"\r\n\r\n") || has_end(b"\n\n"),
        false => bytes.contains(&b'\n'),
    };
    if !whole && !ended && bytes.len() < REQUEST_BYTES {
        return Request::Unfinished { is_key: !bytes.is_empty() && !is_http && !GET.starts_with(bytes) };
    }
    let style = if is_http { Style::Http } else { Style::Line };
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    let question = match is_http {
        true => key_of_path(line).and_then(|key| question(&key, style)),
        false => question(line, style),
    };
    question.map_or(Request::Wrong(style), Request::Question)
}

/// The key in `GET /load/KEY HTTP/1.1`, or `GET /load?KEY HTTP/1.1`.
fn key_of_path(line: &[u8]) -> Option<Vec<u8>> {
    let path = line.split(|byte| *byte == b' ').nth(1)?;
    let key = path.strip_prefix(b"/load/").or_else(|| path.strip_prefix(b"/load?"))?;
    Some(percent_decode(key).collect())
}

fn question(key: &[u8], style: Style) -> Option<Question> {
    let address = |text: &[u8]| str::from_utf8(text).ok()?.parse::<SocketAddr>().ok();
    if let Some(address) = address(key) {
        let endpoint = Endpoint::new(address.ip(), TCP, address.port());
        return Some(Question { place: Place::Endpoint(endpoint), member: name(&endpoint), style });
    }
    let at = key.iter().rposition(|byte| *byte == b'/')?;
    let (group, member) = (&key[..at], &key[at + 1..]);
    let is_name = |name: &[u8]| (1..=NAME_BYTES).contains(&name.len());
    (is_name(group) && is_name(member)).then(|| Question {
        place: Place::Group(group.into()),
        member: member.into(),
        style,
    })
}

/// The name of an endpoint in a question.
fn name(endpoint: &Endpoint) -> Box<[u8]> {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port).to_string().into_bytes().into()
}

/// What a load balancer does with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Gives it so many percent of its weight: 100 for the heaviest member of the group, 0 for none.
    Percent(u8),
    /// Gives it no new work; what it has goes on, and who is bound to it by a cookie may come back.
    Drain,
    /// Gives it nothing at all, and takes it for down on purpose.
    Maint,
    /// Takes it for down.
    Down,
}

/// The members of a group by what they may be asked by: labels, and addresses with ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(HashMap<Box<[u8]>, State>);

impl Members {
    /// The members of one group. If two have a label in common, the first has it.
    pub fn new(members: &[(Endpoint, Box<[u8]>, WeightEntry)]) -> Members {
        let standings = Standing::of_group(members.iter().map(|(_, _, entry)| *entry));
        let weight = |standing: &Standing| if let Standing::Serving(weight) = standing { *weight } else { 0 };
        let heaviest = u32::from(standings.iter().map(weight).max().unwrap_or(0).max(1));
        let mut all = HashMap::with_capacity(members.len() * 2);
        for ((endpoint, label, entry), standing) in members.iter().zip(standings) {
            let state = match standing {
                Standing::Serving(weight) => {
                    let percent = (u32::from(weight) * 100 + heaviest / 2) / heaviest;
                    State::Percent(u8::try_from(percent).unwrap_or(100).clamp(1, 100))
                }
                Standing::Usual => State::Percent(100),
                Standing::Idle => State::Percent(0),
                // What a member has can go on only while the member is there.
                Standing::Quiesced if entry.flags.contains(EntryFlags::CONTACT) => State::Drain,
                Standing::Quiesced => State::Maint,
                Standing::Down => State::Down,
            };
            if !label.is_empty() {
                all.entry(label.clone()).or_insert(state);
            }
            if endpoint.protocol == TCP {
                all.entry(name(endpoint)).or_insert(state);
            }
        }
        Members(all)
    }

    /// What is so of a member; `None` if the group has no such member.
    pub fn state(&self, member: &[u8]) -> Option<State> {
        self.0.get(member).copied()
    }
}

/// The bytes of an answer; `None` is no such member. To a line there is no answer then: HAProxy keeps the last state.
pub fn answer(style: Style, state: Option<State>) -> Vec<u8> {
    match (style, state) {
        (Style::Line, None) => Vec::new(),
        // `ready` and `up` end what an earlier answer said.
        (Style::Line, Some(State::Percent(percent))) => format!("ready up {percent}%\n").into_bytes(),
        (Style::Line, Some(State::Drain)) => b"drain\n".into(),
        (Style::Line, Some(State::Maint)) => b"maint\n".into(),
        (Style::Line, Some(State::Down)) => b"down\n".into(),
        (Style::Http, None) => response("404 Not Found", "no such member\n"),
        (Style::Http, Some(State::Percent(percent))) => response("200 OK", &format!("{}\n", 100 - percent.min(100))),
        (Style::Http, Some(State::Down)) => response("200 OK", "101\n"),
        (Style::Http, Some(State::Drain | State::Maint)) => response("200 OK", "102\n"),
    }
}

fn response(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "Content-Type: text/plain\r\nConnection: close";
    format!("HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasp::EntryFlags;

    fn asked(bytes: &[u8], ended: bool) -> (Place, String, Style) {
        match read(bytes, ended) {
            Request::Question(Question { place, member, style }) => {
                (place, String::from_utf8(member.into()).unwrap(), style)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_by_line_by_end_and_by_http() {
        let group = |name: &str| Place::Group(name.as_bytes().into());
        assert_eq!(asked(b"web/s1\n", false), (group("web"), "s1".into(), Style::Line));
        assert_eq!(asked(b"a/b/s1\r\nrest", false), (group("a/b"), "s1".into(), Style::Line));
        assert_eq!(asked(b"web/s1", true), (group("web"), "s1".into(), Style::Line));
        assert_eq!(asked(b"web/[::1]:80\n", false), (group("web"), "[::1]:80".into(), Style::Line));
        let endpoint = Place::Endpoint(Endpoint::new("10.0.0.1".parse().unwrap(), TCP, 80));
        assert_eq!(asked(b"10.0.0.1:80\n", false), (endpoint.clone(), "10.0.0.1:80".into(), Style::Line));
        let http = b"GET /load/web/s%31 HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(asked(http, false), (group("web"), "s1".into(), Style::Http));
        assert_eq!(asked(b"GET /load?10.0.0.1:80 HTTP/1.0\n\n", false), (endpoint, "10.0.0.1:80".into(), Style::Http));
        for end in 1..http.len() {
            assert_eq!(read(&http[..end], false), Request::Unfinished { is_key: false }, "{end}");
        }
        assert_eq!(read(b"", false), Request::Unfinished { is_key: false });
        assert_eq!(read(b"web/s1", false), Request::Unfinished { is_key: true });
        let long = [b'x'; NAME_BYTES + 1];
        let (long_group, long_label) = ([&long[..], b"/s1\n"].concat(), [b"web/", &long[..], b"\n"].concat());
        for wrong in [&b"\n"[..], b"web\n", b"/s1\n", b"web/\n", &long_group, &long_label] {
            assert_eq!(read(wrong, false), Request::Wrong(Style::Line));
        }
        let longest = [b"web/", &long[1..], b"\n"].concat();
        assert!(matches!(read(&longest, false), Request::Question(_)));
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n", false), Request::Wrong(Style::Http));
        assert_eq!(read(b"", true), Request::Wrong(Style::Line));
        assert_eq!(read(&[b'a'; REQUEST_BYTES], false), Request::Wrong(Style::Line));
    }

    #[test]
    fn literal_answers() {
        let member = |host: u8, label: &str, flags, weight| {
            let entry = WeightEntry { state: 0, flags: EntryFlags(flags), weight };
            (Endpoint::new([10, 0, 0, host].into(), TCP, 80), label.as_bytes().into(), entry)
        };
        let group = [
            member(1, "s1", 0x0D, 40),
            member(2, "s2", 0x0D, 30),
            member(3, "s3", 0x0D, 0),
            member(4, "s1", 0x0C, 9),
            member(5, "", 0x0F, 9),
            member(6, "low", 0x0D, 1),
            member(7, "gone", 0x0E, 9),
        ];
        let members = Members::new(&group);
        let line = |name: &str| String::from_utf8(answer(Style::Line, members.state(name.as_bytes()))).unwrap();
        assert_eq!(line("s1"), "ready up 100%\n");
        assert_eq!(line("s2"), "ready up 75%\n");
        assert_eq!(line("10.0.0.3:80"), "ready up 0%\n");
        assert_eq!(line("10.0.0.4:80"), "down\n");
        assert_eq!(line("10.0.0.5:80"), "drain\n");
        assert_eq!(line("low"), "ready up 3%\n");
        assert_eq!(line("gone"), "maint\n");
        assert_eq!(line("s9"), "");
        let unsure = Members::new(&[member(1, "s1", 0x05, 40), member(2, "s2", 0x05, 1)]);
        assert_eq!(unsure.state(b"s2"), Some(State::Percent(100)));
        let http = |name: &str| String::from_utf8(answer(Style::Http, members.state(name.as_bytes()))).unwrap();
        assert!(http("s2").ends_with("\r\nContent-Length: 3\r\n\r\n25\n"), "{}", http("s2"));
        assert!(http("10.0.0.4:80").ends_with("\r\n\r\n101\n") && http("10.0.0.5:80").ends_with("\r\n\r\n102\n"));
        assert!(http("gone").ends_with("\r\n\r\n102\n"));
        assert!(http("s9").starts_with("HTTP/1.1 404 "));
    }
}
