//! A file that is written anew when weights change, and a command that is run after that: for every load balancer that
//! reads its servers from a file.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use rustix::fs::Access;
use serde::Serialize;

use super::{Applied, Connector, Fault, Pool, Wanted, WantedMember, scale::scale, standing_name};
use crate::sasp::{Escaped, component::UDP};

/// The most bytes of a template, and of the file that is compared with what the template gives.
const FILE_BYTES: u64 = 16 << 20;

/// What to write, where, and what to run.
pub struct Settings {
    /// The template's text (minijinja).
    pub template: String,
    /// The file to replace.
    pub output: PathBuf,
    /// A shell command to run after the file was replaced.
    pub command: Option<String>,
    /// How long the command may take.
    pub command_timeout: Duration,
    /// The least time between two replacements.
    pub min_interval: Duration,
    /// The heaviest member of a group has this weight in the template.
    pub max_weight: u32,
    /// The groups, as pools.
    pub pools: Vec<Pool>,
}

/// A file and a command.
pub struct FileConnector {
    settings: Settings,
    template: Environment<'static>,
    /// What the file has now; `None`: there is no file, or another one.
    present: Option<String>,
    /// When the file was replaced last, or a replacement failed.
    last: Option<Instant>,
    /// The command has not succeeded since the file was replaced, or since the start.
    command_due: bool,
}

const NAME: &str = "template";

/// The one step of this connector.
pub struct Step {
    output: PathBuf,
    /// What the template gives, or why it gives nothing.
    text: Result<String, String>,
    command: Option<String>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Ok(text) => write!(f, "write {} ({} bytes)", self.output.display(), text.len())?,
            Err(error) => return f.write_str(error),
        }
        match &self.command {
            Some(command) => write!(f, ", then run: {command}"),
            None => Ok(()),
        }
    }
}

/// A group as the template sees it.
#[derive(Serialize)]
struct GroupView {
    name: String,
    members: Vec<MemberView>,
}

/// A member as the template sees it.
#[derive(Serialize)]
struct MemberView {
    address: String,
    port: u16,
    protocol: String,
    label: String,
    weight: u32,
    state: &'static str,
}

impl FileConnector {
    /// Reads the template; an error is one of its text.
    pub fn new(settings: Settings) -> Result<FileConnector, String> {
        let mut template = Environment::new();
        template.set_undefined_behavior(UndefinedBehavior::Strict);
        template.set_keep_trailing_newline(true);
        template.add_template_owned(NAME, settings.template.clone()).map_err(|error| explain(&error))?;
        // An earlier process may have ended between the two: the command runs once at the start.
        let command_due = settings.command.is_some();
        let connector = FileConnector { template, present: None, last: None, command_due, settings };
        // Finds a name that does not exist before the first weights come.
        connector.render(&connector.usual(&connector.settings.pools))?;
        Ok(connector)
    }

    fn render(&self, wanted: &[Wanted]) -> Result<String, String> {
        let groups: Vec<_> = wanted.iter().map(|pool| group_view(pool, self.settings.max_weight)).collect();
        let template = self.template.get_template(NAME).map_err(|error| explain(&error))?;
        let text = template.render(context! { groups }).map_err(|error| explain(&error))?;
        match text.len() as u64 {
            0..FILE_BYTES => Ok(text),
            bytes => Err(format!("template: it gives {bytes} bytes, and less than {FILE_BYTES} are written")),
        }
    }

    /// All members with the share that they have without a GWM.
    fn usual(&self, pools: &[Pool]) -> Vec<Wanted> {
        pools.iter().map(Wanted::usual).collect()
    }

    fn step(&self, wanted: &[Wanted]) -> Vec<Step> {
        let text = self.render(wanted);
        if text.as_ref().ok() == self.present.as_ref() && text.is_ok() && !self.command_due {
            return Vec::new();
        }
        vec![Step { output: self.settings.output.clone(), text, command: self.settings.command.clone() }]
    }
}

impl Connector for FileConnector {
    type Step = Step;

