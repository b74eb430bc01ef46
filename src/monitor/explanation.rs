//! Why a check failed, in words that a person can act on: with what was asked for and expected.

use std::{fmt, time::Duration};

use super::outcome::Reason;
use crate::roster::{Check, Content};

/// Why a check failed; shown as `HTTP 503, expected 200-399` or `no answer within 2 s`.
#[derive(Clone, Copy, Debug)]
pub struct Explanation<'a> {
    /// The reason.
    pub reason: Reason,
    /// The check that failed.
    pub check: &'a Check,
    /// The time limit of the check.
    pub timeout: Duration,
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason, self.check) {
            (Reason::Refused, Check::Agent(agent)) => {
                write!(f, "connection refused at the agent's port {}", agent.port)
            }
            (Reason::Refused, _) => f.write_str("connection refused"),
            (Reason::TimedOut, _) => match self.timeout.as_millis() {
                milliseconds if milliseconds.is_multiple_of(1000) => {
                    write!(f, "no answer within {} s", milliseconds / 1000)
                }
                milliseconds => write!(f, "no answer within {milliseconds} ms"),
            },
            (Reason::Closed, Check::Agent(_)) => {
                f.write_str("the agent closed the connection before the end of its line")
            }
            (Reason::Malformed, Check::Agent(_)) => f.write_str("the agent's line can not be read"),
            (Reason::Malformed, Check::Http(_)) => f.write_str("the answer is not HTTP, or too long"),
            (Reason::Malformed, Check::Grpc(_)) => f.write_str("the answer is not gRPC, or too long"),
            (Reason::Status(status), Check::Http(http)) => {
                write!(f, "HTTP {status}, expected ")?;
                for (number, range) in http.expect.iter().enumerate() {
                    let comma = if number == 0 { "" } else { ", " };
                    match range.start() == range.end() {
                        true => write!(f, "{comma}{}", range.start())?,
                        false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
                    }
                }
                Ok(())
            }
            (Reason::Status(status), _) => write!(f, "HTTP {status}, expected 200"),
            (Reason::Content, Check::Http(http)) => match &http.content {
                Some(Content::Text(text)) => write!(f, "the body does not have \"{}\"", text.escape_ascii()),
                Some(Content::Regex(regex)) => write!(f, "the body does not match \"{}\"", regex.as_str()),
                None => self.reason.fmt(f),
            },
            (Reason::Grpc(5), Check::Grpc(grpc)) => {
                write!(f, "the server does not know the service \"{}\" (gRPC status 5)", grpc.service)
            }
            (Reason::NotServing(state), Check::Grpc(grpc)) => {
                match grpc.service.as_str() {
                    "" => f.write_str("the server")?,
                    service => write!(f, "the service \"{service}\"")?,
                }
                match state {
                    0 => f.write_str(" says UNKNOWN"),
                    2 => f.write_str(" says NOT_SERVING"),
                    3 => f.write_str(" says SERVICE_UNKNOWN"),
                    other => write!(f, " says the unknown state {other}"),
                }
            }
            _ => self.reason.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use regex::bytes::Regex;

    use super::*;
    use crate::{
        monitor::TlsFault,
        roster::{AgentCheck, Grpc, Http},
    };

    #[test]
    fn failures_say_what_was_expected() {
        let http =
            |content| Check::Http(Arc::new(Http { expect: vec![200..=299, 302..=302], content, ..Http::default() }));
        let text = || http(Some(Content::Text(b"ready".to_vec())));
        let regex = || http(Some(Content::Regex(Regex::new("^ok").unwrap())));
        let grpc = |service: &str| Check::Grpc(Arc::new(Grpc { service: service.into(), ..Grpc::default() }));
        let agent = || Check::Agent(Arc::new(AgentCheck { port: 9777, send: Vec::new() }));
        for (reason, check, words) in [
            (Reason::Refused, Check::Tcp, "connection refused"),
            (Reason::Refused, agent(), "connection refused at the agent's port 9777"),
            (Reason::TimedOut, Check::Icmp, "no answer within 1500 ms"),
            (Reason::Closed, agent(), "the agent closed the connection before the end of its line"),
            (Reason::Malformed, agent(), "the agent's line can not be read"),
            (Reason::Malformed, http(None), "the answer is not HTTP, or too long"),
            (Reason::Malformed, grpc(""), "the answer is not gRPC, or too long"),
            (Reason::Status(503), http(None), "HTTP 503, expected 200-299, 302"),
            (Reason::Status(502), grpc(""), "HTTP 502, expected 200"),
            (Reason::Content, text(), "the body does not have \"ready\""),
            (Reason::Content, regex(), "the body does not match \"^ok\""),
            (Reason::Grpc(5), grpc("a.B"), "the server does not know the service \"a.B\" (gRPC status 5)"),
            (Reason::NotServing(2), grpc("a.B"), "the service \"a.B\" says NOT_SERVING"),
            (Reason::NotServing(0), grpc(""), "the server says UNKNOWN"),
            (Reason::NotServing(3), grpc("a.B"), "the service \"a.B\" says SERVICE_UNKNOWN"),
            (Reason::NotServing(9), grpc(""), "the server says the unknown state 9"),
            (Reason::Tls(TlsFault::Expired(3 * 86_400)), http(None), "the member's certificate has expired 3 days ago"),
            (Reason::Unreachable, Check::Tcp, "the member's host can not be reached"),
        ] {
            let explanation = Explanation { reason, check: &check, timeout: Duration::from_millis(1500) };
            assert_eq!(explanation.to_string(), words);
        }
        let timed_out = Explanation { reason: Reason::TimedOut, check: &Check::Tcp, timeout: Duration::from_secs(2) };
        assert_eq!(timed_out.to_string(), "no answer within 2 s");
    }
}
