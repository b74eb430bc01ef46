//! Weights for people (a table, live on a terminal) and for programs (JSON).

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
    mem, process,
    sync::mpsc,
    thread,
    time::Duration,
};

use crossterm::{
    cursor::{Hide, MoveTo, Show},
    execute, queue,
    style::Print,
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::{
    client::{GroupWeights, MemberWeight, Weights},
    sasp::{EntryFlags, Escaped},
};

/// A column of a table.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    is_right: bool,
    /// It is cut if the others do not fit.
    gives_way: bool,
}

impl Column {
    /// A column of text.
    pub(crate) const fn left(title: &'static str) -> Column {
        Column { title, is_right: false, gives_way: false }
    }

    /// A column of figures, aligned to the right.
    pub(crate) const fn right(title: &'static str) -> Column {
        Column { title, is_right: true, gives_way: false }
    }

    /// A column of text that is cut if the others do not fit; of several such columns, the last one first.
    pub(crate) const fn cut(title: &'static str) -> Column {
        Column { title, is_right: false, gives_way: true }
    }
}

const COLUMNS: [Column; 9] = [
    Column::left("GROUP"),
    Column::left("MEMBER"),
    Column::cut("LABEL"),
    Column::right("WEIGHT"),
    Column::right("SHARE"),
    Column::left("CONTACT"),
    Column::left("CONFIDENT"),
    Column::left("QUIESCED"),
    Column::left("STATE"),
];

/// The table as lines, titles first. If it is wider than `width`, columns move closer and labels are cut, as far as that
/// helps.
pub(crate) fn lines(weights: &Weights, width: usize) -> Vec<String> {
    let mut rows = Vec::new();
    for group in weights.groups() {
        let name = Escaped(group.name()).to_string();
        let shares = group.shares();
        if group.members().is_empty() {
            let mut row = vec![String::new(); COLUMNS.len()];
            row[0] = name.clone();
            row[1] = "(no members)".into();
            rows.push(row);
        }
        for (at, member) in group.members().iter().enumerate() {
            let flag = |flag| if member.entry.flags.contains(flag) { "yes" } else { "no" }.to_owned();
            rows.push(vec![
                name.clone(),
                member.endpoint.to_string(),
                Escaped(&member.label).to_string(),
                member.entry.weight.to_string(),
                shares.as_ref().map_or("-".into(), |shares| format!("{:.1} %", shares[at] * 100.0)),
                flag(EntryFlags::CONTACT),
                flag(EntryFlags::CONFIDENT),
                flag(EntryFlags::QUIESCED),
                format!("0x{:02X}", member.entry.state),
            ]);
        }
    }
    aligned(&COLUMNS, rows, width)
}

/// Rows as lines, titles first. If they are wider than `width`, columns move closer and columns that give way are cut, as
/// far as that helps.
pub(crate) fn aligned(columns: &[Column], mut rows: Vec<Vec<String>>, width: usize) -> Vec<String> {
    rows.insert(0, columns.iter().map(|column| column.title.to_owned()).collect());
    let widest = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..columns.len()).map(widest).collect();
    let whole = |gap: usize| widths.iter().sum::<usize>() + gap * (widths.len() - 1);
    let gap = if whole(2) > width { " " } else { "  " };
    let mut lacking = whole(1).saturating_sub(width);
    for (column, width) in columns.iter().zip(&mut widths).rev().filter(|(column, _)| column.gives_way) {
        let given = lacking.min(width.saturating_sub(column.title.len()));
        (*width, lacking) = (*width - given, lacking - given);
    }
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let cell = match cell.width() > width {
                true => format!("{}…", cut(cell, width - 1)), // no column is narrower than its title
                false => cell.clone(),
            };
            let space = width - cell.width();
            let _ = match columns[column].is_right {
                true => write!(line, "{:space$}{cell}{gap}", ""),
                false => write!(line, "{cell}{:space$}{gap}", ""),
            };
        }
        line.truncate(line.trim_end().len());
        line
    };
    rows.iter().map(line).collect()
}

