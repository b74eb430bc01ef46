//! `gwm decode` on hexadecimal input, raw input and captures: its output and its exit status.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
};

use crate::captures::{ACK, Capture, FIN, RST, SYN, enhanced_packet, ethernet, pcapng_start};

/// Three messages, 18, 23 and 18 bytes.
const REPLY: &[u8] = b"\x20\x10\0\x0D\x01\0\0\0\x12\0\0\0\x07\x10\x15\0\x05\x40";
const STATE: &[u8] = b"\x20\x10\0\x0D\x01\0\0\0\x17\0\0\0\x08\x10\x50\0\x0A\x03LB\"\x7F\x03";
const LAST: &[u8] = b"\x20\x10\0\x0D\x01\0\0\0\x12\0\0\0\x09\x10\x25\0\x05\0";

const REPLY_TEXT: &str = "Registration Reply (0x1015), id 0x00000007, version 1, 18 bytes\n  \
                          return code: 0x40 (member already registered)\n";
const STATE_TEXT: &str = "Set LB State Request (0x1050), id 0x00000008, version 1, 23 bytes\n  LB UID: \"LB\\\"\"\n  \
                          health: 0x7F (best)\n  flags: 0x03 (push, trust)\n";
const LAST_TEXT: &str = "Deregistration Reply (0x1025), id 0x00000009, version 1, 18 bytes\n  \
                         return code: 0x00 (successful)\n";

struct Run {
    status: i32,
    out: String,
    err: String,
}

fn gwm(args: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gwm"))
        .arg("decode")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The inputs here are smaller than a pipe holds.
    let _ = child.stdin.take().unwrap().write_all(input); // the command may have refused its arguments
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn client() -> SocketAddr {
    "10.0.0.1:5000".parse().unwrap()
}

fn server() -> SocketAddr {
    "10.0.0.2:3860".parse().unwrap()
}

fn stream() -> Vec<u8> {
    [REPLY, STATE, LAST].concat()
}

#[test]
fn raw_and_hexadecimal_input_from_standard_input_or_a_file() {
    let expected = format!("at byte 0: {REPLY_TEXT}at byte 18: {STATE_TEXT}at byte 41: {LAST_TEXT}");
    let hex: String = stream().iter().map(|byte| format!("{byte:02x} ")).collect();
    for (format, input) in [("raw", stream()), ("hex", hex.into_bytes())] {
        for args in [&["-"][..], &[], &["--format", format], &["--format=auto"]] {
            let run = gwm(args, &input);
            assert_eq!((run.status, &run.out, &*run.err), (0, &expected, ""), "{format} {args:?}");
        }
        let file = format!("{}/decode-{format}-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        std::fs::write(&file, &input).unwrap();
        let run = gwm(&[&file], b"");
        assert_eq!((run.status, run.out), (0, expected.clone()));
        std::fs::remove_file(&file).unwrap();
    }
}

#[test]
fn json_is_one_object_a_line() {
    let run = gwm(&["--json"], &stream());
    let lines: Vec<&str> = run.out.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"offset":0,"message":"Registration Reply","message_type":4117,"version":1,"id":7,"length":18,"return_code":{"code":64,"name":"member already registered"}}"#,
            r#"{"offset":18,"message":"Set LB State Request","message_type":4176,"version":1,"id":8,"length":23,"lb_uid":"LB\\\"","health":127,"flags":{"value":3,"names":["push","trust"]}}"#,
            r#"{"offset":41,"message":"Deregistration Reply","message_type":4133,"version":1,"id":9,"length":18,"return_code":{"code":0,"name":"successful"}}"#,
        ]
    );
    assert_eq!(run.status, 0);

    let capture = Capture::connection(client(), server(), &[REPLY.to_vec()]);
    let run = gwm(&["--json"], &capture.bytes);
    assert!(
        run.out.starts_with(
            r#"{"time":"2026-01-01T00:00:00.002000Z","src":"10.0.0.1:5000","dst":"10.0.0.2:3860","offset":0,"message":"#
        ),
        "{}",
        run.out
    );
}

