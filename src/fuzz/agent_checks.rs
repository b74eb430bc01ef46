//! What load balancers ask by agent-checks.

use crate::agent_checks::{REQUEST_BYTES, Request, read};

/// Any request is read or refused; once it is whole, more bytes do not change it, and the end of the bytes makes it whole.
pub fn agent_check_request(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(REQUEST_BYTES)];
    let mut whole = None;
    for end in 0..=bytes.len() {
        match (read(&bytes[..end], false), &whole) {
            (Request::Unfinished { .. }, None) => {}
            (request, None) => whole = Some(request),
            (request, Some(first)) => assert_eq!(request, *first),
        }
    }
    let ended = read(bytes, true);
    assert!(!matches!(ended, Request::Unfinished { .. }));
    if let Some(whole) = whole {
        assert_eq!(ended, whole);
    }
    if let Request::Question(question) = ended {
        assert!((1..=255).contains(&question.member.len()));
    }
}
