//! `gwm decode`: captured bytes → readable messages or JSON, and the exact place where a broken message breaks.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::ValueEnum;
use serde::Serialize;

use super::{complain, written};
use crate::{
    limits::DECODE_MESSAGE_BYTES,
    sasp::{
        ComponentType, Dump, FrameError, Header, Message, PORT,
        dump::{Excerpt, HeaderText},
        frame,
        message::HEADER_BYTES,
    },
};
use pcap::Seen;
use stream::{Event, Stream};

mod direction;
mod hex;
mod pcap;
mod stream;

/// Flags of `gwm decode`.
#[derive(clap::Args)]
#[command(after_help = "\
Hexadecimal text may have spaces, line breaks, 0x, commas, colons between bytes and comments after #; the dumps of \
`xxd`, `hexdump -C` and `tshark -x` are understood with their offsets and text columns.

Of pcap and pcapng files, the TCP connections from or to --port are put together: retransmissions, overlaps and \
disorder are dealt with; where the capture lacks bytes, that is said and decoding goes on at the next message.

Exit status: 0 when all of the input was decoded; 1 when a message is broken or cut off, bytes are missing or are not \
SASP, there is no message, or the input can not be read; 2 for wrong usage.

Examples:
  echo 2010000D010000001200000007101500 0540 | gwm decode
  gwm decode --json capture.pcapng | jq 'select(.message == \"Send Weights\")'
  tcpdump -i any -U -w - tcp port 3860 | gwm decode")]
pub struct Args {
    /// File to read; `-` or none for standard input
    file: Option<PathBuf>,

    /// Format of the input
    #[arg(long, value_enum, default_value_t = Format::Auto, env = "GWM_FORMAT")]
    format: Format,

    /// TCP port of the GWM, in captures (1 to 65535)
    #[arg(long, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..), env = "GWM_PORT")]
    port: u16,

    /// Print one JSON object a line instead of text
    #[arg(long, env = "GWM_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    json: bool,
}

/// The format of `gwm decode`'s input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Guess from the first bytes
    Auto,
    /// Hexadecimal text
    Hex,
    /// The bytes of one direction of a connection
    Raw,
    /// A pcap or pcapng file
    Pcap,
}

/// Runs `gwm decode`.
pub fn run(args: Args) -> ExitCode {
    let stdout = io::BufWriter::new(io::stdout().lock());
    let name = match &args.file {
        Some(file) if file.as_os_str() != "-" => file.display().to_string(),
        _ => "standard input".into(),
    };
    let result = match &args.file {
        Some(file) if file.as_os_str() != "-" => match File::open(file) {
            Ok(file) => decode(BufReader::with_capacity(1 << 16, file), args.format, args.port, args.json, stdout),
            Err(error) => {
                complain(format_args!("gwm decode: can not open {name}: {error}"));
                return ExitCode::FAILURE;
            }
        },
        _ => decode(BufReader::new(io::stdin()), args.format, args.port, args.json, stdout),
    };
    match result {
        Ok(Outcome { faults: 0, messages: 1.., .. }) => ExitCode::SUCCESS,
        Ok(outcome) => {
            if let Some(error) = outcome.input_error {
                complain(format_args!("gwm decode: {name}: {error}"));
            } else if outcome.messages == 0 && outcome.faults == 0 {
                let place =
                    if outcome.format == Format::Pcap { format!(" on TCP port {}", args.port) } else { "".into() };
                complain(format_args!("gwm decode: {name}: no SASP message{place}"));
            }
            if outcome.unreadable_packets > 0 {
                complain(format_args!(
                    "gwm decode: {name}: {} packets left out: IP fragments or an unknown link type",
                    outcome.unreadable_packets
                ));
            }
            ExitCode::FAILURE
        }
        Err(error) => written(Err(error)),
    }
}

/// Counts of [`decode`].
#[derive(Debug)]
pub struct Outcome {
    /// The format that was used; not [`Format::Auto`].
    pub format: Format,
    /// Good messages.
    pub messages: u64,
    /// Broken or cut messages, gaps, and bytes that are not SASP.
    pub faults: u64,
    /// Packets of a capture that this program can not read; no fault.
    pub unreadable_packets: u64,
    /// Why reading the input ended early.
    pub input_error: Option<String>,
}

