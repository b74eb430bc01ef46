//! The entry points of what the member's agent reads: the kernel's sockets, its file, its commands.

use gwm::fuzz;

use super::{bytes, pieces, run};

#[test]
fn agent_sockets() {
    const WORDS: [&str; 8] =
        ["0: 0100007F:0050", " 00000000:0000", " 01", " 0A", "00000000000000000000000001000000:0050", ":", " ", "\n"];
    run(20_000, fuzz::agent_sockets, |rng| match rng.u8(..3) {
        0 => pieces(rng, &WORDS, 10),
        1 => {
            format!("{} {}{}", rng.choice(["HTTP/1.1", "1 (a) b)"]).expect("a list"), rng.u16(..), rng.char(..)).into()
        }
        _ => {
            let mut answer = Vec::new();
            for _ in 0..rng.usize(..4) {
                let mut body = bytes(rng, 150);
                if body.len() > 76 && rng.bool() {
                    // Times, and no bytes in flight.
                    body[56..64].fill(0);
                    let rest = body.len() as u16 - 72;
                    body[72..74].copy_from_slice(&rest.saturating_sub(rng.u16(..3)).to_ne_bytes());
                    body[74..76].copy_from_slice(&rng.u16(1..4).to_ne_bytes());
                }
                if let Some([family, state, ..]) = body.first_chunk_mut::<6>() {
                    (*family, *state) = (*rng.choice(&[2, 10, 7]).expect("a list"), rng.u8(..12));
                }
                let length =
                    (16 + body.len() as u32).saturating_add_signed(rng.i32(-1..2) * i32::from(rng.u8(..8) == 0));
                answer.extend(length.to_ne_bytes());
                answer.extend(rng.choice(&[20u16, 20, 20, 2, 3, 9]).expect("a list").to_ne_bytes());
                answer.extend([0; 10]);
                answer.extend(&body);
                answer.resize(answer.len().next_multiple_of(4), 0);
            }
            answer
        }
    });
}

#[test]
fn agent_config() {
    const WORDS: [&str; 14] = [
        "[[service]]\n",
        "group = 'web'\n",
        "group = ['a', 'b']\n",
        "lb = 'LB1'\n",
        "member = 80\n",
        "member = ['10.0.0.1:80', '[::1]:53/udp']\n",
        "member = '10.0.0.9'\n",
        "name = 'x'\n",
        "check = 'http:/'\n",
        "check_interval = '1s'\n",
        "local = '127.0.0.1:8080'\n",
        "opaque_state = 7\n",
        "on_down = 'quiesce'\n",
        "rise = 2\n",
    ];
    run(10_000, fuzz::agent_config, |rng| pieces(rng, &WORDS, 10));
}

#[test]
fn agent_question() {
    const WORDS: [&str; 10] = [
        "{\"ask\":",
        "\"status\"",
        "\"quiesce\"",
        "\"resume\"",
        ",\"service\":",
        "\"web\"",
        "null",
        ",\"reason\":",
        "}",
        "\n",
    ];
    run(20_000, fuzz::agent_question, |rng| pieces(rng, &WORDS, 10));
}

#[test]
fn agent_quiesced() {
    const WORDS: [&str; 9] = [
        "{\"service\":",
        "\"web\"",
        ",\"reason\":",
        "\"a\\nb\"",
        "\"\\u0000\"",
        ",\"since\":",
        "1700000000",
        "-1",
        "}",
    ];
    run(20_000, fuzz::agent_quiesced, |rng| pieces(rng, &WORDS, 10));
    for since in ["0", "1700000000", "18446744073709551615"] {
        fuzz::agent_quiesced(format!("{{\"service\":\"web\",\"reason\":\"a\\nb\",\"since\":{since}}}").as_bytes());
    }
}
