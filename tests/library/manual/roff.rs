//! Markdown → roff, for the pages of `src/manual/`. What these pages have no use for is refused, not guessed.
//!
//! A table becomes a list: the first cell of a row is the term, the other cells are its text. Terminals are too narrow for
//! columns of sentences. Programs such as lowdown and go-md2man make columns, and join `--` to a dash or lose lines of
//! code that begin with a dot.

use std::mem;

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Bytes of roff up to which the terms of a row share a line.
const TERMS_ON_A_LINE: usize = 80;

/// A part of a page: a heading of level 2 and what follows it. The first part has no heading.
pub(super) struct Part {
    pub(super) heading: Option<String>,
    pub(super) roff: String,
}

/// The first heading, and the parts of a page.
pub(super) fn convert(markdown: &str) -> Result<(String, Vec<Part>), String> {
    let mut writer = Writer { parts: vec![Part { heading: None, roff: String::new() }], ..Writer::default() };
    for event in parse(markdown) {
        writer.event(event)?;
    }
    Ok((writer.title, writer.parts))
}

/// The events of a page, as tests of its contents read them, too.
pub(super) fn parse(markdown: &str) -> Parser<'_> {
    Parser::new_ext(markdown, Options::ENABLE_TABLES)
}

/// Text that means itself in roff.
pub(super) fn escape(text: &str, line_begins: bool) -> String {
    let mut escaped = String::new();
    let mut begins = line_begins;
    for character in text.chars() {
        match character {
            '.' if begins => escaped.push_str("\\&."),
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            other => escaped.push(other),
        }
        begins = character == '\n';
    }
    escaped
}

/// The page's name and section in `name(5)`.
pub(super) fn reference(text: &str) -> Option<(&str, &str)> {
    let (name, section) = text.strip_suffix(')')?.split_once('(')?;
    let named = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let is = !name.is_empty() && name.chars().all(named) && section.len() == 1 && section.parse::<u8>().is_ok();
    is.then_some((name, section))
}