/// Decodes `input` to `out`, as text or JSON; an error is an error of writing.
pub fn decode(
    mut input: impl BufRead + Send,
    format: Format,
    port: u16,
    json: bool,
    out: impl Write,
) -> io::Result<Outcome> {
    let mut printer = Printer { out, json, messages: 0, faults: 0, error: None };
    let mut outcome = Outcome { format, messages: 0, faults: 0, unreadable_packets: 0, input_error: None };
    if format == Format::Auto {
        match input.fill_buf() {
            Ok(start) => outcome.format = detect(start),
            Err(error) => {
                return Ok(Outcome { faults: 1, input_error: Some(error.to_string()), ..outcome });
            }
        }
    }
    match outcome.format {
        Format::Pcap => {
            match pcap::read(input, port, DECODE_MESSAGE_BYTES, &mut |seen, event| printer.event(Some(seen), event)) {
                Ok(tally) => outcome.unreadable_packets = tally.unreadable,
                Err(error) => outcome.input_error = Some(error),
            }
        }
        Format::Hex => outcome.input_error = read_hex(input, &mut printer),
        Format::Raw | Format::Auto => outcome.input_error = read_raw(input, &mut printer),
    }
    if let Some(error) = printer.error {
        return Err(error);
    }
    printer.out.flush()?;
    outcome.messages = printer.messages;
    outcome.faults = printer.faults + u64::from(outcome.input_error.is_some());
    Ok(outcome)
}

/// The format that the first bytes look like.
fn detect(start: &[u8]) -> Format {
    const MAGIC: [[u8; 4]; 5] = [
        [0x0A, 0x0D, 0x0D, 0x0A], // pcapng
        [0xA1, 0xB2, 0xC3, 0xD4], // pcap, microseconds, either byte order
        [0xD4, 0xC3, 0xB2, 0xA1],
        [0xA1, 0xB2, 0x3C, 0x4D], // pcap, nanoseconds
        [0x4D, 0x3C, 0xB2, 0xA1],
    ];
    let text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n');
    if start.first_chunk().is_some_and(|magic| MAGIC.contains(magic)) {
        Format::Pcap
    } else if start.iter().take(256).all(text) {
        Format::Hex // the second byte of a message, 0x10, is not text
    } else {
        Format::Raw
    }
}

/// Decodes everything before a fault of the input; the fault is returned.
fn read_raw(mut input: impl BufRead, printer: &mut Printer<impl Write>) -> Option<String> {
    let mut stream = Stream::new(DECODE_MESSAGE_BYTES, false);
    let mut fault = None;
    while printer.error.is_none() {
        let count = match input.fill_buf() {
            Ok([]) => break,
            Ok(bytes) => {
                stream.feed(bytes, &mut |event| printer.event(None, event));
                bytes.len()
            }
            Err(error) => {
                fault = Some(error.to_string());
                break;
            }
        };
        input.consume(count);
    }
    stream.end(&mut |event| printer.event(None, event));
    fault
}

/// The same for text.
fn read_hex(mut input: impl BufRead, printer: &mut Printer<impl Write>) -> Option<String> {
    const LINE_BYTES: u64 = 4 * DECODE_MESSAGE_BYTES as u64;
    let mut stream = Stream::new(DECODE_MESSAGE_BYTES, false);
    let mut lines = hex::HexLines::default();
    let (mut line, mut bytes) = (Vec::new(), Vec::new());
    let mut fault = None;
    while fault.is_none() && printer.error.is_none() {
        line.clear();
        bytes.clear();
        match input.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => fault = lines.line(&line, &mut bytes).err().map(|error| error.to_string()),
            Err(error) => fault = Some(error.to_string()),
        }
        stream.feed(&bytes, &mut |event| printer.event(None, event));
    }
    stream.end(&mut |event| printer.event(None, event));
    fault
}

/// Writes each event; ends at the first failure of writing.
struct Printer<W> {
    out: W,
    json: bool,
    messages: u64,
    faults: u64,
    error: Option<io::Error>,
}

impl<W: Write> Printer<W> {
    fn event(&mut self, seen: Option<Seen>, event: Event<'_>) {
        if self.error.is_some() {
            return;
        }
        let entry = Entry::new(seen, event);
        if entry.error.is_some() {
            self.faults += 1
        } else {
            self.messages += 1
        }
        let result = if self.json { entry.write_json(&mut self.out) } else { entry.write_text(&mut self.out) };
        self.error = result.and_then(|()| self.out.flush()).err();
    }
}

/// `1 byte`, `2 bytes`.
fn count(bytes: u64) -> String {
    format!("{bytes} byte{}", if bytes == 1 { "" } else { "s" })
}

/// One event as text or JSON.
struct Entry<'a> {
    seen: Option<Seen>,
    offset: u64,
    header: Option<Header>,
    message: Option<Message<'a>>,
    /// What is wrong, and the place in the message if it is in a message.
    error: Option<(String, Option<usize>)>,
    bytes: &'a [u8],
}

