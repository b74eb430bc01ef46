//! Messages for people and scripts: as several lines, as one line, as JSON; and the bytes around a fault.
//!
//! A message whose lists end early ([`Message::decode_broken`]) is shown as far as it can be read.

mod json;

use std::fmt;

use self::json::MemberJson;
use super::{
    code::{Reason, ReturnCode, SenderFlags},
    component::{Entry, GroupData, GroupNames, Groups, MemberData, MemberState, WeightedMember},
    escape::Escaped,
    message::{Header, Message},
};

/// Shows a whole message: `Display` as several lines without a final line break, `Serialize` as one flat object.
///
/// ```
/// use gwm::sasp::{Dump, Message};
///
/// let bytes = b"\x20\x10\x00\x0D\x01\x00\x00\x00\x12\x00\x00\x00\x07\x10\x15\x00\x05\x40";
/// let (header, message) = Message::decode(bytes)?;
/// assert_eq!(
///     Dump(&header, &message).to_string(),
///     "Registration Reply (0x1015), id 0x00000007, version 1, 18 bytes\n  \
///      return code: 0x40 (member already registered)"
/// );
/// # Ok::<(), gwm::sasp::DecodeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Dump<'m, 'a>(pub &'m Header, pub &'m Message<'a>);

impl fmt::Display for Dump<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dump(header, message) = self;
        let kind = message.component_type();
        write!(f, "{kind} (0x{:04X}), {}", kind.0, HeaderText(header))?;
        match message {
            Message::RegistrationRequest(m) => {
                write_sender(f, m.flags)?;
                write_groups(f, m.groups)
            }
            Message::DeregistrationRequest(m) => {
                write_sender(f, m.flags)?;
                write!(f, "\n  reason: 0x{:02X} ({})", m.reason.0, reason_name(m.reason))?;
                write_groups(f, m.groups)
            }
            Message::GetWeightsRequest(m) => write_names(f, m.groups),
            Message::GetWeightsReply(m) => {
                write_return_code(f, m.code)?;
                write!(f, "\n  interval: {} s", m.interval_seconds)?;
                write_groups(f, m.groups)
            }
            Message::SendWeights(m) => write_groups(f, m.groups),
            Message::SetLbStateRequest(m) => {
                write!(f, "\n  LB UID: \"{}\"", Escaped(m.lb_uid))?;
                write!(f, "\n  health: 0x{:02X} ({})", m.health.0, health_name(m.health.0))?;
                write!(f, "\n  flags: {}", m.flags)
            }
            Message::SetMemberStateRequest(m) => {
                write_sender(f, m.flags)?;
                write_groups(f, m.groups)
            }
            Message::RegistrationReply(code)
            | Message::DeregistrationReply(code)
            | Message::SetLbStateReply(code)
            | Message::SetMemberStateReply(code) => write_return_code(f, *code),
        }
    }
}

/// Shows a header alone: `id 0x00000007, version 1, 18 bytes`.
#[derive(Clone, Copy, Debug)]
pub struct HeaderText<'m>(pub &'m Header);

impl fmt::Display for HeaderText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id 0x{:08X}, version {}, {} bytes", self.0.id, self.0.version, self.0.length)
    }
}

/// Shows a message in one line, for logs: its type, id and return code, and the number of groups and members.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'m, 'a>(pub &'m Header, pub &'m Message<'a>);

impl fmt::Display for Summary<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary(header, message) = self;
        write!(f, "{} id 0x{:08X}", message.component_type(), header.id)?;
        match message {
            Message::RegistrationRequest(m) => {
                write!(f, " from {}: ", sender_name(m.flags))?;
                write_counts(f, m.groups)
            }
            Message::DeregistrationRequest(m) => {
                write!(f, " from {}, reason 0x{:02X}: ", sender_name(m.flags), m.reason.0)?;
                write_counts(f, m.groups)
            }
            Message::GetWeightsRequest(m) => write!(f, ": {}", Count(m.groups.count().into(), "group")),
            Message::GetWeightsReply(m) => {
                write!(f, ": {}, ", CodeText(m.code))?;
                write_counts(f, m.groups)
            }
            Message::SendWeights(m) => {
                f.write_str(": ")?;
                write_counts(f, m.groups)
            }
            Message::SetLbStateRequest(m) => {
                write!(f, ": LB \"{}\", health 0x{:02X}, flags {}", Escaped(m.lb_uid), m.health.0, m.flags)
            }
            Message::SetMemberStateRequest(m) => {
                write!(f, " from {}: ", sender_name(m.flags))?;
                write_counts(f, m.groups)
            }
            Message::RegistrationReply(code)
            | Message::DeregistrationReply(code)
            | Message::SetLbStateReply(code)
            | Message::SetMemberStateReply(code) => write!(f, ": {}", CodeText(*code)),
        }
    }
}

