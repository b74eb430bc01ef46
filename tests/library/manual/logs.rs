//! `gwm-troubleshooting.7.md` has each line that the code can log for an operator, and no other.
//!
//! Lines are found in the tokens of the source: the format string of each `error!`, `warn!` and `info!`. Where such a line
//! is nothing but a value, and where a line ends with a reason, [`TEXTS`] names the functions that have the words.

use std::{collections::BTreeSet, fs, path::Path};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use pulldown_cmark::{Event, Tag, TagEnd};

use super::{SRC, roff};

/// Functions whose literals are lines, or reasons in lines. A word alone is no line: only literals with a space count.
const TEXTS: &[(&str, &[&str])] = &[
    ("agent/link.rs", &["refusal"]),
    ("cli/agent/mod.rs", &["own_address"]),
    ("client/error.rs", &["fmt"]),
    ("config/idle.rs", &["warnings"]),
    ("config/members/idle.rs", &["warnings"]),
    ("connect/follower.rs", &["follow"]),
    ("coordinator/rights.rs", &["text"]),
    ("coordinator/unmatched.rs", &["fmt"]),
    ("monitor/explanation.rs", &["fmt"]),
    ("monitor/outcome.rs", &["fmt"]),
    ("monitor/table/words.rs", &["reason", "vain", "unused"]),
    ("runtime/agent_thread/unknown_log.rs", &["take", "note", "note_wrong"]),
    ("runtime/error.rs", &["fmt"]),
    ("runtime/journal_thread/mod.rs", &["slow"]),
    ("runtime/shard/cause.rs", &["text"]),
    ("runtime/shard/listener.rs", &["accept"]),
    ("tls.rs", &["expiry"]),
];

/// Files with lines that are nothing but a value, whose words are in [`TEXTS`] or a load balancer's own.
const VALUES: &[&str] = &[
    "agent/link.rs",                          // client/error.rs
    "connect/engine.rs",                      // the load balancer's
    "connect/follower.rs",                    // client/error.rs
    "connect/ipvs.rs",                        // a service and what is wrong with it
    "connect/xds/lines.rs",                   // clients of xDS
    "runtime/agent_thread/mod.rs",            // unknown_log.rs
    "runtime/coordinator_thread/ports.rs",    // coordinator/unmatched.rs
    "runtime/coordinator_thread/turn_log.rs", // monitor/table/words.rs
    "runtime/daemon/listen.rs",               // config/idle.rs, config/members/idle.rs
    "runtime/daemon/reload.rs",               // the same, tls.rs
    "runtime/log.rs",                         // a panic's
    "runtime/shard/listener.rs",
    "runtime/shard/monitoring.rs", // monitor/table/words.rs
];

/// The table of metrics makes its lines by a macro: these are their names in it.
const METRICS: &str = "metrics.rs";

#[test]
fn every_line_of_the_log_is_explained() {
    let source = lines_of_source();
    let page = lines_of_page();
    let missing: Vec<&String> = source.difference(&page).collect();
    let stale: Vec<&String> = page.difference(&source).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "src/manual/gwm-troubleshooting.7.md lacks {missing:#?}, and has what no code says: {stale:#?}"
    );
}

/// The lines of the source, with `…` for values.
fn lines_of_source() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut values = BTreeSet::new();
    for file in files(Path::new(SRC)) {
        let tokens = tokens(&file);
        if file == METRICS {
            of_metrics(&tokens, &mut lines);
        } else {
            let mut found = Vec::new();
            of_macros(tokens, &file, &mut found);
            for line in found {
                // A value alone, or values with what joins them.
                let is_value = !line.chars().any(char::is_alphabetic);
                if is_value {
                    values.insert(file.clone())
                } else {
                    lines.insert(line)
                };
            }
        }
    }
    assert_eq!(values, VALUES.iter().map(ToString::to_string).collect(), "files with lines that are values alone");
    for (file, functions) in TEXTS {
        for function in *functions {
            let mut literals = Vec::new();
            of_function(tokens(file), function, &mut literals);
            assert!(!literals.is_empty(), "src/{file} has no function {function} with literals");
            lines.extend(literals.into_iter().filter(|line| is_words(line)).map(|line| line.trim().to_owned()));
        }
    }
    lines
}

