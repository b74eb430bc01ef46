//! The commands that README.md and the manual tell people to type, typed: each does what stands below it.
//!
//! The blocks of a page run one after the other in one shell, in a folder, a network and processes of their own, with the
//! programs of Debian that the page names. The commands of gwm-package(7) are for tests/package/trial.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

use crate::{
    connect::real::installed,
    harness::{Permit, command, python},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What a page's commands may take; then they are ended.
const SECONDS: &str = "150";

/// What stands before the output of each command.
const MARK: &str = "@@@ next command";

#[test]
fn readme() {
    check("README.md", &["haproxy", "python3", "curl"]);
}

#[test]
fn haproxy_page() {
    check("src/manual/gwm-connect-haproxy.8.md", &["haproxy", "python3", "curl"]);
}

#[test]
fn admin_page() {
    check("src/manual/gwm-admin.7.md", &["curl", "python3"]);
}

#[test]
fn file_page() {
    check("src/manual/gwm-connect-file.8.md", &["nginx", "python3", "curl"]);
}

#[test]
fn agent_checks_page() {
    check("src/manual/gwm-agent-checks.7.md", &["haproxy", "python3", "curl"]);
}

#[test]
fn tls_page() {
    check("src/manual/gwm-tls.7.md", &["openssl"]);
}

#[test]
fn pen_page() {
    check("src/manual/gwm-connect-pen.8.md", &["pen", "socat"]);
}

#[test]
fn nft_page() {
    check("src/manual/gwm-connect-nft.8.md", &["nft", "ip", "python3", "curl"]);
}

#[test]
fn dns_page() {
    check("src/manual/gwm-connect-dns.8.md", &["dig", "haproxy", "python3", "curl"]);
}

#[test]
fn xds_page() {
    check("src/manual/gwm-connect-xds.8.md", &["python3", "curl"]);
}

/// A command, and what it must print.
struct Step {
    command: String,
    output: Vec<String>,
}

/// The commands of a page.
pub(crate) struct Page {
    name: String,
    text: String,
    steps: Vec<Step>,
}

impl Page {
    pub(crate) fn read(name: &str) -> Page {
        let text = fs::read_to_string(Path::new(ROOT).join(name)).expect("the page is there");
        let steps = steps(&text)
            .into_iter()
            // README's two commands are tests/run's own; the others install programs.
            .filter(|step| {
                !["cargo ", "bash tests/run", "apt-get "].iter().any(|begin| step.command.starts_with(begin))
            })
            .collect();
        Page { name: name.into(), text, steps }
    }

    /// All commands, as one script.
    pub(crate) fn script(&self) -> String {
        self.steps.iter().map(|step| format!("echo '{MARK}'\n{}\n", step.command)).collect()
    }

    /// Compares what the script has printed with the page. `said` helps a person if they differ.
    pub(crate) fn judge(&self, printed: &str, said: &str) {
        let (page, mark) = (&self.name, format!("{MARK}\n"));
        let mut parts = printed.split(&mark);
        parts.next();
        for step in &self.steps {
            let part =
                parts.next().unwrap_or_else(|| panic!("{page}: the time was over before: {}\n{said}", step.command));
            // A block of commands without outputs may print what the page does not show.
            if !step.output.is_empty() {
                let same = same(part, &step.output);
                assert!(same, "{page}: {}\nprints\n{part}\nand not\n{}\n{said}", step.command, step.output.join("\n"));
            }
        }
    }
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut block: Option<(String, String)> = None;
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(kind))) => {
                block = Some((kind.into_string(), String::new()))
            }
            Event::Text(text) if let Some((_, code)) = &mut block => code.push_str(&text),
            Event::End(TagEnd::CodeBlock) => match block.take() {
                Some((kind, code)) if kind == "console" => of_console(&code, &mut steps),
                Some((kind, command)) if kind == "sh" => steps.push(Step { command, output: Vec::new() }),
                _ => {}
            },
            _ => {}
        }
    }
    steps
}

