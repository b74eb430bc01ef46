use std::net::IpAddr;

use super::*;

/// An answer of these frames, after the server's settings.
fn answer(frames: &[(u8, u8, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0x10, 0], &mut out);
    for (kind, flags, stream, payload) in frames {
        frame(*kind, *flags, *stream, payload, &mut out);
    }
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(name, value)| hpack::write(name, value.as_bytes(), &mut out));
    out
}

/// What a server answers, the replies that it gets, and the same byte by byte.
fn read(answer: &[u8], ended: bool) -> (Option<Outcome>, Vec<u8>) {
    let grpc = Grpc { utilization: vec!["named_metrics.queue".into()], ..Grpc::default() };
    let mut reply = Vec::new();
    let outcome = Reader::default().read(answer, ended, &grpc, &mut reply);
    let (mut reader, mut replies) = (Reader::default(), Vec::new());
    let told = (0..answer.len()).find_map(|cut| reader.read(&answer[..cut], false, &grpc, &mut replies));
    let told = told.or_else(|| reader.read(answer, ended, &grpc, &mut replies));
    assert_eq!((told, &replies), (outcome, &reply), "{}", answer.escape_ascii());
    (outcome, reply)
}

const HEAD: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];
const WELL: [(&str, &str); 1] = [("grpc-status", "0")];
const SERVES: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

