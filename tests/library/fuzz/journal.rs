//! The entry points of the state on disk, of its export, and of the talk about it between two processes.

use gwm::fuzz;

use super::{pieces, run};

#[test]
fn journal_line() {
    const PIECES: [&str; 23] = [
        r#"{"kind":"gwm_state","version":2}"#,
        r#"{"kind":"verdicts","address":"10.0.0.1","protocol":6,"port":80,"by_policy":["#,
        r#"{"contact":true,"confident":true,"weight":40}"#,
        r#"{"contact":true,"confident":false,"level":7}"#,
        r#"{"kind":"load_balancer","uid":"LB1","health":127,"flags":3"#,
        r#","held_until_ms":1700000000000}"#,
        r#"{"kind":"group","load_balancer":"L\\xFF","name":"web","members":["#,
        r#"{"address":"10.0.0.1","protocol":6,"port":80,"by_lb":true}"#,
        r#"{"address":"::1","protocol":0,"port":0,"label":"a'b","by_lb":false,"state":7,"quiesced":true}"#,
        r#"{"kind":"word","number":1,"says":"quiesce","group":"web","reason":"r","by":"b","from":"f","at_ms":5}"#,
        r#"{"kind":"word","number":1,"says":"weight","weight":7,"address":"::ffff:10.0.0.1","reason":"r","by":"","#,
        r#""from":"f","at_ms":18446744073709551615,"expires_at_ms":0}"#,
        "]}",
        "}",
        ",",
        "[",
        "{",
        r#""kind":"#,
        r#""port":"#,
        "65536",
        "-1",
        "null",
        r#""\u0000""#,
    ];
    run(20_000, fuzz::journal_line, |rng| pieces(rng, &PIECES, 5));
}

#[test]
fn journal_row() {
    // Small numbers are kinds, flags and lengths.
    run(50_000, fuzz::journal_row, |rng| {
        let length = [2, 18, 21, 27, 42][rng.usize(..5)] + rng.usize(..40) * usize::from(rng.bool());
        let small = rng.bool();
        (0..length).map(|_| if small && rng.u8(..8) > 0 { rng.u8(..3) } else { rng.u8(..) }).collect()
    });
}

#[test]
fn takeover_packet() {
    const PIECES: [&str; 20] = [
        r#"{"kind":"hello","protocol":"#,
        r#","gwm":"0.1.0""#,
        r#"{"kind":"listeners","listeners":["#,
        r#"{"sasp":"127.0.0.1:3860"}"#,
        r#"{"agent_checks":"[::1]:8080"}"#,
        r#"{"admin":"[fe80::1%3]:1"}"#,
        r#"{"admin_socket":"/run/gwm/admin.sock"}"#,
        r#"],"more":true"#,
        r#"],"more":false"#,
        r#"{"kind":"ready"}"#,
        r#"{"kind":"state"}"#,
        r#"{"kind":"refused","why":"\u0000"}"#,
        r#""why":"x","#,
        ",",
        "}",
        "1",
        "65536",
        "-1",
        "[",
        " ",
    ];
    run(20_000, fuzz::takeover_packet, |rng| pieces(rng, &PIECES, 10));
}
