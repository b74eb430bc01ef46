//! What the manual, README.md and `--help` refer to exists: pages, files, headings, flags, variables, metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use clap::Command;
use pulldown_cmark::{CodeBlockKind, Event, Tag, TagEnd};
use regex::Regex;

use super::{commands, hand_written, pages, roff};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Other programs whose flags pages name.
const PROGRAMS: &[&str] = &[
    "apt",
    "apt-get",
    "bash",
    "busybox",
    "cargo",
    "curl",
    "dig",
    "docker",
    "etcd",
    "haproxy",
    "ip",
    "ipvsadm",
    "mkdir",
    "nft",
    "nginx",
    "openssl",
    "pen",
    "python3",
    "socat",
    "systemctl",
    "systemd-analyze",
    "tcpdump",
    "tsig-keygen",
    "ulimit",
    "unshare",
];

/// Flags of other programs that text names without the program.
const FOREIGN: &[&str] = &["--pids-limit", "--security-opt", "--ulimit"];

/// Variables that are no flag's.
const VARIABLES: &[&str] = &["GWM_FUZZ_ITERATIONS", "GWM_MANUAL"];

/// A text that people read, and where it stands.
struct Text {
    path: PathBuf,
    text: String,
}

fn texts() -> Vec<Text> {
    let pages = hand_written().into_iter().map(|page| {
        let path = Path::new(ROOT).join(format!("src/manual/{}.{}.md", page.name, page.section));
        Text { path, text: page.text }
    });
    let others = ["README.md"].map(|name| {
        let path = Path::new(ROOT).join(name);
        Text { text: fs::read_to_string(&path).expect("it is there"), path }
    });
    pages.chain(others).collect()
}

/// What is read in a text: code of a line, with the lines of code blocks, and links.
#[derive(Default)]
struct Contents {
    spans: Vec<String>,
    /// Lines of blocks, continued lines joined.
    lines: Vec<String>,
    links: Vec<(String, String)>,
    headings: BTreeSet<String>,
}

fn contents(text: &str) -> Contents {
    let mut found = Contents::default();
    let (mut block, mut heading, mut link) = (None, None, None);
    for event in roff::parse(text) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))) => block = Some(String::new()),
            Event::End(TagEnd::CodeBlock) => {
                let lines = block.take().unwrap_or_default().replace("\\\n", " ");
                found.lines.extend(lines.lines().map(ToOwned::to_owned));
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                found.headings.insert(anchor(&heading.take().unwrap_or_default()));
            }
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                link = Some((String::new(), dest_url.into_string()));
            }
            Event::End(TagEnd::Link | TagEnd::Image) => found.links.extend(link.take()),
            Event::Text(text) | Event::Code(text) if block.is_some() || heading.is_some() || link.is_some() => {
                for into in [&mut block, &mut heading].into_iter().flatten().chain(link.as_mut().map(|(text, _)| text))
                {
                    into.push_str(&text);
                }
            }
            Event::Code(text) => found.spans.push(text.into_string()),
            _ => {}
        }
    }
    found
}