    const NOTHING_TO_OBSERVE: Option<&'static str> = Some("a file does not tell what its reader does with the members");

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        self.present = match read(&self.settings.output) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fault("read", &self.settings.output, error)),
        };
        Ok(self.settings.pools.clone())
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        match self.last {
            Some(last) if last.elapsed() < self.settings.min_interval => Vec::new(),
            _ => self.step(wanted),
        }
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let chosen: Vec<Pool> = self.settings.pools.iter().filter(|pool| pools.contains(&pool.name)).cloned().collect();
        self.step(&self.usual(&chosen))
    }

    fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
        for step in steps {
            self.last = Some(Instant::now());
            let text = match step.text {
                Ok(text) => text,
                Err(error) => {
                    applied.refused.push(error);
                    continue;
                }
            };
            if self.present.as_ref() != Some(&text) {
                replace(&step.output, &text).map_err(|error| fault("write", &step.output, error))?;
                self.command_due = step.command.is_some();
            }
            if let Some(command) = step.command.as_ref().filter(|_| self.command_due) {
                match run(command, self.settings.command_timeout) {
                    Ok(()) => self.command_due = false,
                    Err(why) => {
                        applied.refused.push(format!("the command `{command}` {why}; it is run again"));
                        continue;
                    }
                }
            }
            applied.done += 1;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Fault> {
        let output = &self.settings.output;
        check_folder(output).map_err(|error| fault("write", output, error))
    }
}

/// Whether a file can be made in the folder of this file.
fn check_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

fn group_view(pool: &Wanted, max_weight: u32) -> GroupView {
    let standings: Vec<_> = pool.members.iter().map(|member| member.standing).collect();
    let weights = scale(&standings, &vec![1; standings.len()], max_weight);
    let member = |(member, weight): (&WantedMember, u32)| MemberView {
        address: member.endpoint.ip().to_string(),
        port: member.endpoint.port,
        protocol: match member.endpoint.protocol {
            crate::sasp::component::TCP => "tcp".into(),
            UDP => "udp".into(),
            other => other.to_string(),
        },
        label: Escaped(&member.label).to_string(),
        weight,
        state: standing_name(member.standing),
    };
    GroupView { name: Escaped(&pool.pool).to_string(), members: pool.members.iter().zip(weights).map(member).collect() }
}

/// The error with its causes, in one line.
fn explain(error: &minijinja::Error) -> String {
    let mut text = match error.line() {
        Some(line) => format!("template, line {line}: {}", error.kind()),
        None => format!("template: {}", error.kind()),
    };
    if error.kind() == ErrorKind::UndefinedError {
        text += ": a group has name and members; a member has address, port, protocol, label, weight and state";
    }
    if let Some(detail) = error.detail() {
        text += &format!(": {detail}");
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn fault(doing: &str, path: &Path, error: io::Error) -> Fault {
    Fault::Io { what: format!("can not {doing} {}", path.display()), error }
}

/// The text of a file; `None` if the file is too large or not text: then it is not what a template gave.
fn read(path: &Path) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).ok())
}

/// The whole file at once: a reader sees the old or the new one. A file that exists keeps its mode.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
    // One name: what a crash has left here is written over.
    let new = path.with_file_name(format!(".{name}.gwm-new"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        file.write_all(text.as_bytes())?;
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(fs::Permissions::from_mode(old.permissions().mode()))?;
        }
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new); // the first error is what matters
    }
    written
}

/// Runs a shell command; its output goes to stderr. An error says how it ended.
fn run(command: &str, timeout: Duration) -> Result<(), String> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(io::stderr()).process_group(0);
    let mut child = shell.spawn().map_err(|error| format!("can not be started: {error}"))?;
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("failed: {status}")),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let group = rustix::process::Pid::from_child(&child);
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                let _ = child.wait();
                return Err(format!("took longer than {} and was killed", humantime::format_duration(timeout)));
            }
            Err(error) => return Err(format!("can not be waited for: {error}")),
        }
    }
}