/// Shows the rows of `bytes` around `offset`, with 16 bytes a row and a marker under the byte at `offset`.
#[derive(Clone, Copy, Debug)]
pub struct Excerpt<'a> {
    /// The message, or a part of it.
    pub bytes: &'a [u8],
    /// The byte to mark. If bytes are missing, the end of `bytes`.
    pub offset: usize,
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ROW: usize = 16;
        let marked = self.offset / ROW;
        for row in marked.saturating_sub(1)..=marked + 1 {
            let bytes = self.bytes.get(row * ROW..).unwrap_or_default();
            let bytes = bytes.get(..ROW).unwrap_or(bytes);
            if bytes.is_empty() && row != marked {
                continue;
            }
            write!(f, "  0x{:04X} ", row * ROW)?;
            bytes.iter().try_for_each(|byte| write!(f, " {byte:02X}"))?;
            write!(f, "{:1$}  ", "", (ROW - bytes.len()) * 3)?;
            let plain = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
            bytes.iter().map(plain).try_for_each(|shown| write!(f, "{shown}"))?;
            writeln!(f)?;
            if row == marked {
                writeln!(f, "{:1$}^^", "", 10 + self.offset % ROW * 3)?;
            }
        }
        Ok(())
    }
}

fn write_sender(f: &mut fmt::Formatter<'_>, flags: SenderFlags) -> fmt::Result {
    write!(f, "\n  sender: {}\n  flags: {flags}", sender_name(flags))
}

fn sender_name(flags: SenderFlags) -> &'static str {
    if flags.contains(SenderFlags::LOAD_BALANCER) { "load balancer" } else { "member" }
}

fn write_return_code(f: &mut fmt::Formatter<'_>, code: ReturnCode) -> fmt::Result {
    write!(f, "\n  return code: {}", CodeText(code))
}

/// Shows number and name.
struct CodeText(ReturnCode);

impl fmt::Display for CodeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02X} ({})", self.0.0, self.0.name().unwrap_or("unknown"))
    }
}

fn reason_name(reason: Reason) -> &'static str {
    reason.name().unwrap_or(if reason.0 >= 0x80 { "vendor's own" } else { "unknown" })
}

fn health_name(health: u8) -> &'static str {
    match health {
        0 => "worst",
        0x7F => "best",
        0x80.. => "reserved",
        _ => "0x00 is worst, 0x7F best",
    }
}

/// Shows `1 group`, `2 groups`.
struct Count(u64, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

fn write_counts<'a, T: Entry<'a>>(f: &mut fmt::Formatter<'_>, groups: Groups<'a, T>) -> fmt::Result {
    let members = groups.into_iter().map(|group| u64::from(group.count())).sum();
    write!(f, "{}, {}", Count(groups.count().into(), "group"), Count(members, "member"))
}

fn write_names(f: &mut fmt::Formatter<'_>, names: GroupNames<'_>) -> fmt::Result {
    write!(f, "\n  groups: {}", names.count())?;
    names.iter().try_for_each(|name| write_group(f, name))
}

fn write_groups<'a, T: Shown<'a>>(f: &mut fmt::Formatter<'_>, groups: Groups<'a, T>) -> fmt::Result {
    write!(f, "\n  groups: {}", groups.count())?;
    for group in groups {
        write_group(f, group.data)?;
        write!(f, ": {}", Count(group.count().into(), "member"))?;
        group.entries().try_for_each(|entry| {
            write_member(f, entry.member())?;
            entry.write_rest(f)
        })?;
        if let Some(member) = group.member_before_fault() {
            write_member(f, member)?;
            f.write_str(": broken")?;
        }
    }
    Ok(())
}

fn write_member(f: &mut fmt::Formatter<'_>, member: MemberData<'_>) -> fmt::Result {
    write!(f, "\n    {}", member.endpoint)?;
    if !member.label.is_empty() {
        write!(f, " \"{}\"", Escaped(member.label))?;
    }
    Ok(())
}

fn write_group(f: &mut fmt::Formatter<'_>, data: GroupData<'_>) -> fmt::Result {
    write!(f, "\n  group \"{}\" of LB \"{}\"", Escaped(data.name), Escaped(data.lb_uid))
}

/// Shows the fields of an entry after its member.
trait Shown<'a>: Entry<'a> {
    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
    fn add_json(&self, json: &mut MemberJson);
}

impl<'a> Shown<'a> for MemberData<'a> {
    fn write_rest(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn add_json(&self, _: &mut MemberJson) {}
}

impl<'a> Shown<'a> for WeightedMember<'a> {
    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.entry;
        write!(f, ": weight {}, state 0x{:02X}, flags {}", entry.weight, entry.state, entry.flags)
    }

    fn add_json(&self, json: &mut MemberJson) {
        json.state = Some(self.entry.state);
        json.flags = Some(self.entry.flags.into());
        json.weight = Some(self.entry.weight);
    }
}

