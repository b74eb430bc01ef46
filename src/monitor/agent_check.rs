//! HAProxy's agent-check: a member's agent answers with one line.
//!
//! Words stand in any order and in any case. Spaces, tabs and commas separate them. If several words have the same kind of
//! meaning, the last one counts. If the line has no word of a kind, the last value stays. `#` begins a text for people,
//! which ends with the line.

use super::outcome::{Administration, AgentText, AgentWeight, Reason, Report};

/// The longest line that is read, in bytes.
pub const LINE_BYTES: usize = 1024;

/// The highest percentage, as in HAProxy. A higher percentage counts as this one.
const PERCENT_MAX: u16 = 25_600;

/// Reads the agent's line from all bytes so far; `None` while its end is missing. A carriage return or a line feed ends the
/// line. The end of the connection does not: half a line may mean the opposite of the whole line.
pub fn read(bytes: &[u8], ended: bool) -> Result<Option<Report>, Reason> {
    let end = bytes.iter().take(LINE_BYTES + 1).position(|byte| matches!(byte, b'\r' | b'\n'));
    match end.and_then(|end| bytes.get(..end)) {
        Some(line) => parse(line).map(Some),
        None if bytes.len() > LINE_BYTES => Err(Reason::Malformed),
        None if ended => Err(Reason::Closed),
        None => Ok(None),
    }
}

/// The meaning of a line. Unknown words are ignored if the line has a known word.
fn parse(line: &[u8]) -> Result<Report, Reason> {
    let mut parts = line.splitn(2, |byte| *byte == b'#');
    let said = parts.next().unwrap_or_default();
    let mut report = Report { text: AgentText::new(parts.next().unwrap_or_default()), ..Report::default() };
    let (mut known, mut unknown) = (false, false);
    let words = said.split(|byte| matches!(byte, b' ' | b'\t' | b','));
    for word in words.filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_slice() {
            b"up" => report.up = Some(true),
            b"down" | b"fail" | b"stopped" => report.up = Some(false),
            b"ready" => report.administration = Some(Administration::Ready),
            b"drain" => report.administration = Some(Administration::Drain),
            b"maint" => report.administration = Some(Administration::Maint),
            // The limit of a proxy's connections does not concern a GWM.
            [b'm', b'a', b'x', b'c', b'o', b'n', b'n', b':', ..] => {}
            [b'w', b'e', b'i', b'g', b'h', b't', b':', value @ ..] => match weight(value) {
                Some(weight) => report.weight = Some(weight),
                None => {
                    unknown = true;
                    continue;
                }
            },
            value => match weight(value) {
                Some(percent @ AgentWeight::Percent(_)) => report.weight = Some(percent),
                _ => {
                    unknown = true;
                    continue;
                }
            },
        }
        known = true;
    }
    if unknown && !known { Err(Reason::Malformed) } else { Ok(report) }
}

