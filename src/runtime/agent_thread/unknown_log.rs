//! The log of checks that get no answer: they ask for what the daemon does not know, or for nothing that it could know. A
//! load balancer asks again and again, so one line a minute for each of the two says it.

use std::time::{Duration, Instant};

use crate::{
    agent_checks::{Place, Question},
    sasp::Escaped,
};

/// From one line to the next.
const INTERVAL: Duration = Duration::from_secs(60);

/// The most bytes of a wrong request that a line shows.
const SHOWN_BYTES: usize = 80;

#[derive(Default)]
pub(super) struct UnknownLog {
    unknown: Lines,
    wrong: Lines,
}

/// Lines of one kind.
#[derive(Default)]
struct Lines {
    next_at: Option<Instant>,
    /// Checks since the last line.
    unsaid: u64,
}

impl Lines {
    /// Notes a check; if it is time for a line, gives the line's end: how many checks had none.
    fn take(&mut self, now: Instant) -> Option<String> {
        if self.next_at.is_some_and(|at| now < at) {
            self.unsaid += 1;
            return None;
        }
        self.next_at = Some(now + INTERVAL);
        Some(match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            unsaid => format!(" ({unsaid} more checks had no answer since the last such line)"),
        })
    }
}

impl UnknownLog {
    /// Notes a check that asks for an unknown member; gives the line, if it is time for one.
    pub(super) fn note(&mut self, question: &Question, lb: Option<&[u8]>, now: Instant) -> Option<String> {
        let more = self.unknown.take(now)?;
        let of_lb = lb.map_or_else(String::new, |uid| format!(" of load balancer \"{}\"", Escaped(uid)));
        let member = Escaped(&question.member);
        let key = match &question.place {
            Place::Group(group) => {
                format!("\"{}/{member}\": no group{of_lb} with this name has this member", Escaped(group))
            }
            Place::Endpoint(_) => format!("\"{member}\": no group{of_lb} has this member"),
        };
        Some(format!(
            "an agent-check asks for {key}. It gets no answer: register the member (gwm lb register, gwm member \
             register), or ask for GROUP/LABEL or ADDRESS:PORT as `gwm status members` shows them{more}"
        ))
    }

    /// Notes a request that is no key; gives the line, if it is time for one.
    pub(super) fn note_wrong(&mut self, request: &[u8], now: Instant) -> Option<String> {
        let more = self.wrong.take(now)?;
        let line = request.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        let shown = Escaped(line.get(..SHOWN_BYTES).unwrap_or(line));
        Some(format!(
            "an agent-check sends \"{shown}\", which is no key. It gets no answer: send GROUP/LABEL or ADDRESS:PORT, in \
             HTTP GET /load/KEY{more}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_checks::{self, Request};

    #[test]
    fn one_line_a_minute_says_what_to_do() {
        let question = |key: &[u8]| match agent_checks::read(key, true) {
            Request::Question(question) => question,
            other => panic!("{other:?}"),
        };
        let (mut log, now) = (UnknownLog::default(), Instant::now());
        let line = log.note(&question(b"web/s\x1b9"), Some(b"LB1"), now).unwrap();
        let begin = r#"an agent-check asks for "web/s\u{1b}9": no group of load balancer "LB1" with this name has this member."#;
        assert!(line.starts_with(begin) && line.contains("gwm lb register"), "{line}");
        for _ in 0..3 {
            assert_eq!(log.note(&question(b"web/s1"), None, now + INTERVAL / 2), None);
        }
        let line = log.note(&question(b"10.0.0.1:80"), None, now + INTERVAL).unwrap();
        assert!(line.contains("\"10.0.0.1:80\": no group has this member") && line.contains("(3 more"), "{line}");
    }

    #[test]
    fn what_is_no_key_has_a_line_of_its_own() {
        let (mut log, now) = (UnknownLog::default(), Instant::now());
        let line = log.note_wrong(b"s\x1b1\r\nrest", now).unwrap();
        assert!(line.starts_with(r#"an agent-check sends "s\u{1b}1", which is no key."#), "{line}");
        assert_eq!(log.note_wrong(b"s1\n", now + INTERVAL / 2), None);
        let line = log.note_wrong(&[b'x'; 4096], now + INTERVAL).unwrap();
        assert!(line.contains(&format!("\"{}\"", "x".repeat(SHOWN_BYTES))) && line.contains("(1 more"), "{line}");
    }
}
