use super::*;
use crate::monitor::outcome::Load;

fn get() -> Http {
    Http { expect: vec![200..=299, 304..=304], utilization: vec!["named_metrics.queue".into()], ..Http::default() }
}

fn read(answer: &[u8]) -> Option<Outcome> {
    Reader::default().read(answer, false, &get())
}

/// The outcome of an answer, which must be the same byte by byte and not known before `least` bytes.
fn read_by_bytes(answer: &[u8], least: usize, http: &Http) -> Option<Outcome> {
    let mut reader = Reader::default();
    for cut in 0..least {
        assert_eq!(reader.read(&answer[..cut], false, http), None, "{}: {cut}", answer.escape_ascii());
        let ended = reader.clone().read(&answer[..cut], true, http);
        assert_eq!(ended, Some(Outcome::Failed(Reason::Closed)), "{}: {cut}", answer.escape_ascii());
    }
    let outcome = (least..=answer.len()).find_map(|cut| reader.read(&answer[..cut], false, http));
    assert_eq!(outcome, Reader::default().read(answer, false, http), "{}", answer.escape_ascii());
    outcome
}

#[test]
fn status_and_load_report_count() {
    let load = Load { eps: 2.0, named_utilization: Some(0.5), ..Load::default() };
    for (answer, outcome) in [
        ("HTTP/1.1 200 OK\r\nServer: x\r\n\r\nbody", Outcome::Passed),
        ("HTTP/1.0 204 \r\n\r\n", Outcome::Passed),
        ("HTTP/1.1 200\r\n\r\n", Outcome::Passed),
        ("HTTP/1.1 304 Not Modified\n\n", Outcome::Passed),
        ("\r\n\nHTTP/1.1 200 OK\r\n\r\n", Outcome::Passed),
        ("HTTP/1.1 200 OK\r\nServer: x\r\n folded\r\n\tand again\r\n\r\n", Outcome::Passed),
        ("HTTP/1.1 200 OK\r\nServer : x\r\nbad header\u{1}: x\r\n\r\n", Outcome::Passed),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            Outcome::Passed,
        ),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\n", Outcome::Failed(Reason::Status(500))),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Outcome::Failed(Reason::Status(101))),
        ("HTTP/1.1 300 Choices\r\n\r\n", Outcome::Failed(Reason::Status(300))),
        (
            "HTTP/1.1 503 Service Unavailable\r\nendpoint-load-metrics: TEXT eps=2\r\n\r\n",
            Outcome::Failed(Reason::Status(503)),
        ),
        ("HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT eps=2, named_metrics.queue=0.5\r\n\r\n", Outcome::Load(load)),
        (
            "HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT eps=2,\r\n  named_metrics.queue=0.5\r\n\r\n",
            Outcome::Load(load),
        ),
        (
            "HTTP/1.1 200 OK\r\nendpoint-load-metrics: JSON {\"eps\":2,\"named_metrics\":{\"queue\":0.5}}\r\n\r\n",
            Outcome::Load(load),
        ),
        ("HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT eps=-2\r\n\r\n", Outcome::UnreadLoad),
        (
            "HTTP/1.1 200 OK\r\nendpoint-load-metrics-bin: OQAAAAAAAABAQhAKBXF1ZXVlEQAAAAAAAOA/\r\n\r\n",
            Outcome::Load(load),
        ),
        (
            "HTTP/1.1 200 OK\r\nendpoint-load-metrics: BIN OQAAAAAAAABAQhAKBXF1ZXVlEQAAAAAAAOA/\r\n\r\n",
            Outcome::Load(load),
        ),
        ("HTTP/1.1 200 OK\r\nendpoint-load-metrics-bin: TEXT eps=2\r\n\r\n", Outcome::UnreadLoad),
    ] {
        let head = answer.len() - if answer.ends_with("body") { 4 } else { 0 };
        assert_eq!(read_by_bytes(answer.as_bytes(), head, &get()), Some(outcome), "{answer}");
    }
}