/// `75%` or `75`.
fn weight(word: &[u8]) -> Option<AgentWeight> {
    let (digits, percent) = match word {
        [digits @ .., b'%'] => (digits, true),
        digits => (digits, false),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number =
        digits.iter().fold(0_u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
    if percent {
        return Some(AgentWeight::Percent(u16::try_from(number).unwrap_or(u16::MAX).min(PERCENT_MAX)));
    }
    u16::try_from(number).ok().map(AgentWeight::Absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Report {
        Report::default()
    }

    fn line(text: &str) -> Result<Report, Reason> {
        read(format!("{text}\n").as_bytes(), false).map(|report| report.expect("the line has an end"))
    }

    #[test]
    fn every_word_says_its_own_kind_of_thing() {
        use Administration::{Drain, Maint, Ready};
        use AgentWeight::{Absolute, Percent};
        let administration = |administration| Report { administration: Some(administration), ..nothing() };
        let weight = |weight| Report { weight: Some(weight), ..nothing() };
        let up = |up| Report { up: Some(up), ..nothing() };
        for (text, report) in [
            ("ready", administration(Ready)),
            ("drain", administration(Drain)),
            ("maint", administration(Maint)),
            ("up", up(true)),
            ("down", up(false)),
            ("fail", up(false)),
            ("stopped", up(false)),
            ("75%", weight(Percent(75))),
            ("0%", weight(Percent(0))),
            ("007%", weight(Percent(7))),
            ("150%", weight(Percent(150))),
            ("25601%", weight(Percent(25_600))),
            ("99999999999999999999%", weight(Percent(25_600))),
            ("weight:75%", weight(Percent(75))),
            ("weight:75", weight(Absolute(75))),
            ("weight:0", weight(Absolute(0))),
            ("weight:65535", weight(Absolute(65_535))),
            ("maxconn:30", nothing()),
            ("maxconn:x", nothing()),
            ("", nothing()),
            (" \t,, ", nothing()),
            ("# nothing but a text ", Report { text: AgentText::new(b"nothing but a text"), ..nothing() }),
            ("UP", up(true)),
            ("Maint", administration(Maint)),
            ("Weight:5%", weight(Percent(5))),
        ] {
            assert_eq!(line(text), Ok(report), "{text}");
        }
    }

    #[test]
    fn words_go_together_and_the_last_of_a_kind_counts() {
        let all = Report {
            weight: Some(AgentWeight::Percent(50)),
            administration: Some(Administration::Drain),
            up: Some(false),
            text: AgentText::default(),
        };
        for text in [
            "down drain 50%",
            "50%,drain,fail",
            "\tdrain , 50% \t stopped # the disk is full",
            "up ready 10% down drain 50%",
            "weight:3 50% drain down#no blank before it",
            "down drain 50% maxconn:20 #up ready 100%",
            "hello down drain 50% world",
            "weight:x 50% 60 -1% 1.5% drain down",
        ] {
            let said = line(text).map(|report| Report { text: AgentText::default(), ..report });
            assert_eq!(said, Ok(all), "{text}");
        }
        let up = Report { up: Some(true), ..nothing() };
        assert_eq!(line("up\rdown"), Ok(up), "a carriage return ends the line, too");
        assert_eq!(read(b"up\r\ndown\n", true), Ok(Some(up)), "one line is all that is read");
    }

    #[test]
    fn garbage_says_nothing() {
        for text in [
            "hello",
            "75",
            "-75%",
            "7 5 %",
            "%",
            "75%%",
            "weight:",
            "weight:%",
            "weight:-1",
            "weight:65536",
            "weight",
            "upp",
            "d0wn",
            "\u{FFFD}\u{0}",
            "weight:1e3",
            "٣%",
        ] {
            assert_eq!(line(text), Err(Reason::Malformed), "{text}");
        }
        let every_byte: Vec<u8> = (0..=255).filter(|byte| !b"\r\n#".contains(byte)).collect();
        assert_eq!(read(&[&every_byte[..], b"\n"].concat(), false), Err(Reason::Malformed));
    }

    #[test]
    fn a_line_counts_when_its_end_is_there() {
        let whole = b"drain 50%\n";
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut], false), Ok(None), "{cut} bytes");
            assert_eq!(read(&whole[..cut], true), Err(Reason::Closed), "{cut} bytes");
        }
        assert!(matches!(read(whole, false), Ok(Some(_))));
    }

    #[test]
    fn a_line_has_a_longest() {
        let mut long = vec![b' '; LINE_BYTES];
        assert_eq!(read(&long, false), Ok(None));
        long.push(b'\n');
        assert_eq!(read(&long, false), Ok(Some(nothing())));
        long.insert(0, b' ');
        assert_eq!(read(&long, false), Err(Reason::Malformed));
        assert_eq!(read(&[b' '; LINE_BYTES + 1], false), Err(Reason::Malformed));
    }
}