/// The beginning of the text that fits `columns` of a terminal; some characters are two columns wide, some none.
fn cut(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, character)| {
        used += character.width().unwrap_or(0);
        used > columns
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// A group in JSON.
#[derive(Serialize)]
pub(crate) struct JsonGroup {
    group: String,
    members: Vec<JsonMember>,
}

#[derive(Serialize)]
struct JsonMember {
    member: String,
    address: String,
    protocol: u8,
    port: u16,
    label: String,
    weight: u16,
    share_percent: Option<f64>,
    contact: bool,
    confident: bool,
    quiesced: bool,
    registered_by_lb: bool,
    state: u8,
}

/// The table for programs.
pub(crate) fn json(weights: &Weights) -> Vec<JsonGroup> {
    let member = |member: &MemberWeight, share_percent| JsonMember {
        member: member.endpoint.to_string(),
        address: member.endpoint.ip().to_string(),
        protocol: member.endpoint.protocol,
        port: member.endpoint.port,
        label: Escaped(&member.label).to_string(),
        weight: member.entry.weight,
        share_percent,
        contact: member.entry.flags.contains(EntryFlags::CONTACT),
        confident: member.entry.flags.contains(EntryFlags::CONFIDENT),
        quiesced: member.entry.flags.contains(EntryFlags::QUIESCED),
        registered_by_lb: member.entry.flags.contains(EntryFlags::REGISTERED_BY_LB),
        state: member.entry.state,
    };
    let group = |group: &GroupWeights| {
        let shares = group.shares();
        let percent = |at: usize| shares.as_ref().map(|shares| (shares[at] * 1000.0).round() / 10.0);
        JsonGroup {
            group: Escaped(group.name()).to_string(),
            members: group.members().iter().enumerate().map(|(at, known)| member(known, percent(at))).collect(),
        }
    };
    weights.groups().iter().map(group).collect()
}

/// The terminal; its former state comes back when this is dropped, or when [`end_on_signal`] ends the process.
pub(crate) struct Screen(());

impl Screen {
    /// Takes the terminal.
    pub(crate) fn enter() -> io::Result<Screen> {
        execute!(io::stdout().lock(), EnterAlternateScreen, Hide)?;
        Ok(Screen(()))
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (usize, usize) {
        match terminal::size() {
            Ok((columns, rows)) if columns > 0 && rows > 0 => (columns.into(), rows.into()),
            _ => (80, 24), // a terminal that does not know its size says 0
        }
    }

    /// Shows these lines from the top, in one write. Lines and columns that do not fit are cut; the last line says how
    /// many lines are missing.
    pub(crate) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let (columns, rows) = self.size();
        let mut frame = Vec::new();
        for (row, line) in (0..).zip(fitting(lines, rows)) {
            // Clear first: after a line as wide as the terminal, the cursor stands on the last character.
            queue!(frame, MoveTo(0, row), Clear(ClearType::CurrentLine), Print(cut(&line, columns)))?;
        }
        if lines.len() < rows {
            queue!(frame, MoveTo(0, lines.len() as u16), Clear(ClearType::FromCursorDown))?; // fits: rows come as 16 bits
        }
        let mut out = io::stdout().lock();
        out.write_all(&frame)?;
        out.flush()
    }
}

/// At most so many lines; if there are more, the last line says how many.
fn fitting(lines: &[String], rows: usize) -> Vec<Cow<'_, str>> {
    let room = if lines.len() > rows { rows.saturating_sub(1) } else { rows };
    let mut shown: Vec<Cow<'_, str>> = lines.iter().take(room).map(|line| line.into()).collect();
    if lines.len() > rows {
        shown.push(format!("({} more lines do not fit)", lines.len() - room).into());
    }
    shown
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = restore(&mut io::stdout().lock()); // a terminal that is gone needs nothing
    }
}

fn restore(out: &mut impl Write) -> io::Result<()> {
    execute!(out, Show, LeaveAlternateScreen)
}

