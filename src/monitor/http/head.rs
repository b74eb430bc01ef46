//! The head of an answer: its status, and the fields that count. Whatever does not concern these is not looked at, so a
//! fault there is no reason to call a server down that its clients can use.

use std::borrow::Cow;

/// The head of an answer.
pub(super) struct Head<'a> {
    pub(super) status: u16,
    /// The lines after the status line.
    fields: &'a [u8],
}

impl<'a> Head<'a> {
    /// Reads a whole head; `None` if its first line is no status line of HTTP/1.
    ///
    /// Blanks may stand for one, and the reason and the blank before it may be missing.
    pub(super) fn parse(head: &'a [u8]) -> Option<Head<'a>> {
        let (line, fields) = line(head)?;
        let rest = line.strip_prefix(b"HTTP/1.")?;
        let minor = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let rest = rest.get(minor..).filter(|_| minor > 0)?;
        let code = rest.trim_ascii_start();
        let (digits, after) = code.split_first_chunk::<3>().filter(|_| code.len() < rest.len())?;
        let status = digits.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0'))
        })?;
        (after.first().is_none_or(|byte| !byte.is_ascii_digit()) && status >= 100).then_some(Head { status, fields })
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

    fn status(line: &str) -> Option<u16> {
        Head::parse(format!("{line}\r\nA: b\r\n\r\n").as_bytes()).map(|head| head.status)
    }

    #[test]
    fn a_status_line_is_read_leniently() {
        for line in ["HTTP/1.1 200 OK", "HTTP/1.0 200", "HTTP/1.1 200 ", "HTTP/1.2 200 \u{e9}", "HTTP/1.1 \t 200  OK"] {
            assert_eq!(status(line), Some(200), "{line}");
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
            "HTTP/2 200 OK",
            "HTTP/2.0 200 OK",
            "http/1.1 200 OK",
            "ICY 200 OK",
        ] {
            assert_eq!(status(line), None, "{line}");
        }
    }

    #[test]
    fn a_field_is_found_however_it_is_written() {
        for head in [
            "A: x\r\nload: a b\r\n",
            "A: x\r\nLoad:a b \r\nload: 2\r\n",
            "A\nLOAD \t:  a b\n",
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
