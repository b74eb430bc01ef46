//! What `gwm agent` reads: the kernel's lists of sockets, its file, questions on its socket, answers of services.

use std::{net::SocketAddr, time::Duration};

use crate::agent::{
    check,
    config::{self, Given},
    connections::{self, Count, Wanted},
    control,
    quiesced::{self, Row},
};

/// Any answer of the kernel is counted or refused, and no more connections are found than fit.
pub fn agent_sockets(bytes: &[u8]) {
    let places: Vec<SocketAddr> = vec![([0, 0, 0, 0], 80).into(), ([127, 0, 0, 1], 0).into()];
    let wanted = [Wanted { places, idle_after: Duration::from_millis(1) }];
    let mut count = Count::new(&wanted);
    if connections::read_answer(bytes, &mut count).is_ok() {
        let found = count.found()[0];
        // A header of 16 bytes, and 24 bytes up to the address.
        assert!(found.all <= bytes.len() as u64 / 40 && found.idle <= found.all);
    }
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        if let Some((_, socket)) = connections::read_line(&line) {
            assert_eq!(socket.ip(), socket.ip().to_canonical());
        }
        let _ = check::process_state(&line);
    }
    if let Some(status) = check::status(bytes) {
        assert!(status <= 999);
    }
}

/// Any text is a file of services, or has a mistake on one of its lines.
pub fn agent_config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match config::parse(&text, &Given::default(), || Err("no interface".into())) {
        Ok(services) => {
            assert!(!services.is_empty());
            for service in services {
                assert!(!service.members.is_empty() && !service.groups.is_empty() && !service.lbs.is_empty());
                assert!(!service.check.kind.needs_place() || !service.places().is_empty());
            }
        }
        Err(mistake) => {
            assert!((1..=text.matches('\n').count() + 1).contains(&mistake.line) && !mistake.text.contains('\n'));
        }
    }
}

/// Any line is a question or not; a question is read as it is written.
pub fn agent_question(bytes: &[u8]) {
    if let Ok(question) = control::parse(&String::from_utf8_lossy(bytes)) {
        let written = serde_json::to_string(&question).expect("texts are written");
        assert_eq!(control::parse(&written).as_ref(), Ok(&question));
    }
}

/// Any text is what a person has quiesced or not, and a reason has one line.
pub fn agent_quiesced(bytes: &[u8]) {
    if let Ok(row) = Row::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(quiesced::line(&row.reason), row.reason);
        let written = serde_json::to_string(&row).expect("texts are written");
        assert_eq!(Row::parse(&written), Ok(row));
    }
}