/// How long a signal waits for a write in progress, which may never end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// From now on SIGINT, SIGTERM and SIGHUP end the process with status 0, the terminal restored if `screen`.
///
/// A line or a frame in progress is finished first, unless nobody reads it.
pub(crate) fn end_on_signal(screen: bool) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            let (said, last_words) = mpsc::channel();
            // On a thread of its own, because a thread that waits for a reader holds the lock.
            thread::spawn(move || {
                let mut out = io::stdout().lock();
                if screen {
                    let _ = restore(&mut out);
                }
                mem::forget(out); // held to the end, so that nothing is drawn after the terminal is restored
                let _ = said.send(());
            });
            let _ = last_words.recv_timeout(LAST_WORDS);
            process::exit(0);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::Source,
        sasp::{Endpoint, GroupData, MemberData, Message, WeightEntry, WeightedMember, Writer},
    };

    fn weights() -> Weights {
        let mut bytes = Vec::new();
        let mut writer = Writer::send_weights(&mut bytes);
        writer.group(GroupData { lb_uid: b"LB1", name: b"web" });
        for (host, label, flags, weight) in
            [(1, &b"web-1"[..], 0x0D, 40), (2, b"\xFFx", 0x09, 20), (3, b"", 0x0F, 0), (4, b"", 0x08, 0)]
        {
            let member = MemberData { endpoint: Endpoint::new([10, 0, 0, host].into(), 6, 80), label };
            let entry = WeightEntry { state: host, flags: EntryFlags(flags), weight };
            writer.entry(&WeightedMember { member, entry });
        }
        writer.group(GroupData { lb_uid: b"LB1", name: b"empty" });
        writer.finish().unwrap();
        let Ok((_, Message::SendWeights(push))) = Message::decode(&bytes) else { panic!() };
        let mut weights = Weights::default();
        weights.apply(push.groups, Source::Push, false);
        weights
    }

    #[test]
    fn the_table_shows_every_column() {
        let expected = [
            "GROUP  MEMBER        LABEL  WEIGHT   SHARE  CONTACT  CONFIDENT  QUIESCED  STATE",
            "web    10.0.0.1:80   web-1      40  66.7 %  yes      yes        no        0x01",
            "web    10.0.0.2:80   \\xFFx      20  33.3 %  yes      yes        no        0x02",
            "web    10.0.0.3:80               0   0.0 %  yes      yes        yes       0x03",
            "web    10.0.0.4:80               0   0.0 %  no       yes        no        0x04",
            "empty  (no members)",
        ];
        assert_eq!(lines(&weights(), 79), expected);
        assert_eq!(lines(&weights(), 78)[1], "web   10.0.0.1:80  web-1     40 66.7 % yes     yes       no       0x01");
    }

    #[test]
    fn labels_give_way_on_a_narrow_terminal_and_wide_characters_are_wide() {
        let mut bytes = Vec::new();
        let mut writer = Writer::send_weights(&mut bytes);
        writer.group(GroupData { lb_uid: b"LB1", name: b"web" });
        for (host, label) in [(1, "日本語ラベル"), (2, "a rather long label")] {
            let member =
                MemberData { endpoint: Endpoint::new([10, 0, 0, host].into(), 6, 80), label: label.as_bytes() };
            let entry = WeightEntry { state: 0, flags: EntryFlags(0x0D), weight: 5 };
            writer.entry(&WeightedMember { member, entry });
        }
        writer.finish().unwrap();
        let Ok((_, Message::SendWeights(push))) = Message::decode(&bytes) else { panic!() };
        let mut weights = Weights::default();
        weights.apply(push.groups, Source::Push, false);
        for width in [200, 93, 92, 91, 85, 84, 83, 80, 71, 70, 69, 40] {
            let lines = lines(&weights, width);
            let place = |line: &str| line[..line.find("50.0 %").unwrap()].width();
            assert_eq!(place(&lines[1]), place(&lines[2]), "at {width}: {lines:#?}");
            // The rest takes 65 columns, the title LABEL five.
            assert!(width < 70 || lines.iter().all(|line| line.width() <= width), "at {width}: {lines:#?}");
        }
        let narrow = lines(&weights, 71);
        assert_eq!(narrow[1], "web   10.0.0.1:80 日本…       5 50.0 % yes     yes       no       0x00");
        assert_eq!(narrow[2], "web   10.0.0.2:80 a rat…      5 50.0 % yes     yes       no       0x00");
        assert_eq!((cut("日本", 3), cut("日本", 4), cut("abc", 2), cut("", 0)), ("日", "日本", "ab", ""));
    }

    #[test]
    fn lines_that_do_not_fit_are_counted() {
        let lines: Vec<String> = (1..=5).map(|number| number.to_string()).collect();
        assert_eq!(fitting(&lines, 5), ["1", "2", "3", "4", "5"]);
        assert_eq!(fitting(&lines, 4), ["1", "2", "3", "(2 more lines do not fit)"]);
        assert_eq!(fitting(&lines, 1), ["(5 more lines do not fit)"]);
        assert_eq!(fitting(&lines[..2], 5), ["1", "2"]);
    }

    #[test]
    fn json_says_the_same() {
        let json = serde_json::to_value(json(&weights())).unwrap();
        let expected = serde_json::json!({
            "member": "10.0.0.2:80", "address": "10.0.0.2", "protocol": 6, "port": 80, "label": "\\xFFx",
            "weight": 20, "share_percent": 33.3, "contact": true, "confident": true, "quiesced": false,
            "registered_by_lb": false, "state": 2,
        });
        assert_eq!(json[0]["members"][1], expected);
        assert_eq!(json[1], serde_json::json!({"group": "empty", "members": []}));
    }
}
