//! The manual: man pages made of `src/manual/*.md` and of the definitions of the command line.
//!
//! `bash src/manual/build DIR` writes the pages, by the test [`write`]; so the binary has nothing of this. Other tests look for
//! mistakes that `man` and `groff` see, for references to what does not exist, and for log lines that nobody explains.

mod commands;
mod logs;
mod references;
mod roff;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use commands::Named;

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// A hand-written page.
struct Page {
    /// `gwm-members` and `5` of `gwm-members.5.md`.
    name: String,
    section: String,
    text: String,
}

/// The files of `src/manual/`, in order of their names.
fn hand_written() -> Vec<Page> {
    let mut files: Vec<PathBuf> = fs::read_dir(format!("{SRC}/manual"))
        .expect("src/manual is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    files.sort();
    let page = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("text");
        let (name, section) = stem.rsplit_once('.').unwrap_or_else(|| panic!("{stem}.md has no section"));
        let text = fs::read_to_string(path).expect("a page can be read");
        Page { name: name.to_owned(), section: section.to_owned(), text }
    };
    files.iter().map(page).collect()
}

/// Every page of the manual: its file's name, such as `gwm-serve.8`, and its roff.
fn pages() -> BTreeMap<String, String> {
    let commands = commands::all();
    let mut by_hand = hand_written();
    let mut pages = BTreeMap::new();
    for command in &commands {
        let text = by_hand.iter().position(|page| page.name == command.name && page.section == command.section);
        let text = text.map(|at| by_hand.remove(at));
        let (_, parts) = text.map(|page| convert(&page)).unwrap_or_default();
        pages.insert(format!("{}.{}", command.name, command.section), command.page(parts));
    }
    for page in by_hand {
        let (about, parts) = convert(&page);
        let Page { name, section, .. } = &page;
        let mut roff = head(name, section);
        roff.push_str(&format!(".SH NAME\n{} \\- {about}\n", roff::escape(name, true)));
        roff.extend(parts.into_iter().map(|part| match part.heading {
            None => format!(".SH DESCRIPTION\n{}", part.roff),
            Some(heading) => format!(".SH \"{}\"\n{}", heading.to_uppercase(), part.roff),
        }));
        pages.insert(format!("{name}.{section}"), roff);
    }
    pages
}

/// What a page is about, and its parts.
fn convert(page: &Page) -> (String, Vec<roff::Part>) {
    let file = format!("{}.{}.md", page.name, page.section);
    let (title, parts) = roff::convert(&page.text).unwrap_or_else(|fault| panic!("{file}: {fault}"));
    let named = roff::escape(&format!("{}({}): ", page.name, page.section), true);
    let about = title.strip_prefix(&named).unwrap_or_else(|| panic!("{file} does not begin with \"# {named}\""));
    (about.to_owned(), parts)
}

/// The first line of a page.
fn head(name: &str, section: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH \"{}\" \"{section}\" \"\" \"gwm {version}\" \"Manual of gwm\"\n", name.to_uppercase())
}

/// Writes all pages into the folder that the variable `GWM_MANUAL` names.
#[test]
#[ignore = "writes files, for src/manual/build"]
fn write() {
    let folder = PathBuf::from(env::var_os("GWM_MANUAL").expect("GWM_MANUAL names the folder"));
    fs::create_dir_all(&folder).expect("the folder can be made");
    for (file, roff) in pages() {
        fs::write(folder.join(file), roff).expect("a page can be written");
    }
}

/// `man` and `groff` have nothing to say about any page, on a terminal of 80 columns.
#[test]
fn man_has_no_warning() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("manual-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder can be made");
    let mut said = String::new();
    for (file, roff) in pages() {
        let path = folder.join(&file);
        fs::write(&path, roff).expect("a page can be written");
        let output = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(&path)
            .envs([("LC_ALL", "C.UTF-8"), ("MANROFFSEQ", ""), ("MANWIDTH", "80")])
            .stdin(File::open("/dev/null").expect("it is there"))
            .output()
            .expect("man runs: tests/run installs man-db");
        assert!(!output.stdout.is_empty(), "man shows nothing of {file}");
        said.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    fs::remove_dir_all(&folder).expect("the folder can be removed");
    assert!(said.is_empty(), "{said}");
}

/// Each command has a page, and what it can be given stands there.
#[test]
fn every_command_has_its_page_and_flags() {
    let pages = pages();
    for Named { name, section, command, .. } in commands::all() {
        let page = &pages[&format!("{name}.{section}")];
        for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
            let shown = format!("\\-\\-{}", flag.replace('-', "\\-"));
            assert!(page.contains(&shown), "{name}({section}) lacks --{flag}");
        }
    }
}