/// `$ command`, or `# command` for root, with lines that go on and here-documents, and its output.
fn of_console(code: &str, steps: &mut Vec<Step>) {
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ").or(line.strip_prefix("# ")) else {
            let step = steps.last_mut().expect("output stands after a command");
            step.output.push(line.to_owned());
            continue;
        };
        let mut command = command.to_owned();
        while command.ends_with('\\') {
            command.push('\n');
            command.push_str(lines.next().expect("the line goes on"));
        }
        if command.contains("<<END") {
            for line in lines.by_ref() {
                command.push('\n');
                command.push_str(line);
                if line == "END" {
                    break;
                }
            }
        }
        steps.push(Step { command, output: Vec::new() });
    }
}

/// A folder that is removed when this value is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn check(page: &str, programs: &[&str]) {
    let root = rustix::process::geteuid().is_root();
    assert!(root || env::var_os("CI").is_none(), "namespaces need root");
    if !root || !programs.iter().all(|program| installed(program, program)) {
        eprintln!("left out: this test needs root, {programs:?}");
        return;
    }
    let _permit = Permit::take(1);
    let typed = Page::read(page);
    let name = page.replace('/', "-");
    let folder = Folder(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id())));
    let path = &folder.0;
    fs::create_dir_all(path).expect("a new folder");
    if typed.text.contains("env/bin/envoy") {
        let bin = python("envoy").parent().and_then(Path::parent).expect("a virtual environment").to_owned();
        symlink(bin, path.join("env")).expect("a new link");
    }
    // Envoys find each other by files in /dev/shm.
    let script = format!("ip link set lo up\nmount -t tmpfs none /dev/shm\n{}", typed.script());
    fs::write(path.join("typed.sh"), script).expect("a new file");
    let gwm = command(&[]);
    let folder_of_gwm = Path::new(gwm.get_program()).parent().expect("a folder").to_owned();
    let path_of_programs = format!("{}:/usr/sbin:{}", folder_of_gwm.display(), env::var("PATH").unwrap_or_default());
    let output = Command::new("unshare")
        .args(["--net", "--pid", "--mount-proc", "--fork", "--kill-child", "timeout", SECONDS, "bash", "typed.sh"])
        .current_dir(path)
        .env("PATH", path_of_programs)
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let logs = ["serve.log", "connect.log", "haproxy.log"]
        .map(|log| fs::read_to_string(path.join(log)).map(|text| format!("{log}:\n{text}")).unwrap_or_default());
    let said = format!("{printed}\n{}\n{}", String::from_utf8_lossy(&output.stderr), logs.join("\n"));
    typed.judge(&printed, &said);
}

/// Whether the lines are those of the page, in any order; counts of requests may differ by a few. What daemons in the
/// background print (`gwm: listening on …`) may come a command later.
fn same(printed: &str, page: &[String]) -> bool {
    let words = |line: &&str| !line.is_empty() && !line.starts_with("gwm: ");
    let mut printed: Vec<Vec<&str>> =
        printed.lines().filter(words).map(|line| line.split_whitespace().collect()).collect();
    let page = page.iter().map(String::as_str).filter(words);
    let mut page: Vec<Vec<&str>> = page.map(|line| line.split_whitespace().collect()).collect();
    let by_name = |line: &Vec<&str>| line.last().map(ToString::to_string);
    printed.sort_by_key(by_name);
    page.sort_by_key(by_name);
    printed.len() == page.len() && printed.iter().zip(&page).all(|(printed, page)| alike(printed, page))
}

/// Whether the words are the same, or two times, or nearly the same numbers: on a busy machine a check may take too long,
/// and a weight of 30 is 29 then; of few requests, some more go to one server.
fn alike(printed: &[&str], page: &[&str]) -> bool {
    let least = if page.len() == 2 { 8 } else { 1 };
    let near = |(printed, page): (&&str, &&str)| match (printed.parse::<i64>(), page.parse::<i64>()) {
        (Ok(printed), Ok(page)) => (printed - page).abs() <= (page / 10).max(least),
        _ => printed == page || (is_time(printed) && is_time(page)),
    };
    printed.len() == page.len() && printed.iter().zip(page).all(near)
}

/// `2026-11-28T22:00:00.000Z`, with a comma or without.
fn is_time(word: &str) -> bool {
    let digits = word.trim_end_matches(',').replace(|digit: char| digit.is_ascii_digit(), "0");
    digits == "0000-00-00T00:00:00.000Z"
}
