//! The layers of the library: each names only those that it may know, and only the runtime names glommio.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A folder or file of `src`, and which of the crate's modules it must not name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("sasp", &["session", "coordinator", "runtime", "client", "cli", "config", "limits"]),
    ("session.rs", &["coordinator", "runtime", "client", "cli", "config"]),
    ("coordinator", &["monitor", "runtime", "client", "cli", "config"]),
    ("monitor", &["session", "coordinator", "runtime", "client", "cli", "config"]),
    ("roster.rs", &["session", "coordinator", "monitor", "runtime", "client", "cli", "config"]),
    ("access", &["session", "coordinator", "monitor", "runtime", "client", "cli", "config"]),
    ("network.rs", &["access", "roster", "session", "coordinator", "monitor", "runtime", "client", "cli", "config"]),
    ("client", &["session", "coordinator", "runtime", "cli", "config"]),
    ("config", &["runtime", "client", "cli"]),
    ("runtime", &["client", "cli"]),
];

/// What the layers that do no I/O, read no clock, hold no lock and draw no random number must not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::io",
    "TcpStream",
    "UdpSocket",
    "Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "std::thread",
    "atomic",
    "mpsc",
    "Condvar",
    "OnceLock",
    "LazyLock",
    "RandomState",
    "rustix",
    "socket2",
    "std::process",
    "std::env",
];

const PURE: &[&str] = &["sasp", "session.rs", "access", "network.rs", "roster.rs", "monitor", "coordinator"];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("the source folder can be read") {
            sources(&entry.expect("a folder entry can be read").path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_path_buf());
    }
}

fn files(part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(part), &mut found);
    if !part.is_empty() {
        // A module may be a file beside its folder.
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(format!("{part}.rs"));
        found.extend(beside.is_file().then_some(beside));
        assert!(!found.is_empty(), "src/{part} has no sources: the list of layers is out of date");
    }
    found
}

/// The lines of a file that are code, up to its unit tests, with their numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file can be read");
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number + 1, line.to_owned()))
        .collect()
}

/// Whether `line` names `word` as a whole word.
fn names(line: &str, word: &str) -> bool {
    let boundary = |character: Option<char>| !character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word)
        .any(|(at, _)| boundary(line[..at].chars().next_back()) && boundary(line[at + word.len()..].chars().next()))
}

fn violations(files: &[PathBuf], broken: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in files {
        for (number, line) in code(path) {
            if broken(&line) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    found
}

#[test]
fn layers_name_only_those_they_may_know() {
    for (layer, forbidden) in FORBIDDEN {
        let found = violations(&files(layer), |line| {
            (line.contains("crate::") || line.contains("gwm::") || line.contains("super::super"))
                && forbidden.iter().any(|module| names(line, module))
        });
        assert!(found.is_empty(), "{layer} names a layer that it must not know:\n{}", found.join("\n"));
    }
}

#[test]
fn only_the_runtime_names_glommio() {
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/runtime");
    let others: Vec<PathBuf> = files("").into_iter().filter(|path| !path.starts_with(&runtime)).collect();
    let found = violations(&others, |line| names(line, "glommio"));
    assert!(found.is_empty(), "glommio is named outside the runtime:\n{}", found.join("\n"));
    assert!(
        files("runtime").iter().any(|path| code(path).iter().any(|(_, line)| names(line, "glommio"))),
        "the runtime does not name glommio: this test looks in the wrong place"
    );
}

#[test]
fn the_pure_layers_do_no_io_and_read_no_clock() {
    for layer in PURE {
        let found = violations(&files(layer), |line| IMPURE.iter().any(|word| names(line, word)));
        assert!(found.is_empty(), "{layer} is not pure:\n{}", found.join("\n"));
    }
}

#[test]
fn unsafe_code_stands_only_in_modules_that_allow_it() {
    let found: Vec<String> = files("")
        .into_iter()
        .filter(|path| {
            let text = fs::read_to_string(path).expect("a source file can be read");
            code(path).iter().any(|(_, line)| names(line, "unsafe")) && !text.contains("#![allow(unsafe_code)]")
        })
        .map(|path| path.display().to_string())
        .collect();
    assert!(found.is_empty(), "unsafe code outside a module of its own: {found:?}");
}
