//! The OpenAPI document against the daemon: schemathesis makes requests by it, good and bad, and checks every answer.

use std::process::Command;

use super::start;
use crate::harness::{LB, python};

#[test]
fn every_answer_is_as_the_document_says() {
    let daemon = start(&["--probe", "tcp", "--probe-interval", "50ms"]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80", "127.0.0.1:1", "127.0.0.1:2/udp"]);
    let base = daemon.admin()[0].trim_end_matches('/').to_owned();
    let output = Command::new(python("st"))
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .args(["run", &format!("{base}/api/v1/openapi.json"), "--checks", "all"])
        // A stream has no end; the token is not needed here.
        .args(["--exclude-path", "/api/v1/events", "--exclude-checks", "ignored_auth"])
        .args(["--max-examples", "30", "--seed", "1", "--no-color", "--generation-database", "none"])
        .args(["--suppress-health-check", "all", "--request-timeout", "30", "--max-failures", "5"])
        .output()
        .unwrap_or_else(|error| panic!("schemathesis: {error}: tests/run installs it"));
    let words = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&words));
    assert!(daemon.log().contains("operator: "), "writes were tried");
    daemon.stop();
}
