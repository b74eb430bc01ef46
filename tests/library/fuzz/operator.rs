//! The entry points of what an operator writes: questions and orders, and the access file.

use gwm::fuzz;

use super::{bytes, pieces, run};

#[cfg(feature = "admin")]
#[test]
fn admin_query() {
    const WORDS: [&str; 18] = [
        "group=",
        "load_balancer=",
        "load_balancer_hex=",
        "address=",
        "port=",
        "protocol=",
        "state=",
        "limit=",
        "after=",
        "&",
        "%5Cx",
        "%FF",
        "10.0.0.1",
        "80",
        "tcp",
        "down",
        "4c",
        "1.2",
    ];
    run(20_000, fuzz::admin_query, |rng| [vec![rng.u8(..)], pieces(rng, &WORDS, 12)].concat());
    run(5_000, fuzz::admin_query, |rng| bytes(rng, 60));
}

#[cfg(feature = "admin")]
#[test]
fn admin_body() {
    const WORDS: [&str; 18] = [
        "{",
        "}",
        "\"reason\":\"r\"",
        ",",
        "\"group\":",
        "\"load_balancer\":",
        "\"load_balancer_hex\":",
        "\"address\":",
        "\"port\":",
        "\"protocol\":",
        "\"weight\":",
        "\"by\":\"me\"",
        "\"expires_in_seconds\":",
        "\"10.0.0.1\"",
        "80",
        "\"\\u0000\"",
        "null",
        "\"4c42\"",
    ];
    run(20_000, fuzz::admin_body, |rng| [vec![rng.u8(..)], pieces(rng, &WORDS, 12)].concat());
    run(5_000, fuzz::admin_body, |rng| {
        let fields = [
            "\"group\":\"web\"",
            "\"address\":\"10.0.0.1\"",
            "\"port\":80",
            "\"weight\":7",
            "\"reason\":\"r\"",
            "\"load_balancer\":\"LB1\"",
            "\"expires_in_seconds\":5",
        ];
        let chosen: Vec<&str> = fields.into_iter().filter(|_| rng.bool()).collect();
        [vec![rng.u8(..)], format!("{{{}}}", chosen.join(",")).into_bytes()].concat()
    });
}

#[test]
fn config_file() {
    const PARTS: [&str; 28] = [
        "hold-time",
        "listen",
        "members",
        "require-tls",
        "shards",
        "agent-lb",
        "check",
        "colour",
        " = ",
        "\n",
        "\"10m\"",
        "[",
        "]",
        ", ",
        "\"127.0.0.1:1\"",
        "1",
        "-1",
        "1.2",
        "true",
        "false",
        "\"",
        "'",
        "'''",
        "{",
        "}",
        "# ",
        "[x]\n",
        "\u{0}é",
    ];
    run(3_000, fuzz::config_file, |rng| pieces(rng, &PARTS, 12));
    // Settings with nothing wrong but their values.
    run(2_000, fuzz::config_file, |rng| {
        const KEYS: [&str; 6] = ["hold-time", "listen", "members", "require-tls", "shards", "agent-lb"];
        const VALUES: [&str; 6] = ["\"1m\"", "[\"[::1]:1\"]", "\"a,b\\u0009\"", "true", "7", "''"];
        let mut text = String::new();
        for key in KEYS {
            if rng.bool() {
                text += &format!("{key} = {}\n", VALUES[rng.usize(..VALUES.len())]);
            }
        }
        text.into_bytes()
    });
}

#[test]
fn access_file() {
    const PARTS: [&str; 30] = [
        "[[lb]]\n",
        "[[member]]\n",
        "uid = \"LB1\"\n",
        "uid = \"LB2\"\n",
        "addresses = [\"10.0.0.1\"]\n",
        "addresses = [\"10.0.0.0/8\", \"::1\"]\n",
        "sources = [\"10.0.0.1\",\n\"2001:db8::/32\"]\n",
        "certificates = [\"a.example\"]\n",
        "certificates = [\"sha256:",
        "00",
        "\"]\n",
        "may = [\"register\", \"state\"]\n",
        "may = []\n",
        "lbs = [\"LB*\"]\n",
        "groups = [\"W?B\"]\n",
        "groups = [",
        "]",
        "\"",
        "\\u00e9",
        "# \n",
        "\n",
        "=",
        "{ uid = \"x\" }",
        "lb = ",
        "member.sources",
        "/",
        "*",
        "-1",
        "'''",
        "\t",
    ];
    run(10_000, fuzz::access_file, |rng| [vec![rng.u8(..)], pieces(rng, &PARTS, 12)].concat());
    // Files with nothing wrong but addresses.
    run(5_000, fuzz::access_file, |rng| {
        let mut file = vec![4]; // both identities are source addresses
        for _ in 0..rng.u8(..6) {
            let length = rng.u32(..34);
            let address = std::net::Ipv4Addr::from_bits(rng.u32(..) & !(u64::from(u32::MAX) >> length) as u32);
            let text = match rng.bool() {
                true => format!("[[lb]]\nuid = \"LB{length}\"\naddresses = [\"{address}/{length}\"]\n"),
                false => format!("[[member]]\nsources = [\"{address}/{length}\"]\nmay = [\"state\"]\n"),
            };
            file.extend(text.bytes());
        }
        file
    });
}
