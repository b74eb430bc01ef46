//! The measured process: `gwm serve`, started for the run or already running, or the floor.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Result,
    child::Guarded,
    files::{MembersFile, MemoryFile},
    floor,
    options::{Common, ServerOptions},
    process::{Memory, Usage},
};

/// How long a server is given to read its members file again before load balancers register.
const REREADING: Duration = Duration::from_secs(1);

/// How often one looks whether the server has nothing to do, and how many times it must have had nothing to do.
const LOOK: Duration = Duration::from_millis(20);
const QUIET_LOOKS: u32 = 5;

/// A process to connect to.
pub(crate) struct Subject {
    pub(crate) address: SocketAddr,
    pid: Option<u32>,
    child: Option<Guarded>,
    /// Held open: the floor ends with its standard input, and a server that prints must not find a closed pipe.
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    /// The operator's file that it reads.
    pub(crate) operator_file: Option<MembersFile>,
    /// The shell's line that started it.
    line: Option<String>,
}

impl Subject {
    /// Starts the server, or finds the running one, with its members file. `flags` are for a server that is started; those
    /// that its command names already are left out.
    pub(crate) fn server(
        options: &ServerOptions,
        flags: &[(&str, String)],
        operator_file: Option<&str>,
    ) -> Result<Subject> {
        if let Some(address) = options.connect {
            let subject = Subject {
                address,
                pid: options.pid,
                child: None,
                input: None,
                output: None,
                operator_file: options.operator_file.clone(),
                line: None,
            };
            if let (Some(file), Some(text)) = (&options.operator_file, operator_file)
                && !file.says(text)
            {
                subject.operate(text)?;
                // A running server does not say when it has read its file again.
                std::thread::sleep(REREADING);
            }
            return Ok(subject);
        }
        let command = match &options.spawn {
            Some(command) => command.clone(),
            None => format!("'{}' serve", beside("gwm")?.display()),
        };
        let mut line = format!("exec {command}");
        let mut add = |flag: &str, value: &str| {
            if !command.contains(&format!("{flag} ")) && !command.contains(&format!("{flag}=")) {
                line += &format!(" {flag} '{value}'");
            }
        };
        match &options.tls.speaks {
            Some(tls) => tls.flags().iter().for_each(|(flag, value)| add(flag, value)),
            None => add("--listen", "127.0.0.1:0"),
        }
        add("--log-level", "warn");
        // Only the workload may cause pushes: the refreshes of all load balancers are spread over this time.
        add("--push-refresh", "365d");
        // All peers come from one address.
        add("--max-connections-per-source", "1000000");
        flags.iter().for_each(|(flag, value)| add(flag, value));
        let operator_file = operator_file.map(MemoryFile::new).transpose()?;
        if let Some(file) = &operator_file {
            add("--members", &file.path().display().to_string());
        }
        let mut child = Command::new("sh");
        child.arg("-c").arg(&line).stdin(Stdio::null());
        let mut subject = start(child, &line)?;
        subject.operator_file = operator_file.map(|file| MembersFile::Ours(Arc::new(file)));
        subject.line = Some(line);
        Ok(subject)
    }

    /// Starts a process that takes over from the started server; it serves when this returns.
    pub(crate) fn successor(&self) -> Result<Subject> {
        let line = self.line.as_ref().ok_or("only from a server that is started a process takes over")?;
        let line = format!("{line} --takeover");
        let mut child = Command::new("sh");
        child.arg("-c").arg(&line).stdin(Stdio::null());
        Ok(Subject { operator_file: self.operator_file.clone(), line: Some(line.clone()), ..start(child, &line)? })
    }

    /// Kills the started server, and starts it again at its address; it serves when this returns.
    pub(crate) fn crash(&mut self) -> Result<()> {
        let (Some(child), Some(line)) = (self.child.take(), self.line.take()) else {
            return Err("only a server that is started is killed".into());
        };
        child.stop(Some(Signal::KILL))?;
        let line = line.replace("--listen '127.0.0.1:0'", &format!("--listen '{}'", self.address));
        let mut child = Command::new("sh");
        child.arg("-c").arg(&line).stdin(Stdio::null());
        let operator_file = self.operator_file.take();
        *self = Subject { operator_file, line: Some(line.clone()), ..start(child, &line)? };
        Ok(())
    }

    /// Waits for the end of a server that ends by itself, in peace.
    pub(crate) fn end(mut self) -> Result<()> {
        let Some(child) = self.child.take() else { return Ok(()) };
        let status = child.stop(None)?;
        if status.success() { Ok(()) } else { Err(format!("the server ended with {status}")) }
    }

