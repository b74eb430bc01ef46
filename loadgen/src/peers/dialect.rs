//! As much of the NATS and Redis protocols as a subscriber, a publisher and a reader need: the requests, and where
//! the messages of the answers end. Both are text with lengths in front of what may contain anything.

use crate::Result;

/// The end of a line in both protocols.
const LINE_END: &[u8] = b"\r\n";

/// The longest line that is taken: NATS greets with a few hundred bytes of JSON.
const LINE_BYTES_MAX: usize = 16 << 10;

/// The longest payload that is taken.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// NATS, the client protocol.
    Nats,
    /// Redis, RESP2.
    Redis,
}

/// Where a load balancer's messages are published, and the key of its value.
pub(super) fn subject(lb: u32) -> String {
    format!("weights.{}", String::from_utf8_lossy(&crate::model::uid(lb)))
}

impl Dialect {
    /// A subscriber's first message.
    pub(super) fn subscribe(self, subject: &str, out: &mut Vec<u8>) {
        match self {
            Dialect::Nats => {
                out.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n");
                // The PONG that answers the PING says that what came before it was done.
                out.extend_from_slice(format!("SUB {subject} 1\r\nPING\r\n").as_bytes());
            }
            Dialect::Redis => command(&[b"SUBSCRIBE", subject.as_bytes()], out),
        }
    }

    /// Whether this message says that the subscription is there; `None` for what comes before.
    pub(super) fn subscribed(self, subject: &str, message: &[u8]) -> Result<bool> {
        match self {
            Dialect::Nats if message.starts_with(b"INFO ") => Ok(false),
            Dialect::Nats if message == b"PONG\r\n" => Ok(true),
            Dialect::Redis => {
                let expected = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{subject}\r\n:1\r\n", subject.len());
                if message == expected.as_bytes() { Ok(true) } else { Err(unexpected(message)) }
            }
            Dialect::Nats => Err(unexpected(message)),
        }
    }

    /// A publisher's first message.
    pub(super) fn publisher(self, out: &mut Vec<u8>) {
        match self {
            Dialect::Nats => out.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n"),
            // Not to be told how many received each message saves the server a reply a message.
            Dialect::Redis => command(&[b"CLIENT", b"REPLY", b"OFF"], out),
        }
    }

    /// Whether a publisher may be told this: nothing but NATS's greeting.
    pub(super) fn published(self, message: &[u8]) -> Result<()> {
        let greeting = self == Dialect::Nats && message.starts_with(b"INFO ");
        if greeting { Ok(()) } else { Err(unexpected(message)) }
    }

    /// Appends one message to a subject.
    pub(super) fn publish(self, subject: &str, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Dialect::Nats => {
                out.extend_from_slice(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
                out.extend_from_slice(payload);
                out.extend_from_slice(LINE_END);
            }
            Dialect::Redis => command(&[b"PUBLISH", subject.as_bytes(), payload], out),
        }
    }

    /// Every byte that the subscriber must get for it.
    pub(super) fn delivery(self, subject: &str, payload: &[u8], out: &mut Vec<u8>) {
        let head = match self {
            Dialect::Nats => format!("MSG {subject} 1 {}\r\n", payload.len()),
            Dialect::Redis => {
                let (bytes, payload) = (subject.len(), payload.len());
                format!("*3\r\n$7\r\nmessage\r\n${bytes}\r\n{subject}\r\n${payload}\r\n")
            }
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(LINE_END);
    }

    /// The answer that the server waits for, if this message is a question: NATS asks whether its clients live.
    pub(super) fn answer(self, message: &[u8]) -> Option<&'static [u8]> {
        (self == Dialect::Nats && message == b"PING\r\n").then_some(b"PONG\r\n")
    }

    /// The length of the message at the front of `bytes`, once that can be told.
    fn length(self, bytes: &[u8]) -> Result<Option<usize>> {
        match self {
            Dialect::Nats => {
                let Some((line, rest_at)) = line(bytes)? else { return Ok(None) };
                if !line.starts_with(b"MSG ") {
                    return Ok(Some(rest_at));
                }
                let size = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                Ok(Some(rest_at + number(size)? + LINE_END.len()))
            }
            Dialect::Redis => resp_length(bytes, 3),
        }
    }
}

/// Appends a Redis command.
pub(super) fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    words.iter().for_each(|word| bulk(word, out));
}

/// Appends a Redis bulk string: also the answer to a GET.
pub(super) fn bulk(word: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
    out.extend_from_slice(word);
    out.extend_from_slice(LINE_END);
}

/// An unexpected message, in words.
pub(super) fn unexpected(message: &[u8]) -> String {
    let shown = &message[..message.len().min(200)];
    format!("not expected: \"{}\" ({} bytes)", shown.escape_ascii(), message.len())
}

/// The first line without its end, and where the next begins.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>> {
    let start = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match start.windows(2).position(|pair| pair == LINE_END) {
        Some(end) => Ok(Some((&start[..end], end + LINE_END.len()))),
        None if start.len() == LINE_BYTES_MAX => Err("a line without an end".into()),
        None => Ok(None),
    }
}

