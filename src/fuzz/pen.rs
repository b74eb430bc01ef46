//! What pen answers.

use crate::{
    connect::pen::{servers, uses_weights},
    sasp::component::TCP,
};

/// Any answer is a table of servers with one row a line, or has a line that does not fit.
pub fn pen_answer(answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    match servers(&text, TCP) {
        Ok(servers) => {
            assert!(servers.len() <= text.lines().count());
            assert!(servers.iter().filter_map(|server| server.endpoint).all(|endpoint| endpoint.port > 0));
        }
        Err(line) => assert!(!line.is_empty() && text.contains(&line)),
    }
    if uses_weights(&text) == Some(true) {
        assert!(text.contains("weight") && text.contains("prio"));
    }
}