/// The lines of the page: the code in the first column of its tables.
fn lines_of_page() -> BTreeSet<String> {
    let text = fs::read_to_string(format!("{SRC}/manual/gwm-troubleshooting.7.md")).expect("the page is there");
    let mut lines = BTreeSet::new();
    let (mut column, mut is_head, mut is_about_lines) = (0, false, false);
    for event in roff::parse(&text) {
        match event {
            Event::Start(Tag::TableHead) => (column, is_head) = (0, true),
            Event::End(TagEnd::TableHead) => is_head = false,
            Event::Start(Tag::TableRow) => column = 0,
            Event::End(TagEnd::TableCell) => column += 1,
            // Other tables of the page have other heads.
            Event::Text(head) if is_head && column == 0 => {
                is_about_lines = ["line", "reason", "cause"].contains(&&*head)
            }
            Event::Code(line) if column == 0 && is_about_lines => {
                lines.insert(line.trim().to_owned());
            }
            _ => {}
        }
    }
    lines.retain(|line| line.chars().any(char::is_alphabetic));
    lines
}

fn is_words(literal: &str) -> bool {
    literal.trim().contains(' ') && literal.chars().any(char::is_alphabetic)
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of src").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else if entry.extension().is_some_and(|end| end == "rs") {
            let path = entry.strip_prefix(SRC).expect("a path in src").to_str().expect("text").to_owned();
            found.push(path);
        }
    }
    found
}

fn tokens(file: &str) -> TokenStream {
    let text = fs::read_to_string(format!("{SRC}/{file}")).unwrap_or_else(|error| panic!("src/{file}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("src/{file}: {error}"))
}

/// The lines of the macros in these tokens, but for tests.
fn of_macros(tokens: TokenStream, file: &str, lines: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let before = |back: usize| at.checked_sub(back).map(|at| tokens[at].to_string()).unwrap_or_default();
        let TokenTree::Group(group) = token else { continue };
        if before(1) == "tests" && before(2) == "mod" {
            continue;
        }
        if before(1) == "!" && ["error", "warn", "info"].contains(&&*before(2)) {
            let line = message(group.stream());
            lines.push(line.unwrap_or_else(|| panic!("src/{file}: a log line without a literal: {group}")));
        }
        of_macros(group.stream(), file, lines);
    }
}

/// The format string of a log macro: the first argument that is a literal and not the value of a field.
fn message(arguments: TokenStream) -> Option<String> {
    let mut begins = true;
    for token in arguments {
        match token {
            TokenTree::Literal(literal) if begins => return string(&literal.to_string()),
            TokenTree::Punct(punct) if punct.as_char() == ',' => begins = true,
            _ => begins = false,
        }
    }
    None
}

/// The literals in the body of each function of this name.
fn of_function(tokens: TokenStream, name: &str, literals: &mut Vec<String>) {
    let mut state = 0; // 1 after `fn`, 2 after its name
    for token in tokens {
        match &token {
            TokenTree::Ident(ident) if *ident == "fn" => state = 1,
            TokenTree::Ident(ident) if state == 1 => state = if *ident == name { 2 } else { 0 },
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                if state == 2 {
                    all_literals(group.stream(), literals);
                } else {
                    of_function(group.stream(), name, literals);
                }
                state = 0;
            }
            _ => {}
        }
    }
}

fn all_literals(tokens: TokenStream, literals: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => all_literals(group.stream(), literals),
            TokenTree::Literal(literal) => literals.extend(string(&literal.to_string())),
            _ => {}
        }
    }
}

/// The lines of the table of metrics: `line "stopped" { … }`, and `requests, "not accepted (0x11)" = …`.
fn of_metrics(tokens: &TokenStream, lines: &mut BTreeSet<String>) {
    let mut all = Vec::new();
    flatten(tokens.clone(), &mut all);
    for window in all.windows(4) {
        let text: Vec<String> = window.iter().map(ToString::to_string).collect();
        if let (Some(line), true) = (string(&text[1]), text[0] == "line") {
            lines.insert(line);
        }
        if let (Some(line), true) = (string(&text[2]), text[1] == "," && text[3] == "=") {
            lines.insert(format!("{line}: …"));
        }
    }
}

fn flatten(tokens: TokenStream, all: &mut Vec<TokenTree>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => flatten(group.stream(), all),
            other => all.push(other),
        }
    }
}

/// The text of a string literal, with `…` for each value.
fn string(literal: &str) -> Option<String> {
    let text = syn::parse_str::<syn::LitStr>(literal).ok()?.value();
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(['{', '}']) {
        shown.push_str(before);
        let brace = rest[before.len()..].chars().next().expect("it was found");
        if let Some(after) = after.strip_prefix(brace) {
            shown.push(brace);
            rest = after;
        } else {
            shown.push('…');
            rest = after.split_once('}').map_or("", |(_, after)| after);
        }
    }
    shown.push_str(rest);
    Some(shown)
}
