//! Fuzz entry points. Each takes any bytes, and panics if an invariant does not hold.
//!
//! Entry points are ordinary functions: the test suite runs them on seeded input (`tests/library/fuzz`), and any fuzzer
//! can call them.

#[cfg(feature = "admin")]
mod admin;
mod agent;
mod agent_checks;
mod agent_load;
#[cfg(feature = "dns")]
mod dns;
mod fleet;
mod haproxy;
mod ipvs;
mod journal;
mod nft;
mod pen;
mod session;
mod takeover;
#[cfg(feature = "xds")]
mod xds;

use std::path::Path;

use bytes::BytesMut;
use regex::bytes::Regex;

#[cfg(feature = "admin")]
pub use admin::{admin_body, admin_query};
pub use agent::{agent_config, agent_question, agent_quiesced, agent_sockets};
pub use agent_checks::agent_check_request;
pub use agent_load::{agent_kernel_file, agent_log_line, agent_metrics_page, agent_page_answer, agent_request};
#[cfg(feature = "dns")]
pub use dns::{dns_answer, dns_key, dns_query};
pub use fleet::fleet_row;
pub use haproxy::haproxy_answer;
pub use ipvs::ipvs_answer;
pub use journal::{journal_line, journal_row};
pub use nft::nft_listing;
pub use pen::pen_answer;
pub use session::session;
pub use takeover::takeover_packet;
#[cfg(feature = "xds")]
pub use xds::{xds_poll, xds_report, xds_stream};

use crate::{
    access::Identity,
    cli::decode::{Format, decode},
    config::{
        access::{self, Rules},
        file,
    },
    monitor::{
        Outcome, Reason, agent_check,
        echo::{self, Version},
        grpc, http, orca,
        outcome::Load,
        protobuf::Fields,
    },
    roster::{Content, Grpc, Http},
    sasp::{
        Dump, FrameError, Framer, Header, Message, Summary,
        dump::{Excerpt, HeaderText},
        frame, split_frame,
    },
};

/// The framer finds the same frames in a stream, however the stream is cut. The first byte of `data` is the length of the
/// pieces, the second is the longest message in units of 64 bytes, and the rest is the stream.
pub fn framer(data: &[u8]) {
    let Some((&[size, max], stream)) = data.split_first_chunk() else { return };
    let max = 17 + u32::from(max) * 64;
    let whole = cut([stream].into_iter(), max);
    let sized = cut(stream.chunks(usize::from(size).max(1)), max);
    assert_eq!(whole, sized, "a split changes what the framer finds");
    assert_eq!(whole, cut(stream.chunks(1), max), "single bytes change what the framer finds");
    let mut input = BytesMut::from(stream);
    let split = std::iter::from_fn(|| split_frame(&mut input, max).transpose());
    let split: Vec<_> = split.take(whole.0.len()).collect();
    assert!(split.iter().flatten().eq(&whole.0), "split_frame finds other frames");
    assert_eq!(split_frame(&mut input, max).err(), whole.2, "split_frame ends with another fault");
    let (frames, buffered, error) = whole;
    let found = frames.concat();
    assert!(stream.starts_with(&found), "the frames are not the stream");
    if error.is_none() {
        assert_eq!(found.len() + buffered, stream.len(), "bytes were lost");
    }
}

/// The frames of a stream in pieces, the number of bytes held at its end, and the fault that ended the stream.
fn cut<'s>(pieces: impl Iterator<Item = &'s [u8]>, max: u32) -> (Vec<Vec<u8>>, usize, Option<FrameError>) {
    let mut framer = Framer::new(max);
    let mut frames = Vec::new();
    for mut piece in pieces {
        loop {
            match framer.next(&mut piece) {
                Ok(Some(frame)) => {
                    assert_eq!(frame::message_length(frame, max), Ok(Some(frame.len())));
                    frames.push(frame.to_vec());
                }
                Ok(None) => break,
                Err(error) => return (frames, 0, Some(error)),
            }
        }
        assert!(piece.is_empty(), "the framer left bytes without giving a frame");
    }
    let buffered = framer.buffered();
    (frames, buffered, None)
}