/// The name of a heading in a link, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for Text { path, text } in texts() {
        for (shown, link) in contents(&text).links {
            if link.contains("://") {
                continue;
            }
            let (file, place) = link.split_once('#').map_or((link.as_str(), None), |(file, place)| (file, Some(place)));
            let target = if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            // The page that is named is the page that the link leads to.
            let misnamed = roff::reference(&shown).is_some_and(|(name, section)| {
                target.file_name().is_none_or(|file| *file != *format!("{name}.{section}.md"))
            });
            let is_there = target.exists()
                && place.is_none_or(|place| {
                    // A page of a command has the headings of clap_mangen, too.
                    let text = fs::read_to_string(&target).unwrap_or_default();
                    contents(&text).headings.contains(place)
                });
            if misnamed || !is_there {
                dead.push(format!("{}: [{shown}]({link})", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn pages_that_are_named_exist() {
    static NAME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?-u)\b(gwm(?:[-.][a-z]+)*)(?:\*\*)?\(([1-8])\)").expect("it is valid"));
    let pages = pages();
    let mut all: Vec<(String, String)> =
        texts().into_iter().map(|text| (text.path.display().to_string(), text.text)).collect();
    for mut named in commands::all() {
        all.push((format!("{} --help", named.name), named.command.render_long_help().to_string()));
    }
    let mut dead = Vec::new();
    for (place, text) in &all {
        for found in NAME.captures_iter(text) {
            if !pages.contains_key(&format!("{}.{}", &found[1], &found[2])) {
                dead.push(format!("{place}: {}", &found[0]));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// The flags of each command, with those of the commands that it belongs to; and all variables.
struct Flags {
    by_command: BTreeMap<String, BTreeSet<String>>,
    all: BTreeSet<String>,
    variables: BTreeSet<String>,
}

fn flags() -> Flags {
    let mut flags = Flags { by_command: BTreeMap::new(), all: BTreeSet::new(), variables: BTreeSet::new() };
    for named in commands::all() {
        let own: BTreeSet<String> = long_flags(&named.command).collect();
        flags.all.extend(own.iter().cloned());
        let variables = named.command.get_arguments().filter_map(|argument| argument.get_env());
        flags.variables.extend(variables.map(|name| name.to_string_lossy().into_owned()));
        flags.by_command.insert(named.name, own);
    }
    // `--flag` before the subcommand is the parent's.
    let names: Vec<String> = flags.by_command.keys().cloned().collect();
    for name in &names {
        let parents =
            names.iter().filter(|parent| name.strip_prefix(*parent).is_some_and(|rest| rest.starts_with('-')));
        let inherited: BTreeSet<String> = parents.flat_map(|parent| flags.by_command[parent].clone()).collect();
        flags.by_command.get_mut(name).expect("it was there").extend(inherited);
    }
    flags
}

fn long_flags(command: &Command) -> impl Iterator<Item = String> {
    let longs = command.get_arguments().filter_map(|argument| argument.get_long());
    longs.chain(["help", "version"]).map(|flag| format!("--{flag}")).collect::<Vec<_>>().into_iter()
}

fn named_flags(code: &str) -> impl Iterator<Item = &str> {
    static FLAG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?-u)(?:^|[\s\[(|/=,])(--[a-z][a-z0-9-]*)").expect("it is valid"));
    FLAG.captures_iter(code).map(|found| found.get(1).expect("the flag").as_str())
}

#[test]
fn flags_that_are_named_exist() {
    let flags = flags();
    let mut dead = Vec::new();
    for Text { path, text } in texts() {
        let contents = contents(&text);
        for span in &contents.spans {
            let program = span.split(' ').next().unwrap_or_default();
            let known = |flag: &str| flags.all.contains(flag) || FOREIGN.contains(&flag) || flag.ends_with('-');
            if !PROGRAMS.contains(&program) {
                let unknown = named_flags(span).filter(|flag| !known(flag));
                dead.extend(unknown.map(|flag| format!("{}: {flag} of `{span}`", path.display())));
            }
        }
        // In blocks, flags are those of the very command.
        static SEPARATORS: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(?-u)\||;|&&| & |\$\(").expect("it is valid"));
        static QUOTED: LazyLock<Regex> = LazyLock::new(|| Regex::new("'[^']*'").expect("it is valid"));
        for line in &contents.lines {
            for command in SEPARATORS.split(&QUOTED.replace_all(line, "_")) {
                let command = command.trim_start_matches(['$', '#', ' ', '-']);
                let command = command.rsplit_once("/usr/bin/").map_or(command, |(_, command)| command);
                let mut words = command.split_whitespace().skip_while(|word| *word == "until");
                if words.next() != Some("gwm") {
                    continue;
                }
                let mut name = "gwm".to_owned();
                let words: Vec<&str> = words.take_while(|word| *word != "--").collect();
                for word in &words {
                    let longer = format!("{name}-{word}");
                    if flags.by_command.contains_key(&longer) {
                        name = longer;
                    }
                }
                let own = &flags.by_command[&name];
                let unknown = words.iter().filter(|word| word.starts_with("--"));
                let unknown =
                    unknown.map(|word| word.split('=').next().expect("a part")).filter(|flag| !own.contains(*flag));
                dead.extend(unknown.map(|flag| format!("{}: {name} has no {flag}: {line}", path.display())));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn variables_and_metrics_that_are_named_exist() {
    static VARIABLE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?-u)\bGWM_[A-Z0-9_]*[A-Z0-9]\b").expect("it is valid"));
    static METRIC: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?-u)\bgwm_[a-z0-9_]+\b").expect("it is valid"));
    let flags = flags();
    let source = source_of(Path::new(super::SRC));
    let mut dead = Vec::new();
    for Text { path, text } in texts() {
        let variables = VARIABLE.find_iter(&text).map(|found| found.as_str());
        let known = |name: &str| {
            // `GWM_CLIENT_TLS` and `GWM_TLS_…` are the begins of names.
            VARIABLES.contains(&name) || flags.variables.iter().any(|variable| variable.starts_with(name))
        };
        dead.extend(variables.filter(|name| !known(name)).map(|name| format!("{}: {name}", path.display())));
        let metrics = METRIC.find_iter(&text).map(|found| found.as_str());
        let metrics = metrics.filter(|name| !source.contains(name.trim_end_matches("_total")));
        dead.extend(metrics.map(|name| format!("{}: {name}", path.display())));
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// The code of src, joined.
fn source_of(folder: &Path) -> String {
    let mut joined = String::new();
    for entry in fs::read_dir(folder).expect("a folder of src").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            joined.push_str(&source_of(&entry));
        } else if entry.extension().is_some_and(|end| end == "rs") {
            joined.push_str(&fs::read_to_string(&entry).expect("a source is text"));
        }
    }
    joined
}

/// Paths of the source in code: `src/…`, `tests/…`, `loadgen/…`.
#[test]
fn files_that_are_named_exist() {
    static FILE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?-u)^(?:bash )?((?:src|tests|loadgen|benches)/[A-Za-z0-9_./-]*)").expect("it is valid")
    });
    let mut dead = Vec::new();
    for Text { path, text } in texts() {
        for span in contents(&text).spans {
            if let Some(found) = FILE.captures(&span)
                && !Path::new(ROOT).join(&found[1]).exists()
                && !Path::new(ROOT).join(format!("{}.rs", &found[1])).exists()
            {
                dead.push(format!("{}: {span}", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}