impl<'a> Shown<'a> for MemberState<'a> {
    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ": state 0x{:02X}, flags {}", self.state, self.flags)
    }

    fn add_json(&self, json: &mut MemberJson) {
        json.state = Some(self.state);
        json.flags = Some(self.flags.into());
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            code::{Health, LbFlags},
            message::SetLbStateRequest,
        },
        *,
    };

    fn excerpt(bytes: &[u8], offset: usize) -> String {
        Excerpt { bytes, offset }.to_string()
    }

    #[test]
    fn an_excerpt_has_the_rows_around_a_byte() {
        let bytes: Vec<u8> = (0x3A..0x7A).collect();
        let rows = [
            "  0x0000  3A 3B 3C 3D 3E 3F 40 41 42 43 44 45 46 47 48 49  :;<=>?@ABCDEFGHI\n",
            "  0x0010  4A 4B 4C 4D 4E 4F 50 51 52 53 54 55 56 57 58 59  JKLMNOPQRSTUVWXY\n",
            "  0x0020  5A 5B 5C 5D 5E 5F 60 61 62 63 64 65 66 67 68 69  Z[\\]^_`abcdefghi\n",
            "  0x0030  6A 6B 6C 6D 6E 6F 70 71 72 73 74 75 76 77 78 79  jklmnopqrstuvwxy\n",
        ];
        let mark = |column: usize| format!("          {}^^\n", "   ".repeat(column));
        assert_eq!(excerpt(&bytes, 0), [rows[0], &mark(0), rows[1]].concat());
        assert_eq!(excerpt(&bytes, 0x1F), [rows[0], rows[1], &mark(15), rows[2]].concat());
        assert_eq!(excerpt(&bytes, 0x20), [rows[1], rows[2], &mark(0), rows[3]].concat());
        assert_eq!(excerpt(&bytes, 0x3F), [rows[2], rows[3], &mark(15)].concat());
        let end = format!("  0x0040 {}\n", " ".repeat(50));
        assert_eq!(excerpt(&bytes, 0x40), [rows[3], &end, &mark(0)].concat());
    }

    #[test]
    fn a_row_that_is_not_full_or_not_text_is_filled_up() {
        let short = format!("  0x0000  1F 20 7E 7F FF{}  . ~..\n                ^^\n", " ".repeat(33));
        assert_eq!(excerpt(b"\x1F ~\x7F\xFF", 2), short);
    }

    fn health(health: u8) -> String {
        let header = Header { version: 1, length: 23, id: 4 };
        let request = SetLbStateRequest { lb_uid: b"LB1", health: Health(health), flags: LbFlags::NONE };
        Dump(&header, &Message::SetLbStateRequest(request)).to_string()
    }

    #[test]
    fn health_is_shown_as_received_and_said_to_be_good_or_bad() {
        for (value, text) in [
            (0x00, "0x00 (worst)"),
            (0x01, "0x01 (0x00 is worst, 0x7F best)"),
            (0x7E, "0x7E (0x00 is worst, 0x7F best)"),
            (0x7F, "0x7F (best)"),
            (0x80, "0x80 (reserved)"),
            (0xFF, "0xFF (reserved)"),
        ] {
            let shown = health(value);
            assert!(shown.contains(&format!("\n  health: {text}\n")), "{shown}");
        }
    }
}