#[test]
fn what_is_no_answer_is_told_as_soon_as_it_shows() {
    for answer in [
        "hello",
        "H",
        "HTTP/3 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "\r\n\r\nhello",
        "<html>",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 100 \r\n\r\nhello",
    ] {
        let expected = if answer == "H" { None } else { Some(Outcome::Failed(Reason::Malformed)) };
        assert_eq!(read(answer.as_bytes()), expected, "{answer}");
    }
}

#[test]
fn an_endless_head_ends() {
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    let mut reader = Reader::default();
    while endless.len() + 6 < HEAD_BYTES {
        endless.extend_from_slice(b"a: b\r\n");
        assert_eq!(reader.read(&endless, false, &get()), None);
    }
    endless.extend_from_slice(b"a: bbbbb\r\n\r\n");
    assert_eq!(reader.read(&endless, false, &get()), Some(Outcome::Failed(Reason::Malformed)));
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(HEAD_BYTES / 25 + 1);
    assert_eq!(read(&interim), Some(Outcome::Failed(Reason::Malformed)));
    assert_eq!(read(&[b'\n'; HEAD_BYTES + 9]), Some(Outcome::Failed(Reason::Malformed)));
}

fn wants(content: Content) -> Http {
    Http { content: Some(content), ..get() }
}

#[test]
fn a_body_has_what_is_wanted() {
    let text = |text: &str| wants(Content::Text(text.into()));
    let regex = |text: &str| wants(Content::Regex(regex::bytes::Regex::new(text).unwrap()));
    let (good, bad) = (Some(Outcome::Passed), Some(Outcome::Failed(Reason::Content)));
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nstatus: okay";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nstatus: o\r\n3\r\nkay\r\n0\r\n";
    for answer in [whole, chunked] {
        let read = |http: &Http| Reader::default().read(answer.as_bytes(), false, http);
        for http in [text("okay"), text("s"), regex("^status: ok(ay)?$"), regex("(?i)OKAY"), regex("")] {
            assert_eq!(read(&http), good, "{http:?}");
        }
        for http in [text("okay!"), text("OKAY"), regex("^ok"), regex("ok$")] {
            assert_eq!(read(&http), bad, "{http:?}");
        }
    }
    let head = whole.len() - 12;
    assert_eq!(read_by_bytes(whole.as_bytes(), head + 3, &text("sta")), good);
    assert_eq!(read_by_bytes(whole.as_bytes(), whole.len(), &regex("^sta")), good, "it may depend on the end");
    assert_eq!(read_by_bytes(whole.as_bytes(), whole.len(), &text("nay")), bad);
    assert_eq!(read_by_bytes(chunked.as_bytes(), chunked.len() - 7, &text("okay")), good);
    // Whoever closes the connection ends the body, if nothing else does.
    let closed = |http: &Http| Reader::default().read(b"HTTP/1.0 200 OK\r\n\r\nfine", true, http);
    assert_eq!((closed(&regex("fine$")), closed(&text("bad"))), (good, bad));
    // The status comes first, and the load report counts only with a good body.
    let unavailable = b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(Reader::default().read(unavailable, false, &text("ok")), Some(Outcome::Failed(Reason::Status(503))));
    let load = b"HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT eps=2\r\nContent-Length: 2\r\n\r\nok";
    let reported = Some(Outcome::Load(Load { eps: 2.0, lacks: 1, ..Load::default() }));
    assert_eq!(Reader::default().read(load, false, &text("ok")), reported);
    assert_eq!(Reader::default().read(load, false, &text("no")), bad);
    let broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx";
    assert_eq!(Reader::default().read(broken, false, &regex("x")), Some(Outcome::Failed(Reason::Malformed)));
}

#[test]
fn the_begin_of_a_long_body_is_looked_at() {
    let answer = |zeros: usize| [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'0'; zeros], b"end"].concat();
    let http = wants(Content::Text(b"end".to_vec()));
    let read = |zeros| Reader::default().read(&answer(zeros), false, &http);
    assert_eq!(read(BODY_BYTES - 3), Some(Outcome::Passed));
    assert_eq!(read(BODY_BYTES - 2), Some(Outcome::Failed(Reason::Content)));
}