fn number(text: &[u8]) -> Result<usize> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed
        .filter(|number| *number <= PAYLOAD_BYTES_MAX)
        .ok_or_else(|| format!("\"{}\": no length", text.escape_ascii()))
}

/// The length of a RESP value; arrays may stand in arrays `depth` deep.
fn resp_length(bytes: &[u8], depth: u8) -> Result<Option<usize>> {
    let Some((line, mut end)) = line(bytes)? else { return Ok(None) };
    match line.split_first() {
        Some((b'+' | b':', _)) => {}
        Some((b'-', text)) => return Err(format!("the server says: {}", text.escape_ascii())),
        Some((b'$', b"-1")) => {}
        Some((b'$', length)) => end += number(length)? + LINE_END.len(),
        Some((b'*', count)) if depth > 0 => {
            for _ in 0..number(count)? {
                let Some(length) = resp_length(bytes.get(end..).unwrap_or_default(), depth - 1)? else {
                    return Ok(None);
                };
                end += length;
            }
        }
        _ => return Err(unexpected(line)),
    }
    Ok(Some(end))
}

/// Cuts what arrives into messages; holds the bytes of a partial one.
pub(super) struct Cutter {
    dialect: Dialect,
    partial: Vec<u8>,
}

impl Cutter {
    pub(super) fn new(dialect: Dialect) -> Cutter {
        Cutter { dialect, partial: Vec::new() }
    }

    /// Hands every message that these bytes complete to `each`.
    pub(super) fn take(&mut self, input: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let joined;
        let mut rest = if self.partial.is_empty() {
            input
        } else {
            self.partial.extend_from_slice(input);
            joined = std::mem::take(&mut self.partial);
            &joined[..]
        };
        while let Some((message, after)) = self.dialect.length(rest)?.and_then(|length| rest.split_at_checked(length)) {
            each(message)?;
            rest = after;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages found when the bytes arrive in pieces of this size.
    fn cut(dialect: Dialect, bytes: &[u8], piece: usize) -> Result<Vec<Vec<u8>>> {
        let mut cutter = Cutter::new(dialect);
        let mut found = Vec::new();
        for piece in bytes.chunks(piece) {
            cutter.take(piece, |message| {
                found.push(message.to_vec());
                Ok(())
            })?;
        }
        assert!(cutter.partial.is_empty());
        Ok(found)
    }

    #[test]
    fn messages_are_found_however_they_are_split() {
        let nats: [&[u8]; 4] = [b"INFO {}\r\n", b"PONG\r\n", b"MSG a.b 1 5\r\nx\r\ny\0\r\n", b"PING\r\n"];
        let redis: [&[u8]; 4] = [b"+OK\r\n", b"$5\r\nx\r\ny\0\r\n", b"$-1\r\n", b"*3\r\n$1\r\na\r\n:1\r\n$0\r\n\r\n"];
        for (dialect, messages) in [(Dialect::Nats, nats), (Dialect::Redis, redis)] {
            let stream = messages.concat();
            for piece in 1..=stream.len() {
                assert_eq!(cut(dialect, &stream, piece).unwrap(), messages, "{dialect:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(cut(Dialect::Nats, b"MSG a 1 lots\r\n", 99).is_err());
        assert!(cut(Dialect::Redis, b"-ERR unknown\r\n", 99).unwrap_err().contains("ERR unknown"));
        assert!(cut(Dialect::Redis, b"?\r\n", 99).is_err());
        assert!(cut(Dialect::Redis, b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", 99).is_err(), "too deep");
        assert!(cut(Dialect::Nats, &vec![b'x'; LINE_BYTES_MAX], 4096).is_err(), "no end");
    }

    #[test]
    fn requests_are_as_the_protocols_say() {
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(text(&|out| Dialect::Nats.publish("a", b"xyz", out)), "PUB a 3\r\nxyz\r\n");
        assert_eq!(text(&|out| Dialect::Nats.delivery("a", b"xyz", out)), "MSG a 1 3\r\nxyz\r\n");
        let publish = "*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$3\r\nxyz\r\n";
        assert_eq!(text(&|out| Dialect::Redis.publish("a", b"xyz", out)), publish);
        let delivery = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\nxyz\r\n";
        assert_eq!(text(&|out| Dialect::Redis.delivery("a", b"xyz", out)), delivery);
        assert_eq!(Dialect::Redis.subscribed("a", b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), Ok(true));
        assert!(Dialect::Redis.subscribed("b", b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").is_err());
        assert_eq!(Dialect::Nats.subscribed("a", b"INFO {}\r\n"), Ok(false));
        assert_eq!(Dialect::Nats.subscribed("a", b"PONG\r\n"), Ok(true));
        assert_eq!(Dialect::Nats.answer(b"PING\r\n"), Some(&b"PONG\r\n"[..]));
    }
}
