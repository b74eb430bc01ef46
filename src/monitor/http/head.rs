//! The head of an answer: its status, and the fields that count. Other fields are only told apart: a fault in one of them
//! is no reason to call a server down that its clients can use.

use std::borrow::Cow;

/// Codings of a body on its way.
const CODINGS: [&str; 9] = ["chunked", "identity", "gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"];

/// The head of an answer.
pub(super) struct Head<'a> {
    pub(super) status: u16,
    /// The body comes in chunks.
    pub(super) chunked: bool,
    /// The length of the body, if it is stated and can be counted.
    pub(super) length: Option<u64>,
    /// The lines after the status line.
    fields: &'a [u8],
}

impl<'a> Head<'a> {
    /// Reads a whole head; `None` if neither curl nor HAProxy takes it for one.
    pub(super) fn parse(head: &'a [u8]) -> Option<Head<'a>> {
        let (first, fields) = line(head)?;
        let status = status(first)?;
        let mut rest = fields;
        let mut before = false;
        while let Some((line @ [begin, ..], after)) = line(rest) {
            let folded = matches!(begin, b' ' | b'\t');
            if if folded { !before } else { !line.contains(&b':') } {
                return None;
            }
            (rest, before) = (after, true);
        }
        let mut head = Head { status, chunked: false, length: None, fields };
        if let Some(codings) = head.field("transfer-encoding") {
            let codings: Vec<&[u8]> = codings.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
            let known = |coding: &&[u8]| CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known.as_bytes()));
            codings.iter().all(known).then_some(())?;
            head.chunked = codings.last().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
        }
        if let Some(length) = head.field("content-length") {
            // As in curl: what follows the number does not count, and a number that is too large says nothing.
            let digits = length.strip_prefix(b"+").unwrap_or(&length);
            let digits = digits.get(..digits.iter().take_while(|byte| byte.is_ascii_digit()).count())?;
            (!digits.is_empty()).then_some(())?;
            head.length = std::str::from_utf8(digits).ok()?.parse().ok();
        }
        Some(head)
    }

    /// The value of the first field of this name. A value on several lines (obs-fold) is one value with blanks.
    pub(super) fn field(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let mut rest = self.fields;
        while let Some((first, after)) = line(rest) {
            rest = after;
            let Some(colon) = first.iter().position(|byte| *byte == b':') else { continue };
            let (own, value) = (first.get(..colon)?.trim_ascii_end(), first.get(colon + 1..)?);
            if !own.eq_ignore_ascii_case(name.as_bytes()) {
                continue;
            }
            let mut value = Cow::Borrowed(value.trim_ascii());
            while let Some((more @ [b' ' | b'\t', ..], after)) = line(rest) {
                rest = after;
                value = Cow::Owned([&value, more.trim_ascii()].join(&b' '));
            }
            return Some(value);
        }
        None
    }
}

/// The status of a status line: a version, at least one blank, three digits, and no fourth.
fn status(line: &[u8]) -> Option<u16> {
    let (begin, rest) = line.split_first_chunk::<5>()?;
    begin.eq_ignore_ascii_case(b"HTTP/").then_some(())?;
    let rest = match rest {
        [b'0'..=b'9', b'.', b'0'..=b'9', rest @ ..] | [b'2', rest @ ..] => rest,
        _ => return None,
    };
    let code = rest.trim_ascii_start();
    let (digits, after) = code.split_first_chunk::<3>().filter(|_| code.len() < rest.len())?;
    let status = digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0')))?;
    (status >= 100 && after.first().is_none_or(|byte| !byte.is_ascii_digit())).then_some(status)
}

/// The first line without its end, and what follows; `None` for nothing.
fn line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let line = text.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), text.get(end + 1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_leniently() {
        for line in [
            "HTTP/1.1 200 OK",
            "HTTP/1.0 200",
            "HTTP/1.1 200 ",
            "http/1.2 200 \u{e9}",
            "HTTP/1.1 \t 200  OK",
            "HTTP/2 200x",
        ] {
            assert_eq!(status(line.as_bytes()), Some(200), "{line}");
        }
        for line in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 ",
            "HTTP/1.1 20",
            "HTTP/1.1 2000",
            "HTTP/1.1 2x0 OK",
            "HTTP/1.1 099 OK",
            "HTTP/1.1200 OK",
            "HTTP/1. 200 OK",
            "HTTP/1 200 OK",
            "HTTP/3 200 OK",
            "HTTP/1.10 200 OK",
            "ICY 200 OK",
        ] {
            assert_eq!(status(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_length_of_the_body_is_read_leniently() {
        let read = |fields: &str| {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            Head::parse(head.as_bytes()).map(|head| (head.chunked, head.length))
        };
        for (fields, body) in [
            ("A: b\r\n", (false, None)),
            ("Content-Length: 12\r\n", (false, Some(12))),
            ("Content-Length: 12, 12\r\n", (false, Some(12))),
            ("Content-Length: +12x\r\n", (false, Some(12))),
            ("Content-Length: 99999999999999999999999\r\n", (false, None)),
            ("Transfer-Encoding: gzip, Chunked\r\nContent-Length: 1\r\n", (true, Some(1))),
            ("Transfer-Encoding: identity\r\n", (false, None)),
        ] {
            assert_eq!(read(fields), Some(body), "{fields}");
        }
        for fields in [
            "Content-Length:\r\n",
            "Content-Length: x\r\n",
            "Content-Length: -1\r\n",
            "Transfer-Encoding: what\r\n",
            "no colon\r\n",
            " folded: x\r\n",
        ] {
            assert_eq!(read(fields), None, "{fields}");
        }
    }

    #[test]
    fn a_field_is_found_however_it_is_written() {
        for head in [
            "A: x\r\nload: a b\r\n",
            "A: x\r\nLoad:a b \r\nload: 2\r\n",
            "A:\nLOAD \t:  a b\n",
            "\x01: load: \r\nload: a\r\n\tb\r\nB: c",
            "load:\r\n a\r\n  b  \r\n",
            "load: a\n b",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n");
            let head = Head::parse(head.as_bytes()).unwrap();
            assert_eq!(head.field("Load").map(|value| value.trim_ascii().to_vec()), Some(b"a b".to_vec()));
            assert_eq!(head.field("x"), None);
        }
    }
}
