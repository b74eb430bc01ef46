//! HTTP checks: the request, and what its answer means. The status counts, the load report, and the body if the operator
//! says what it must have.
//!
//! Answers are read as clients read them (RFC 9112), not as servers should write them: what curl or HAProxy takes for an
//! answer is one here. Their length is bounded.

mod body;
mod head;
mod request;

pub use body::BODY_BYTES;
pub(crate) use request::authority;
pub use request::request;

use self::{
    body::{Body, Progress},
    head::Head,
};
use super::{
    orca,
    outcome::{Outcome, Reason},
};
use crate::roster::{Content, Http};

/// The longest head that is read, with the heads of interim answers (1xx), in bytes; as in HAProxy.
pub const HEAD_BYTES: usize = 16 << 10;

/// Reads an answer as it arrives.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// Where the current head begins, after the heads of interim answers.
    start: usize,
    /// No end of the head was found before this position.
    searched: usize,
    /// The body, if it counts: then the head was good.
    body: Option<Box<Reading>>,
}

#[derive(Clone, Debug)]
struct Reading {
    /// The outcome if the body has what it must have.
    good: Outcome,
    body: Body,
    /// The text that is looked for does not begin before this byte of the body.
    searched: usize,
}

impl Reader {
    /// The outcome from all bytes of the answer so far; `None` if more bytes are needed. `bytes` must begin with the bytes
    /// of the call before. `ended`: no bytes follow.
    pub fn read(&mut self, bytes: &[u8], ended: bool, http: &Http) -> Option<Outcome> {
        if self.body.is_none()
            && let Some(outcome) = self.head(bytes, ended, http)?
        {
            return Some(outcome);
        }
        let (Some(reading), Some(content)) = (&mut self.body, &http.content) else { return None };
        reading.read(bytes, ended, content)
    }

    /// Reads the head: `None` while a part is missing, `Some(None)` if the body counts, too.
    fn head(&mut self, bytes: &[u8], ended: bool, http: &Http) -> Option<Option<Outcome>> {
        loop {
            // HAProxy takes an answer after empty lines.
            while let Some(b'\r' | b'\n') = bytes.get(self.start)
                && self.start < HEAD_BYTES
            {
                self.start += 1;
            }
            let rest = bytes.get(self.start..).unwrap_or_default();
            let begin = rest.get(..rest.len().min(5)).unwrap_or_default();
            if !b"HTTP/".get(..begin.len()).is_some_and(|wanted| wanted.eq_ignore_ascii_case(begin)) {
                return Some(Some(Outcome::Failed(Reason::Malformed)));
            }
            let Some(end) = self.end(bytes) else {
                return match ended {
                    _ if bytes.len() >= HEAD_BYTES => Some(Some(Outcome::Failed(Reason::Malformed))),
                    true => Some(Some(Outcome::Failed(Reason::Closed))),
                    false => None,
                };
            };
            let Some(head) = Head::parse(bytes.get(self.start..end).unwrap_or_default()) else {
                return Some(Some(Outcome::Failed(Reason::Malformed)));
            };
            // 101 is no interim answer: it would end HTTP on the connection. The request did not ask for that.
            if (100..200).contains(&head.status) && head.status != 101 {
                (self.start, self.searched) = (end, end);
                continue;
            }
            if !http.expect.iter().any(|range| range.contains(&head.status)) {
                return Some(Some(Outcome::Failed(Reason::Status(head.status))));
            }
            // A report that can not be read does not count; the check passes.
            let load = match head.field(orca::HEADER) {
                Some(value) => Some(orca::parse(&value, &http.utilization)),
                None => head.field(orca::BINARY_HEADER).map(|value| orca::binary(&value, &http.utilization)),
            };
            let good = match load {
                Some(Ok(load)) => Outcome::Load(load),
                Some(Err(_)) => Outcome::UnreadLoad,
                None => Outcome::Passed,
            };
            if http.content.is_none() {
                return Some(Some(good));
            }
            let body = Body::new(&head, &http.method, end);
            self.body = Some(Box::new(Reading { good, body, searched: 0 }));
            return Some(None);
        }
    }

    /// The end of the head that begins at `start`: after an empty line.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let from = self.searched.max(self.start);
        let bytes = bytes.get(..bytes.len().min(HEAD_BYTES)).unwrap_or_default();
        let rest = bytes.get(from..).unwrap_or_default();
        let found = rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| {
            match rest.get(at + 1..).unwrap_or_default() {
                [b'\n', ..] => Some(at + 2),
                [b'\r', b'\n', ..] => Some(at + 3),
                _ => None,
            }
        });
        // The last two bytes may be the begin of the empty line.
        self.searched = from.max(bytes.len().saturating_sub(2));
        found.map(|length| from + length)
    }
}

impl Reading {
    fn read(&mut self, bytes: &[u8], ended: bool, content: &Content) -> Option<Outcome> {
        let progress = self.body.read(bytes, ended);
        if let Content::Text(text) = content {
            let rest = self.body.content.get(self.searched..).unwrap_or_default();
            if text.is_empty() || rest.windows(text.len()).any(|part| part == text) {
                return Some(self.good);
            }
            // The last bytes may be the begin of the text.
            self.searched = self.searched.max((self.body.content.len() + 1).saturating_sub(text.len()));
        }
        match progress {
            Progress::Missing => None,
            Progress::Closed => Some(Outcome::Failed(Reason::Closed)),
            Progress::Malformed => Some(Outcome::Failed(Reason::Malformed)),
            Progress::Whole => match content {
                Content::Regex(regex) if regex.is_match(&self.body.content) => Some(self.good),
                _ => Some(Outcome::Failed(Reason::Content)),
            },
        }
    }
}

#[cfg(test)]
mod tests;
