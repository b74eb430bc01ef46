//! The body of an answer, to look for something in it.

use super::head::Head;

/// The most bytes of an answer's body that are read, as in HAProxy.
pub const BODY_BYTES: usize = 16 << 10;

/// The body of an answer.
#[derive(Clone, Debug)]
pub(super) struct Body {
    /// The body so far, without the marks of its parts.
    pub(super) content: Vec<u8>,
    /// The position of the next byte of the answer.
    at: usize,
    /// The first byte of the answer that is not read any more.
    limit: usize,
    part: Part,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Content until the connection ends.
    UntilEnd,
    /// So many bytes of content, the last ones.
    Last(u64),
    /// The line with the size of a chunk.
    Size { size: u64, digits: bool, extension: bool },
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// Nothing: the body is whole.
    Nothing,
    /// Nothing: the size of a chunk is missing or no number.
    Broken,
}

/// How far a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes are needed.
    Missing,
    /// The body is whole, or all of it that is read.
    Whole,
    /// The connection ended before the body.
    Closed,
    /// The body does not follow its form.
    Malformed,
}

const SIZE: Part = Part::Size { size: 0, digits: false, extension: false };

impl Body {
    /// The body that follows a head (RFC 9112 section 6.3) at this position of the answer.
    pub(super) fn new(head: &Head<'_>, method: &str, at: usize) -> Body {
        let part = match head.length {
            _ if method == "HEAD" || matches!(head.status, 204 | 304) => Part::Last(0),
            _ if head.chunked => SIZE,
            Some(length) => Part::Last(length),
            None => Part::UntilEnd,
        };
        Body { content: Vec::new(), at, limit: at + BODY_BYTES, part }
    }

    /// Takes all bytes of the answer so far. `ended`: no bytes follow.
    pub(super) fn read(&mut self, bytes: &[u8], ended: bool) -> Progress {
        let read = bytes.get(..bytes.len().min(self.limit)).unwrap_or_default();
        while let Some(rest @ [first, ..]) = read.get(self.at..) {
            let (part, used) = match self.part {
                Part::UntilEnd => (Part::UntilEnd, self.take(rest, u64::MAX)),
                Part::Last(0) => (Part::Nothing, 0),
                Part::Last(left) => {
                    let used = self.take(rest, left);
                    (Part::Last(left - used as u64), used)
                }
                Part::Chunk(0) => (Part::ChunkEnd, 0),
                Part::Chunk(left) => {
                    let used = self.take(rest, left);
                    (Part::Chunk(left - used as u64), used)
                }
                Part::ChunkEnd if *first == b'\n' => (SIZE, 1),
                Part::ChunkEnd if *first == b'\r' => (Part::ChunkEnd, 1),
                Part::ChunkEnd => (Part::Broken, 0),
                Part::Size { size, digits, extension } => (size_line(size, digits, extension, *first), 1),
                Part::Nothing | Part::Broken => break,
            };
            self.part = part;
            self.at += used;
        }
        match self.part {
            Part::Nothing | Part::Last(0) => Progress::Whole,
            Part::Broken => Progress::Malformed,
            _ if bytes.len() >= self.limit => Progress::Whole,
            Part::UntilEnd if ended => Progress::Whole,
            _ if ended => Progress::Closed,
            _ => Progress::Missing,
        }
    }

    /// Takes at most `most` bytes as content; gives how many.
    fn take(&mut self, rest: &[u8], most: u64) -> usize {
        let length = rest.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        self.content.extend_from_slice(rest.get(..length).unwrap_or_default());
        length
    }
}

/// What follows a byte of the line with a chunk's size. The trailer after the last chunk is not read.
fn size_line(size: u64, digits: bool, extension: bool, byte: u8) -> Part {
    match (byte, char::from(byte).to_digit(16)) {
        (b'\n', _) if !digits => Part::Broken,
        (b'\n', _) if size == 0 => Part::Nothing,
        (b'\n', _) => Part::Chunk(size),
        (_, Some(digit)) if !extension => match size.checked_mul(16) {
            Some(size) => Part::Size { size: size + u64::from(digit), digits: true, extension },
            None => Part::Broken,
        },
        (b';' | b' ' | b'\t' | b'\r', _) if digits => Part::Size { size, digits, extension: true },
        _ if extension => Part::Size { size, digits, extension },
        _ => Part::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Progress and content of a body with this head, at once and byte by byte.
    fn read(fields: &str, body: &str, ended: bool) -> (Progress, String) {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let answer = [head.as_bytes(), body.as_bytes()].concat();
        let new = || Body::new(&Head::parse(head.as_bytes()).unwrap(), "GET", head.len());
        let mut whole = new();
        let progress = whole.read(&answer, ended);
        let mut cut = new();
        for end in head.len()..answer.len() {
            cut.read(&answer[..end], false);
        }
        assert_eq!((cut.read(&answer, ended), &cut.content), (progress, &whole.content));
        (progress, String::from_utf8(whole.content).unwrap())
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        use Progress::{Closed, Malformed, Missing, Whole};
        let chunked = "Transfer-Encoding: gzip, Chunked\r\nContent-Length: 1\r\n";
        for (fields, body, ended, progress, content) in [
            ("Content-Length: 5\r\n", "hello and more", false, Whole, "hello"),
            ("Content-Length: 5\r\n", "hell", false, Missing, "hell"),
            ("Content-Length: 5\r\n", "hell", true, Closed, "hell"),
            ("Content-Length: 0\r\n", "", false, Whole, ""),
            ("", "hello", false, Missing, "hello"),
            ("", "hello", true, Whole, "hello"),
            ("", "", true, Whole, ""),
            (chunked, "3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nTrailer: x\r\n", false, Whole, "hello"),
            (chunked, "3\nhel\n00002 \nlo\n0\n", false, Whole, "hello"),
            (chunked, "3\r\nhel\r\n2", false, Missing, "hel"),
            (chunked, "3\r\nhel\r\n2", true, Closed, "hel"),
            (chunked, "3\r\nhello\r\n", false, Malformed, "hel"),
            (chunked, "\r\nhello", false, Malformed, ""),
            (chunked, "x\r\nhello", false, Malformed, ""),
            (chunked, "11111111111111111\r\nhello", false, Malformed, ""),
        ] {
            assert_eq!(read(fields, body, ended), (progress, content.into()), "{fields}{body}");
        }
    }

    #[test]
    fn answers_without_a_body_have_none() {
        for (status, method) in [(204, "GET"), (304, "GET"), (200, "HEAD")] {
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n");
            let mut body = Body::new(&Head::parse(head.as_bytes()).unwrap(), method, head.len());
            assert_eq!(body.read(head.as_bytes(), false), Progress::Whole);
        }
    }

    #[test]
    fn an_endless_body_ends() {
        for (fields, piece) in [("", "hello"), ("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n")] {
            let (progress, content) = read(fields, &piece.repeat(BODY_BYTES / piece.len() - 1), false);
            assert_eq!(progress, Progress::Missing);
            assert!(content.len() <= BODY_BYTES);
            assert_eq!(read(fields, &piece.repeat(BODY_BYTES / piece.len() + 2), false).0, Progress::Whole);
        }
    }
}