#[test]
fn a_broken_message_shows_where_it_breaks_and_what_stood_before() {
    let mut broken = Vec::new();
    broken.extend(b"\x20\x10\0\x0D\x01\0\0\0\x6A\x32\0\0\0\x10\x35\0\x09\0\0\x40\0\x01");
    broken.extend(b"\x40\x11\0\x06\0\x02\x30\x11\0\x0E\x03LB1\x05FARM1");
    for last in [1, 2] {
        broken.extend(b"\x30\x10\0\x18\x06\0\x50\0\0\0\0\0\0\0\0\0\0\0\0\x0A\x0A\x0A");
        broken.extend([last, 0, 0x30, 0x12, 0, 8 + (last - 1), 0, 0x0D, 0, 40]);
    }
    let run = gwm(&[], &[&broken, REPLY].concat());
    let expected = "\
at byte 0: broken message, at its byte 100: Weight Entry states length 9, but its fields take 8
Up to there: Get Weights Reply (0x1035), id 0x32000000, version 1, 106 bytes
  return code: 0x00 (successful)
  interval: 64 s
  groups: 1
  group \"FARM1\" of LB \"LB1\": 2 members
    10.10.10.1:80: weight 40, state 0x00, flags 0x0D (contact, registered-by-lb, confident)
    10.10.10.2:80: broken
  0x0050  50 00 00 00 00 00 00 00 00 00 00 00 00 0A 0A 0A  P...............
  0x0060  02 00 30 12 00 09 00 0D 00 28                    ..0......(
                      ^^
at byte 106: Registration Reply (0x1015), id 0x00000007, version 1, 18 bytes
  return code: 0x40 (member already registered)
";
    assert_eq!(run.out, expected);
    assert_eq!(run.status, 1);

    let json = gwm(&["--json"], &broken);
    let line: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(line["error"], "Weight Entry states length 9, but its fields take 8");
    assert_eq!((&line["error_at"], &line["id"]), (&100.into(), &0x3200_0000.into()));
    assert_eq!(line["groups"][0]["members"][0]["weight"], 40);
    assert_eq!(json.status, 1);
}

#[test]
fn cut_and_unframed_input() {
    let run = gwm(&[], &[REPLY, &LAST[..17]].concat());
    let broken = "at byte 18: broken message, at its byte 17: the message states 18 bytes, 17 of them are there\n";
    assert!(run.out.starts_with(&format!("at byte 0: {REPLY_TEXT}{broken}")), "{}", run.out);
    assert_eq!(run.status, 1);

    let run = gwm(&["--format", "raw"], &[b"\x16\x03\x01 TLS?", REPLY, &[0x20]].concat());
    assert!(run.out.starts_with(
        "at byte 0: broken message, at its byte 0: the message begins with type 0x1603, not with a SASP header \
         (0x2010) (this looks like TLS)\n"
    ));
    assert!(run.out.contains("at byte 0: passed over in search of the next message: 8 bytes\n"), "{}", run.out);
    assert!(run.out.contains(&format!("at byte 8: {REPLY_TEXT}")), "{}", run.out);
    assert!(run.out.contains("at byte 26: broken message, at its byte 1: only 1 of the header's 13 bytes are there\n"));
    assert_eq!(run.status, 1);

    // A message as `hexdump` without -C prints it.
    let run = gwm(&[], b"0000000 1020 0d00 0001 0000 0012 0000 1007 0015\n0000010 4005\n0000012\n");
    assert!(run.out.contains("(bytes are swapped in pairs: use `hexdump -C` or `xxd`)\n"), "{}", run.out);
    assert_eq!(run.status, 1);

    let run = gwm(&["--format", "hex"], b"2010 000D\n01 0g");
    assert_eq!(run.err, "gwm decode: standard input: line 2: 'g' is not a hexadecimal digit\n");
    assert!(run.out.contains("only 5 of the header's 13 bytes are there"), "{}", run.out);
    assert_eq!(run.status, 1);
}

#[test]
fn of_a_beginning_that_has_no_end_only_the_header_is_shown() {
    // The header of a Get Weights Request that states too great a length; the group's name repeats this header.
    let header = b"\x20\x10\0\x0D\x01\x7F\xFF\xFF\xFF\0\0\0\x07\x10\x30\0\x06\xFF\xFF";
    let group = [&b"\x30\x11\0\x1A\x01u\x13"[..], header].concat();
    let input = [header, &group.repeat(3)[..]].concat();
    let run = gwm(&["--format", "raw"], &input);
    let shown = "Up to there: SASP Header (0x2010), id 0x00000007, version 1, 2147483647 bytes\n";
    assert_eq!((run.status, run.out.matches(": broken message, at its byte 5: ").count()), (1, 4), "{}", run.out);
    assert_eq!((run.out.matches(shown).count(), run.out.matches("Get Weights").count()), (4, 0), "{}", run.out);
    let run = gwm(&["--format", "raw", "--json"], &input);
    let lines: Vec<serde_json::Value> = run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let broken: Vec<_> = lines.iter().filter(|line| line["error_at"] == 5).collect();
    assert_eq!(broken.len(), 4);
    assert!(broken.iter().all(|line| line["length"] == 0x7FFF_FFFF && line.get("message").is_none()), "{}", run.out);
}

#[test]
fn nothing_to_decode_and_wrong_usage() {
    for (args, input, status, err) in [
        (&[][..], &b""[..], 1, "gwm decode: standard input: no SASP message\n"),
        (&["--port", "4000"], &Capture::connection(client(), server(), &[stream()]).bytes, 1, "on TCP port 4000\n"),
        (&["/does/not/exist"], b"", 1, "gwm decode: can not open /does/not/exist: "),
        (&["/"], b"", 1, "gwm decode: /: Is a directory (os error 21)\n"),
        (&["--format", "raw", "/"], b"", 1, "gwm decode: /: Is a directory (os error 21)\n"),
        (&["--format", "hex", "/"], b"", 1, "gwm decode: /: Is a directory (os error 21)\n"),
        (
            &["--format", "pcap"],
            b"no capture at all",
            1,
            "gwm decode: standard input: this is neither pcap nor pcapng\n",
        ),
        (&["--port", "0"], b"", 2, "0 is not in 1..=65535"),
        (&["--format", "xml"], b"", 2, "[possible values: auto, hex, raw, pcap]"),
    ] {
        let run = gwm(args, input);
        assert!(run.err.contains(err), "{}", run.err);
        assert_eq!((run.status, &*run.out), (status, ""), "{args:?}");
    }
}

/// The output for a capture, without the time and addresses of the client's direction.
fn decoded(capture: &Capture) -> (i32, Vec<String>) {
    let run = gwm(&[], &capture.bytes);
    assert_eq!(run.err, "");
    let heads = run.out.lines().filter(|line| line.starts_with("2026-"));
    let heads = heads.map(|line| line.split_once(" 10.0.0.1:5000 > 10.0.0.2:3860 ").expect(line).1.to_owned());
    (run.status, heads.collect())
}

fn heads(list: &[(u64, &str)]) -> Vec<String> {
    list.iter().map(|(at, text)| format!("at byte {at}: {}", text.lines().next().unwrap())).collect()
}

#[test]
fn segments_are_put_together_whatever_their_order() {
    let (stream, all) = (stream(), heads(&[(0, REPLY_TEXT), (18, STATE_TEXT), (41, LAST_TEXT)]));
    // The sequence numbers pass 2^32 inside the stream.
    let first = u32::MAX - 20;
    let send = |capture: &mut Capture, range: std::ops::Range<usize>| {
        let number = first.wrapping_add(range.start as u32);
        capture.segment(client(), server(), (number, 1), ACK, &stream[range]);
    };
    for order in [
        &[0..10, 10..30, 30..59][..],
        &[30..59, 10..30, 0..10],
        &[10..30, 0..10, 0..10, 5..40, 30..59, 0..59],
        &[20..25, 15..40, 39..59, 0..59],
        &[1..2, 3..4, 2..3, 0..1, 4..59],
    ] {
        let mut capture = Capture::new();
        capture.segment(client(), server(), (first.wrapping_sub(1), 0), SYN, &[]);
        order.iter().for_each(|range| send(&mut capture, range.clone()));
        capture.segment(client(), server(), (first.wrapping_add(59), 1), ACK | FIN, &[]);
        send(&mut capture, 41..59); // after the end
        assert_eq!(decoded(&capture), (0, all.clone()), "{order:?}");
    }
    for split in 1..59 {
        let mut capture = Capture::new();
        capture.segment(client(), server(), (first.wrapping_sub(1), 0), SYN, &[]);
        send(&mut capture, split..59);
        send(&mut capture, 0..split);
        assert_eq!(decoded(&capture), (0, all.clone()), "split at {split}");
    }
}

#[test]
fn bytes_that_the_capture_lacks_are_told_and_decoding_goes_on() {
    let stream = stream();
    let expected = (
        1,
        vec![
            heads(&[(0, REPLY_TEXT)]).remove(0),
            "at byte 18: broken message, at its byte 2: only 2 of the header's 13 bytes are there".into(),
            "at byte 20: missing in the capture: 5 bytes".into(),
            "at byte 25: passed over in search of the next message: 16 bytes".into(),
            heads(&[(41, LAST_TEXT)]).remove(0),
        ],
    );
    // The receiver acknowledges the missing bytes; or the sender ends, or resets; or the capture ends.
    for end in 0..4 {
        let mut capture = Capture::connection(client(), server(), &[stream[..20].to_vec()]);
        capture.segment(client(), server(), (125, 500), ACK, &stream[25..]);
        match end {
            0 => capture.segment(server(), client(), (500, 159), ACK, &[]),
            1 => capture.segment(client(), server(), (159, 500), ACK | FIN, &[]),
            2 => capture.segment(server(), client(), (500, 0), RST, &[]),
            _ => {}
        }
        assert_eq!(decoded(&capture), expected, "{end}");
    }

    let mut capture = Capture::connection(client(), server(), &[REPLY.to_vec()]);
    capture.segment(client(), server(), (125, 500), ACK | FIN, &[]);
    let missing = "at byte 18: missing in the capture: 7 bytes".into();
    assert_eq!(decoded(&capture), (1, vec![heads(&[(0, REPLY_TEXT)]).remove(0), missing]));
}

#[test]
fn a_capture_that_begins_midway_finds_the_first_message() {
    let mut capture = Capture::new();
    capture.segment(client(), server(), (1000, 1), ACK, &stream()[5..30]);
    capture.segment(client(), server(), (1025, 1), ACK, &stream()[30..]);
    let passed = "at byte 0: passed over in search of the next message: 13 bytes".to_owned();
    let expected = [vec![passed], heads(&[(13, STATE_TEXT), (36, LAST_TEXT)])].concat();
    assert_eq!(decoded(&capture), (1, expected));

    let mut capture = Capture::new();
    capture.segment(client(), server(), (1000, 1), ACK, &stream());
    assert_eq!(decoded(&capture), (0, heads(&[(0, REPLY_TEXT), (18, STATE_TEXT), (41, LAST_TEXT)])));
}

#[test]
fn both_directions_several_connections_and_ports_used_again() {
    let mut capture = Capture::connection(client(), server(), &[STATE.to_vec()]);
    capture.segment(server(), client(), (500, 123), ACK, REPLY);
    let (other, v6) = ("[2001:db8::1]:6000".parse().unwrap(), "[2001:db8::2]:3860".parse().unwrap());
    capture.segment(other, v6, (7, 0), SYN, &[]);
    capture.segment(other, v6, (8, 0), ACK, LAST);
    capture.segment(client(), server(), (70_000, 0), SYN, &[]);
    capture.segment(client(), server(), (70_001, 0), ACK, REPLY);
    capture.segment(client(), "10.0.0.2:80".parse().unwrap(), (1, 0), ACK, b"GET / HTTP/1.0");
    let run = gwm(&[], &capture.bytes);
    let expected = format!(
        "2026-01-01T00:00:00.002000Z 10.0.0.1:5000 > 10.0.0.2:3860 at byte 0: {STATE_TEXT}\
         2026-01-01T00:00:00.003000Z 10.0.0.2:3860 > 10.0.0.1:5000 at byte 0: {REPLY_TEXT}\
         2026-01-01T00:00:00.005000Z [2001:db8::1]:6000 > [2001:db8::2]:3860 at byte 0: {LAST_TEXT}\
         2026-01-01T00:00:00.007000Z 10.0.0.1:5000 > 10.0.0.2:3860 at byte 0: {REPLY_TEXT}"
    );
    assert_eq!((run.status, run.out, &*run.err), (0, expected, ""));
}

#[test]
fn pcapng_link_types_and_truncated_files() {
    let packet = ethernet(client(), server(), (1, 1), ACK, REPLY);
    let ip = &packet[14..];
    let cooked = [&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0], ip].concat();
    let cooked2 = [&[8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0], ip].concat();
    let loopback = [&[2, 0, 0, 0], ip].concat();
    let text = format!("10.0.0.1:5000 > 10.0.0.2:3860 at byte 0: {REPLY_TEXT}");
    for (link, data) in [(1_u16, &packet[..]), (101, ip), (113, &cooked), (276, &cooked2), (0, &loopback)] {
        let packet = enhanced_packet(1_767_225_600_000_001_000, data);
        let file = [&pcapng_start(link)[..], &packet].concat();
        let run = gwm(&[], &file);
        let expected = format!("2026-01-01T00:00:00.000001Z {text}");
        assert_eq!((run.status, &run.out, &*run.err), (0, &expected, ""), "link type {link}");

        let run = gwm(&[], &[&file[..], &packet[..40]].concat());
        assert_eq!((run.status, &run.out), (1, &expected));
        assert_eq!(run.err, "gwm decode: standard input: the file ends inside a block\n");
    }
}