    /// Starts the floor: this program's own bare loops in a process of their own.
    pub(crate) fn floor(common: &Common) -> Result<Subject> {
        let own = std::env::current_exe().map_err(|error| format!("can not find this program: {error}"))?;
        let mut child = Command::new(&own);
        child.args([floor::COMMAND, "--cpu", &common.cpus(0).1.to_string()]).stdin(Stdio::piped());
        start(child, floor::COMMAND)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Its memory now.
    pub(crate) fn memory(&self) -> Result<Option<Memory>> {
        self.pid.map(Memory::of).transpose()
    }

    /// Where else the started server listens, as it says behind these words: after the address of its load balancers.
    pub(crate) fn listens(&mut self, words: &str) -> Result<SocketAddr> {
        let output = self.output.as_mut().ok_or("only a server that is started says where it listens")?;
        let mut line = String::new();
        loop {
            line.clear();
            let read =
                output.read_line(&mut line).map_err(|error| format!("can not read what the server says: {error}"))?;
            if read == 0 {
                return Err(format!("the server ended before it said \"{words}\""));
            }
            if let Some((_, place)) = line.trim().split_once(words) {
                let address = place.trim_start_matches("http://").trim_end_matches('/').parse();
                return address.map_err(|_| format!("{words}{place}: not a TCP address without TLS"));
            }
        }
    }

    /// Gives the server a new operator's file.
    pub(crate) fn operate(&self, text: &str) -> Result<()> {
        let file = self.operator_file.as_ref().ok_or(
            "changes by the operator need --spawn, or --connect with --pid and the server's --members file as \
             --operator-file",
        )?;
        file.replace(text)?;
        self.signal(Signal::HUP, "telling the server to read its members file again")
    }

    /// Waits until the server has nothing to do.
    pub(crate) fn settle(&self, limit: Duration) -> Result<()> {
        let pid = self.pid.ok_or("seeing whether the server has nothing to do needs --pid")?;
        let (deadline, mut quiet) = (Instant::now() + limit, 0);
        let mut before = Usage::of(pid)?;
        while quiet < QUIET_LOOKS {
            if Instant::now() >= deadline {
                return Err(format!("the server is busy for {} (--timeout)", humantime::format_duration(limit)));
            }
            std::thread::sleep(LOOK);
            let now = Usage::of(pid)?;
            quiet = if now.since(&before).cpu() < LOOK / 20 { quiet + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }

    /// Stops the server's process for a time.
    pub(crate) fn pause(&self, time: Duration) -> Result<()> {
        self.signal(Signal::STOP, "stopping the server for a time")?;
        std::thread::sleep(time);
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT, "letting the server go on")
    }

    fn signal(&self, signal: Signal, what: &str) -> Result<()> {
        let pid = self.pid.and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.ok_or_else(|| format!("{what} needs --pid"))?;
        kill_process(pid, signal).map_err(|error| format!("can not signal the server: {error}"))
    }

    /// Gives the floor an order; what it is to answer, it knows when this returns.
    pub(crate) fn tell(&mut self, order: floor::Order, bytes: &[u8]) -> Result<()> {
        let (Some(input), Some(output)) = (&mut self.input, &mut self.output) else {
            return Err("only the floor takes orders".into());
        };
        let ended = |error| format!("the floor has ended: {error}");
        floor::write(input, order, bytes).map_err(ended)?;
        if order.is_confirmed() && output.read_line(&mut String::new()).map_err(ended)? == 0 {
            return Err("the floor has ended".into());
        }
        Ok(())
    }

    /// Stops what was started; an end other than in peace is an error.
    pub(crate) fn stop(mut self) -> Result<()> {
        let Some(child) = self.child.take() else { return Ok(()) };
        // The floor ends with its standard input.
        let status = child.stop(if self.input.take().is_some() { None } else { Some(Signal::TERM) })?;
        if status.success() { Ok(()) } else { Err(format!("the server ended with {status}")) }
    }
}

/// Starts a process and reads where it listens from its standard output.
fn start(mut command: Command, shown: &str) -> Result<Subject> {
    let mut child = Guarded::spawn(command.stdout(Stdio::piped()), shown)?;
    let pid = child.0.id();
    let input = child.0.stdin.take();
    let output = child.0.stdout.take().map(BufReader::new);
    let mut subject = Subject {
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        pid: Some(pid),
        child: Some(child),
        input,
        output: None,
        operator_file: None,
        line: None,
    };
    let mut output = output.ok_or("the server has no standard output")?;
    let mut line = String::new();
    loop {
        line.clear();
        let read = output.read_line(&mut line).map_err(|error| format!("can not read what `{shown}` says: {error}"))?;
        if read == 0 {
            return Err(format!("`{shown}` ended before it said where it listens"));
        }
        if let Some(rest) = line.split("listening on ").nth(1) {
            let word = rest.split_whitespace().next().unwrap_or_default();
            subject.address = word.parse().map_err(|_| format!("`{shown}` says \"{}\": no address", line.trim()))?;
            subject.output = Some(output);
            return Ok(subject);
        }
    }
}

/// Another program in this program's folder, or, for a test's build, in the one above.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| format!("can not find this program: {error}"))?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let folder = own.parent().unwrap_or(Path::new("."));
        format!("there is no {name} in {}: build it (cargo build), or say which with --spawn", folder.display())
    })
}