#[test]
fn a_request_opens_the_connection_and_asks() {
    let asked = |grpc: &Grpc| {
        let mut out = Vec::new();
        request(grpc, &Endpoint::new("10.0.0.1".parse::<IpAddr>().unwrap(), 6, 80), &mut out);
        let rest = out.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x02\0\0\0\0").unwrap();
        let length = usize::from(rest[2]);
        assert_eq!(rest[3..9], [HEADERS, END_HEADERS, 0, 0, 0, 1]);
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let block = &rest[9..9 + length];
        Decoder::default().read(block, |name, value| fields.push((text(name), text(value)))).unwrap();
        (fields, rest[9 + length..].to_vec())
    };
    let (fields, data) = asked(&Grpc::default());
    let expected = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", "10.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    assert_eq!(fields[..6], expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(data, [0, 0, 5, DATA, END_STREAM, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    let named = Grpc { service: "a.B".into(), host: Some("x:1".into()), ..Grpc::default() };
    let (fields, data) = asked(&named);
    assert_eq!(fields[3].1, "x:1");
    assert_eq!(data, b"\0\0\x0A\0\x01\0\0\0\x01\0\0\0\0\x05\x0A\x03a.B");
}

#[test]
fn a_server_says_how_it_is() {
    let (head, well) = (block(&HEAD), block(&WELL));
    let whole = |message: &[u8]| {
        answer(&[
            (HEADERS, END_HEADERS, 1, &head),
            (DATA, 0, 1, message),
            (HEADERS, END_HEADERS | END_STREAM, 1, &well),
        ])
    };
    let failed = |reason| Some(Outcome::Failed(reason));
    for (message, outcome) in [
        (SERVES, Some(Outcome::Passed)),
        (&[0, 0, 0, 0, 2, 8, 2], failed(Reason::NotServing(2))),
        (&[0, 0, 0, 0, 2, 8, 3], failed(Reason::NotServing(3))),
        (&[0, 0, 0, 0, 0], failed(Reason::NotServing(0))),
        (&[0, 0, 0, 0, 3, 8, 0x80, 0x10], failed(Reason::NotServing(255))),
        (&[0, 0, 0, 0, 5, 0x12, 1, 9, 8, 1], Some(Outcome::Passed)),
        (&[], failed(Reason::Malformed)),
        (&[1, 0, 0, 0, 2, 8, 1], failed(Reason::Malformed)),
        (&[0, 0, 0, 0, 1, 8, 1], failed(Reason::Malformed)),
        (&[0, 0, 0, 0, 1, 8], failed(Reason::Malformed)),
    ] {
        let (told, reply) = read(&whole(message), false);
        assert_eq!(told, outcome, "{message:?}");
        assert_eq!(reply, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
    }
    let good = whole(SERVES);
    for cut in 0..good.len() {
        assert_eq!(read(&good[..cut], false).0, None, "{cut} bytes");
        assert_eq!(read(&good[..cut], true).0, failed(Reason::Closed), "{cut} bytes");
    }
}

#[test]
fn an_answer_may_come_in_any_legal_form() {
    let (head, well) = (block(&HEAD), block(&WELL));
    let early = block(&[(":status", "103")]);
    let (one, two) = head.split_at(7);
    let padded = [&[3, 0, 0, 0, 0, 16][..], one, &[0; 3]].concat();
    let ping = *b"12345678";
    let (outcome, reply) = read(
        &answer(&[
            (8, 0, 0, &[0, 0, 1, 0]),
            (SETTINGS, ACK, 0, &[]),
            (2, 0, 1, &[0; 5]),
            (0xBB, 0xFF, 7, b"something new"),
            (HEADERS, END_HEADERS, 1, &early),
            (HEADERS, PADDED | PRIORITY, 1, &padded),
            (CONTINUATION, END_HEADERS, 1, two),
            (PING, 0, 0, &ping),
            (DATA, 0, 1, &SERVES[..3]),
            (DATA, PADDED, 1, &[&[2], &SERVES[3..], &[0, 0]].concat()),
            (GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
            (HEADERS, END_HEADERS | END_STREAM, 1, &well),
        ]),
        false,
    );
    assert_eq!(outcome, Some(Outcome::Passed));
    assert_eq!(reply, [&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0, 0, 0, 8, PING, ACK, 0, 0, 0, 0][..], &ping].concat());
}

#[test]
fn a_load_report_may_come_with_the_answer() {
    // eps = 2, named_metrics = { queue: 0.5 }
    let report = "OQAAAAAAAABAQhAKBXF1ZXVlEQAAAAAAAOA/";
    let trailers = block(&[("grpc-status", "0"), ("endpoint-load-metrics-bin", report)]);
    let bad = block(&[("grpc-status", "0"), ("endpoint-load-metrics-bin", "!")]);
    for (trailers, outcome) in [
        (trailers, Outcome::Load(Load { eps: 2.0, named_utilization: Some(0.5), ..Load::default() })),
        (bad, Outcome::Passed),
    ] {
        let frames = [
            (HEADERS, END_HEADERS, 1, &block(&HEAD)[..]),
            (DATA, 0, 1, SERVES),
            (HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
        ];
        assert_eq!(read(&answer(&frames), false).0, Some(outcome));
    }
}

#[test]
fn what_is_no_good_answer_is_told() {
    let head = block(&HEAD);
    let trailers_only = |fields: &[(&str, &str)]| block(&[&HEAD[..], fields].concat());
    let ends = END_HEADERS | END_STREAM;
    let goaway = |last: u8, code: u8| [0, 0, 0, last, 0, 0, 0, code];
    for (frames, reason) in [
        (&[(HEADERS, ends, 1, &trailers_only(&[("grpc-status", "12")])[..])][..], Reason::Grpc(12)),
        (&[(HEADERS, ends, 1, &trailers_only(&[("grpc-status", "5"), ("grpc-message", "x")]))], Reason::Grpc(5)),
        (&[(HEADERS, ends, 1, &trailers_only(&[("grpc-status", "x")]))], Reason::Malformed),
        (&[(HEADERS, ends, 1, &trailers_only(&WELL))], Reason::Malformed),
        (&[(HEADERS, ends, 1, &head)], Reason::Malformed),
        (&[(HEADERS, END_HEADERS, 1, &block(&[(":status", "502")]))], Reason::Status(502)),
        (&[(HEADERS, END_HEADERS, 1, &block(&[("a", "b")]))], Reason::Malformed),
        (&[(HEADERS, END_HEADERS, 1, &[0x80])], Reason::Malformed),
        (&[(HEADERS, END_HEADERS, 3, &head)], Reason::Malformed),
        (&[(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])], Reason::Malformed),
        (&[(HEADERS, END_HEADERS | PRIORITY, 1, &[0])], Reason::Malformed),
        (&[(HEADERS, 0, 1, &head), (PING, 0, 0, &[0; 8])], Reason::Malformed),
        (&[(CONTINUATION, END_HEADERS, 1, &head)], Reason::Malformed),
        (&[(DATA, 0, 1, SERVES)], Reason::Malformed),
        (&[(HEADERS, END_HEADERS, 1, &head), (DATA, END_STREAM, 1, SERVES)], Reason::Malformed),
        (&[(HEADERS, END_HEADERS, 1, &head), (DATA, 0, 1, &[0; MESSAGE_BYTES + 1])], Reason::Malformed),
        (&[(PUSH_PROMISE, 0, 1, &[])], Reason::Malformed),
        (&[(RST_STREAM, 0, 1, &[0, 0, 0, 7])], Reason::Http2(7)),
        (&[(RST_STREAM, 0, 1, &[0])], Reason::Malformed),
        (&[(GOAWAY, 0, 0, &goaway(1, 11))], Reason::Http2(11)),
        (&[(GOAWAY, 0, 0, &goaway(0, 0))], Reason::Http2(0)),
        (&[(HEADERS, 0, 1, &[0; FRAME_BYTES]), (CONTINUATION, 0, 1, &[0; 9])], Reason::Malformed),
        (&[(HEADERS, END_HEADERS, 1, &[0; FRAME_BYTES + 1])], Reason::Malformed),
    ] {
        assert_eq!(read(&answer(frames), false).0, Some(Outcome::Failed(reason)), "{frames:?}");
    }
    for other in ["HTTP/1.1 400 Bad Request\r\n\r\n", "220 mail.example ESMTP\r\n", "\x15\x03\x01\x00\x02\x02\x28"] {
        assert_eq!(read(other.as_bytes(), false).0, Some(Outcome::Failed(Reason::NoHttp2)), "{other}");
    }
    let endless: Vec<_> = vec![(8, 0, 0, &[0, 0, 1, 0][..]); ANSWER_BYTES / 13 + 2];
    let mut reply = Vec::new();
    let outcome = Reader::default().read(&answer(&endless), false, &Grpc::default(), &mut reply);
    assert_eq!(outcome, Some(Outcome::Failed(Reason::Malformed)));
}