/// A frame that decodes encodes to the same bytes, and every frame can be shown.
pub fn decoder(frame: &[u8]) {
    match Message::decode(frame) {
        Ok((header, message)) => {
            let mut again = Vec::new();
            message.encode(header.id, &mut again).expect("a decoded message fits the format");
            assert_eq!(again, frame, "decode and encode change the bytes");
            assert_eq!(Message::decode_trusted(frame), Ok((header, message)));
            assert_eq!(Message::decode_broken(frame), (Some(header), Some(message)));
            show(&header, &message);
        }
        Err(error) => {
            assert!(error.offset <= frame.len(), "{error}, but there are {} bytes", frame.len());
            let shown = Excerpt { bytes: frame, offset: error.offset }.to_string();
            assert!(shown.contains("^^") && !error.to_string().is_empty());
            if let (Some(header), message) = Message::decode_broken(frame) {
                assert!(!HeaderText(&header).to_string().is_empty());
                message.inspect(|message| show(&header, message));
            }
        }
    }
}

fn show(header: &Header, message: &Message<'_>) {
    assert!(!Summary(header, message).to_string().contains('\n'), "a summary is one line");
    assert!(!Dump(header, message).to_string().contains(|c: char| c.is_control() && c != '\n'));
    serde_json::to_string(&Dump(header, message)).expect("every message has a JSON form");
}

/// `gwm decode` takes any input. The first byte of `data` chooses the format and the output.
pub fn decode_command(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else { return };
    let format = [Format::Auto, Format::Hex, Format::Raw, Format::Pcap][usize::from(choice % 4)];
    let json = choice & 4 != 0;
    let mut out = Vec::new();
    let outcome = decode(input, format, 3860, json, &mut out).expect("memory can be read and written");
    assert!(outcome.messages + outcome.faults > 0 || out.is_empty());
    let out = std::str::from_utf8(&out).expect("the output is text");
    if json {
        let found = out.lines().inspect(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("every line is JSON");
        });
        let told = outcome.messages + outcome.faults - u64::from(outcome.input_error.is_some());
        assert_eq!(found.count() as u64, told);
    }
}

/// The metric that the operator names in [`load_report`] and [`http_answer`].
pub const METRIC: &str = "named_metrics.queue";

fn check_load(load: &Load) {
    let Load { cpu_utilization, application_utilization, mem_utilization, named_utilization, lacks: _, rps, eps } =
        *load;
    let all = [cpu_utilization, application_utilization, mem_utilization, named_utilization, rps, Some(eps)];
    assert!(all.iter().flatten().all(|value| value.is_finite() && *value >= 0.0), "{load:?}");
}

/// A header is no load report, or all its numbers are finite and not negative.
pub fn load_report(value: &[u8]) {
    if let Ok(load) = orca::parse(value, &[METRIC.into()]) {
        check_load(&load);
        assert!(value.len() <= orca::BYTES || value.trim_ascii().len() <= orca::BYTES);
    }
}

/// The same for the binary form.
pub fn binary_load_report(value: &[u8]) {
    if let Ok(load) = orca::binary(value, &[METRIC.into()]) {
        check_load(&load);
        assert!(value.trim_ascii().len() <= orca::BYTES);
    }
}

/// A protobuf message has an end, and nothing follows a field that is malformed.
pub fn protobuf(message: &[u8]) {
    let mut fields = Fields::new(message);
    let good = fields.by_ref().take_while(Result::is_ok).count();
    assert!(good * 2 <= message.len() && fields.next().is_none());
}

/// The answer of a gRPC server reads the same, however it is cut, and gets the same replies. The first byte is the length
/// of the pieces.
pub fn grpc_answer(data: &[u8]) {
    let Some((&size, answer)) = data.split_first() else { return };
    let asked = Grpc { utilization: vec![METRIC.into()], ..Grpc::default() };
    let (mut replies, mut pieces) = (Vec::new(), Vec::new());
    let whole = grpc::Reader::default().read(answer, true, &asked, &mut replies);
    let whole = whole.expect("a connection that has ended says something");
    if let Outcome::Load(load) = &whole {
        check_load(load);
    }
    let mut reader = grpc::Reader::default();
    let ends = (0..answer.len()).step_by(usize::from(size).max(1)).chain([answer.len()]);
    let told = ends.into_iter().find_map(|end| reader.read(&answer[..end], false, &asked, &mut pieces));
    let told = told.or_else(|| reader.read(answer, true, &asked, &mut pieces));
    assert_eq!((told, pieces), (Some(whole), replies), "a split changes the answer");
}

