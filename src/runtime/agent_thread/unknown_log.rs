//! The log of checks that ask for what the daemon does not know: a load balancer asks again and again, so one line a minute
//! says it.

use std::time::{Duration, Instant};

use crate::{
    agent_checks::{Place, Question},
    sasp::Escaped,
};

/// From one line to the next.
const INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct UnknownLog {
    next_at: Option<Instant>,
    /// Checks since the last line.
    unsaid: u64,
}

impl UnknownLog {
    /// Notes a check; gives the line, if it is time for one.
    pub(super) fn note(&mut self, question: &Question, lb: Option<&[u8]>, now: Instant) -> Option<String> {
        if self.next_at.is_some_and(|at| now < at) {
            self.unsaid += 1;
            return None;
        }
        self.next_at = Some(now + INTERVAL);
        let of_lb = lb.map_or_else(String::new, |uid| format!(" of load balancer \"{}\"", Escaped(uid)));
        let member = Escaped(&question.member);
        let key = match &question.place {
            Place::Group(group) => {
                format!("\"{}/{member}\": no group{of_lb} with this name has this member", Escaped(group))
            }
            Place::Endpoint(_) => format!("\"{member}\": no group{of_lb} has this member"),
        };
        let more = match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            unsaid => format!(" ({unsaid} more checks had no answer since the last such line)"),
        };
        Some(format!(
            "an agent-check asks for {key}. It gets no answer: register the member (gwm lb register, gwm member \
             register), or ask for GROUP/LABEL or ADDRESS:PORT as `gwm status members` shows them{more}"
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
}