#[derive(Default)]
struct Writer {
    title: String,
    parts: Vec<Part>,
    /// What the text of the present heading, cell or paragraph is gathered in.
    text: String,
    fonts: Vec<&'static str>,
    /// One for each list that is open: whether its present item has had a paragraph.
    lists: Vec<bool>,
    link: Option<(String, usize)>,
    header: Vec<String>,
    cells: Vec<String>,
    in_header: bool,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Start(tag) => self.start(tag)?,
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.write(&text),
            Event::Code(text) => {
                self.font(Some("\\fB"));
                self.write(&text);
                self.font(None);
            }
            Event::SoftBreak => self.text.push('\n'),
            other => return Err(format!("no page has {other:?}")),
        }
        Ok(())
    }

    fn start(&mut self, tag: Tag<'_>) -> Result<(), String> {
        match tag {
            Tag::Paragraph => self.paragraph(),
            Tag::Heading { .. } | Tag::TableRow | Tag::TableCell => {}
            Tag::CodeBlock(_) => {
                self.flush();
                self.put(".PP\n.RS 4\n.EX\n");
            }
            Tag::List(None) => {
                self.flush();
                if !self.lists.is_empty() {
                    self.put(".RS 2\n");
                }
                self.lists.push(false);
            }
            Tag::Item => {
                self.flush();
                self.put(".IP \\(bu 2\n");
                *self.lists.last_mut().expect("an item is in a list") = false;
            }
            Tag::Emphasis => self.font(Some("\\fI")),
            Tag::Strong => self.font(Some("\\fB")),
            Tag::Link { dest_url, .. } => self.link = Some((dest_url.into_string(), self.text.len())),
            Tag::Image { .. } => {
                self.text.push('[');
                self.font(Some("\\fI"));
            }
            Tag::Table(_) => self.flush(),
            Tag::TableHead => self.in_header = true,
            other => return Err(format!("no page has {other:?}")),
        }
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::CodeBlock => {
                let text = mem::take(&mut self.text);
                self.put(&text);
                self.put(".EE\n.RE\n");
            }
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
                self.put(if self.lists.is_empty() { ".PP\n" } else { ".RE\n" });
            }
            TagEnd::Paragraph | TagEnd::Item => self.flush(),
            TagEnd::Emphasis | TagEnd::Strong => self.font(None),
            TagEnd::Link => self.linked(),
            TagEnd::Image => {
                self.font(None);
                self.text.push(']');
            }
            TagEnd::TableCell => {
                let cell = mem::take(&mut self.text);
                if self.in_header { self.header.push(cell) } else { self.cells.push(cell) }
            }
            TagEnd::TableHead => {
                self.in_header = false;
                let header = mem::take(&mut self.header);
                if let [term, text] = &header[..] {
                    self.put(&format!(".TP\n\\fI{term}\\fR\n\\fI{text}\\fR\n"));
                }
                self.header = header;
            }
            TagEnd::TableRow => self.row(),
            TagEnd::Table => {
                self.header.clear();
                self.put(".PP\n");
            }
            _ => {}
        }
    }

    /// What is in force from here on: another font, or the one before it.
    fn font(&mut self, font: Option<&'static str>) {
        match font {
            Some(font) => self.fonts.push(font),
            None => drop(self.fonts.pop()),
        }
        self.text.push_str(self.fonts.last().unwrap_or(&"\\fR"));
    }

    fn write(&mut self, text: &str) {
        let begins = self.text.is_empty() || self.text.ends_with('\n');
        self.text.push_str(&escape(text, begins));
    }

    fn put(&mut self, roff: &str) {
        self.parts.last_mut().expect("there is always a part").roff.push_str(roff);
    }

    /// Ends the line that is gathered.
    fn flush(&mut self) {
        let text = mem::take(&mut self.text);
        if !text.is_empty() {
            self.put(&text);
            self.put("\n");
        }
    }

    fn paragraph(&mut self) {
        self.flush();
        let macros = match self.lists.last_mut() {
            Some(false) => "",
            Some(true) => ".IP \"\" 2\n",
            None => ".PP\n",
        };
        self.put(macros);
        if let Some(had) = self.lists.last_mut() {
            *had = true;
        }
    }

    fn heading(&mut self, level: HeadingLevel) {
        let text = mem::take(&mut self.text);
        match level {
            HeadingLevel::H1 => self.title = text,
            HeadingLevel::H2 => self.parts.push(Part { heading: Some(text), roff: String::new() }),
            _ => self.put(&format!(".SS \"{}\"\n", text.replace('"', "\\(dq"))),
        }
    }

    /// A link to a page is that page's name, as manuals write it; an address stands behind the text; a place in this
    /// page or a file of the source is its text.
    fn linked(&mut self) {
        let (address, from) = self.link.take().expect("a link that ends has begun");
        let text = self.text.split_off(from);
        let plain = text.replace("\\-", "-");
        if let Some((name, section)) = reference(&plain) {
            self.text.push_str(&format!("\\fB{}\\fR({section})", escape(name, false)));
        } else if address.contains("://") && plain != escape(&address, false).replace("\\-", "-") {
            self.text.push_str(&format!("{text} <\\fI{}\\fR>", escape(&address, false)));
        } else {
            self.text.push_str(&text);
        }
    }

    fn row(&mut self) {
        let mut cells = mem::take(&mut self.cells).into_iter();
        let term = cells.next().unwrap_or_default();
        // Several terms that are as long as lines stand on lines of their own.
        let term = if term.len() > TERMS_ON_A_LINE { term.replace("\\fR, \\fB", "\\fR\n.TQ\n\\fB") } else { term };
        self.put(&format!(".TP\n{term}\n"));
        let rest: Vec<String> = cells.collect();
        for (index, text) in rest.iter().enumerate() {
            if index > 0 {
                self.put(".br\n");
            }
            // With more than one text, the head of the column says what it is.
            let head = self.header.get(index + 1).filter(|_| rest.len() > 1).cloned();
            let head = head.map(|head| format!("\\fI{head}\\fR: ")).unwrap_or_default();
            self.put(&format!("{head}{text}\n"));
        }
    }
}