/// An agent's answer reads the same, however it is cut, and more bytes do not change the result. The first byte is the
/// length of the pieces.
pub fn agent_answer(data: &[u8]) {
    let Some((&size, answer)) = data.split_first() else { return };
    let whole = agent_check::read(answer, true);
    assert_ne!(whole, Ok(None), "a connection that has ended is waited for");
    let size = usize::from(size).max(1);
    let cuts = (0..answer.len()).step_by(size);
    let told = cuts.map(|cut| agent_check::read(&answer[..cut], false)).find(|read| *read != Ok(None));
    if let Some(told) = told {
        assert_eq!(told, whole, "more bytes change what was read");
    }
    if answer.len() > agent_check::LINE_BYTES {
        assert_ne!(agent_check::read(answer, false), Ok(None), "an endless line is waited for");
    }
}

/// The same as [`agent_answer`] for answers of HTTP servers, whatever the operator wants of their bodies.
pub fn http_answer(data: &[u8]) {
    let Some((&size, answer)) = data.split_first() else { return };
    let regex = || Regex::new("ok$").expect("it is an expression");
    for content in [None, Some(Content::Text(b"ok".to_vec())), Some(Content::Regex(regex()))] {
        let asked = Http { utilization: vec![METRIC.into()], content, ..Http::default() };
        let whole = http::Reader::default().read(answer, true, &asked);
        let whole = whole.expect("a connection that has ended says something");
        if let Outcome::Load(load) = &whole {
            check_load(load);
        }
        let mut reader = http::Reader::default();
        let ends = (0..answer.len()).step_by(usize::from(size).max(1)).chain([answer.len()]);
        let told = ends.into_iter().find_map(|end| reader.read(&answer[..end], false, &asked));
        match told {
            // The end of a head shows only after all bytes before it.
            Some(told) => assert_eq!(told, whole, "a split changes the answer"),
            None => {
                assert!(answer.len() < http::HEAD_BYTES + http::BODY_BYTES, "an endless answer is waited for");
                // The end of the connection ends a body.
                assert!(asked.content.is_some() || whole == Outcome::Failed(Reason::Closed));
                assert_eq!(reader.read(answer, true, &asked), Some(whole), "a split changes the answer's end");
            }
        }
    }
}

/// An access file always reads the same, or has a mistake in one of its lines. The first byte chooses the identities that
/// peers must prove.
pub fn access_file(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let identity = |choice: u8| [Identity::Any, Identity::SourceIp, Identity::Certificate][usize::from(choice % 3)];
    let rules =
        Rules { lb_identity: identity(choice), member_identity: identity(choice / 3), common_name: choice & 0x80 != 0 };
    let read = access::parse(text, &rules);
    assert_eq!(read, access::parse(text, &rules), "the same text means two things");
    match read {
        Ok(access) => {
            // Each entry has at least one key.
            assert!(access.entries() <= text.matches('=').count(), "more entries than the file can have");
        }
        Err(mistake) => {
            // If the file ends in a line break, its end is in the line after that.
            assert!((1..=text.split('\n').count()).contains(&mistake.line), "{mistake}");
            assert!(!mistake.text.is_empty() && !mistake.text.contains('\n'), "an error is one line: {mistake:?}");
        }
    }
}

/// The file of `gwm serve --config` becomes arguments that a person could write, or has a mistake in one of its lines.
pub fn config_file(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    match file::arguments(text, Path::new("/etc/gwm")) {
        Ok(words) => {
            for word in &words {
                let word = word.to_str().expect("a text makes texts");
                let name = word.trim_start_matches("--").split('=').next().unwrap_or_default();
                assert!(word.starts_with("--") && !file::WITHOUT_KEY.contains(&name), "{word}");
            }
        }
        Err(mistake) => {
            assert!((1..=text.split('\n').count()).contains(&mistake.line), "{mistake}");
            assert!(!mistake.text.is_empty() && !mistake.text.contains('\n'), "an error is one line: {mistake:?}");
        }
    }
}

/// A reply ends with its mark.
pub fn echo_reply(packet: &[u8]) {
    for version in [Version::V4, Version::V6] {
        if let Some(mark) = echo::reply(version, packet) {
            assert!(packet.ends_with(&mark));
        }
    }
}
