//! What HAProxy answers.

use crate::connect::haproxy::{answers, backends, process, servers, stats};

/// Any answer is taken apart or refused, and no name that is read can end a command.
pub fn haproxy_answer(answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    if let Some(parts) = answers(&text) {
        assert!(parts.len() <= text.lines().count());
        assert!(parts.iter().all(|part| !part.contains("\n\n")));
    }
    if let Some(process) = process(&text) {
        assert!(process.bytes().all(|byte| byte.is_ascii_digit()));
    }
    assert!(backends(&text).all(|name| !name.contains([' ', ';', '/', '\r', '\n', '\\'])));
    assert!(stats(&text).unwrap_or_default().len() <= text.lines().count());
    for server in servers(&text).unwrap_or_default() {
        assert!(server.endpoint.is_none_or(|endpoint| endpoint.port > 0));
        let names = [&server.backend, &server.name];
        assert!(names.iter().all(|name| !name.is_empty() && !name.contains([' ', ';', '/', '\r', '\n', '\\'])));
    }
}