impl<'a> Entry<'a> {
    fn new(seen: Option<Seen>, event: Event<'a>) -> Entry<'a> {
        let fault = |offset, what: String| Entry {
            seen,
            offset,
            header: None,
            message: None,
            error: Some((what, None)),
            bytes: &[],
        };
        match event {
            Event::Message { offset, frame } => match Message::decode(frame) {
                Ok((header, message)) => {
                    Entry { seen, offset, header: Some(header), message: Some(message), error: None, bytes: frame }
                }
                Err(error) => Entry::broken(seen, offset, frame, error.fault.to_string(), error.offset),
            },
            Event::Cut { offset, bytes } => {
                let text = match frame::message_length(bytes, u32::MAX) {
                    Ok(Some(length)) => format!("the message states {length} bytes, {} of them are there", bytes.len()),
                    _ => format!("only {} of the header's 13 bytes are there", bytes.len()),
                };
                Entry::broken(seen, offset, bytes, text, bytes.len())
            }
            Event::Unframed { offset, bytes, error } => {
                let hint = match error {
                    tls if stream::looks_like_tls(tls) => " (this looks like TLS)",
                    // A header as little-endian words of 16 bits, as `hexdump` without -C prints them.
                    FrameError::NotAHeader(ComponentType(0x1020)) => {
                        " (bytes are swapped in pairs: use `hexdump -C` or `xxd`)"
                    }
                    _ => "",
                };
                // Only the header: the end is not known, and the same bytes are searched for other messages.
                let (header, _) = Message::decode_broken(bytes.get(..HEADER_BYTES).unwrap_or(bytes));
                let error = Some((format!("{error}{hint}"), Some(error.offset())));
                Entry { seen, offset, header, message: None, error, bytes }
            }
            Event::Skipped { offset, bytes } => {
                fault(offset, format!("passed over in search of the next message: {}", count(bytes)))
            }
            Event::Missing { offset, bytes } => fault(offset, format!("missing in the capture: {}", count(bytes))),
        }
    }

    fn broken(seen: Option<Seen>, offset: u64, bytes: &'a [u8], what: String, at: usize) -> Entry<'a> {
        let (header, message) = Message::decode_broken(bytes);
        Entry { seen, offset, header, message, error: Some((what, Some(at))), bytes }
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(seen) = &self.seen {
            if let Some(time) = seen.time {
                write!(out, "{} ", humantime::format_rfc3339_micros(time))?;
            }
            write!(out, "{} > {} ", seen.source, seen.destination)?;
        }
        write!(out, "at byte {}: ", self.offset)?;
        let Some((what, at)) = &self.error else {
            return match (&self.header, &self.message) {
                (Some(header), Some(message)) => writeln!(out, "{}", Dump(header, message)),
                _ => writeln!(out), // an entry without an error has both
            };
        };
        match at {
            None => return writeln!(out, "{what}"),
            Some(at) => writeln!(out, "broken message, at its byte {at}: {what}")?,
        }
        match (&self.header, &self.message) {
            (Some(header), Some(message)) => writeln!(out, "Up to there: {}", Dump(header, message))?,
            (Some(header), None) => writeln!(out, "Up to there: SASP Header (0x2010), {}", HeaderText(header))?,
            (None, _) => {}
        }
        write!(out, "{}", Excerpt { bytes: self.bytes, offset: at.unwrap_or_default() })
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'x, 'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            time: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            src: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            dst: Option<String>,
            offset: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'x str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error_at: Option<usize>,
            #[serde(flatten)]
            header: Option<HeaderLine>,
            #[serde(flatten)]
            message: Option<Dump<'x, 'a>>,
        }
        /// A message of which only the header can be read.
        #[derive(Serialize)]
        struct HeaderLine {
            version: u8,
            id: u32,
            length: i32,
        }
        let message = self.header.as_ref().zip(self.message.as_ref()).map(|(header, message)| Dump(header, message));
        let header = self.header.filter(|_| message.is_none());
        let line = Line {
            time: self.seen.and_then(|seen| seen.time).map(|time| humantime::format_rfc3339_micros(time).to_string()),
            src: self.seen.map(|seen| seen.source.to_string()),
            dst: self.seen.map(|seen| seen.destination.to_string()),
            offset: self.offset,
            error: self.error.as_ref().map(|(what, _)| what.as_str()),
            error_at: self.error.as_ref().and_then(|(_, at)| *at),
            header: header.map(|Header { version, id, length }| HeaderLine { version, id, length }),
            message,
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)
    }
}
