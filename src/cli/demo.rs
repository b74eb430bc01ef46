//! `gwm demo`: a real daemon, members whose weights move, and a load balancer that follows.

use std::{
    collections::VecDeque,
    env, fs,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    table::{self, Screen},
    target::{self, Failure},
};
use crate::{
    client::{
        Client, Target, Weights,
        session::{Session, Wishes},
        spec::{GroupSpec, MemberSpec},
    },
    config::duration,
    sasp::{
        Endpoint, EntryFlags, Escaped, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Reason,
        SenderFlags,
        component::{TCP, UDP},
    },
};

/// Flags of `gwm demo`.
#[derive(clap::Args)]
pub struct Args {
    /// End after so many seconds: 1 to 86400 [default: at Ctrl-C]
    #[arg(long, env = "GWM_SECONDS", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=86400))]
    seconds: Option<u32>,
    /// Time from one event of the story to the next: 100ms to 1m
    #[arg(long, env = "GWM_PACE", value_name = "DURATION", default_value = "2s",
          value_parser = duration(Duration::from_millis(100)..=Duration::from_secs(60)))]
    pace: Duration,
}

/// Runs `gwm demo`.
pub fn run(args: Args) -> ExitCode {
    target::finish(play(&args))
}

/// The longest time until a signal is noticed.
const ATTENTION: Duration = Duration::from_millis(100);

fn play(args: &Args) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|error| failed("can not catch signals", &error))?;
    }
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let stopped = || stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
    let Some(mut daemon) = Daemon::start(&FIRST_WEIGHTS, &stopped)? else { return Ok(()) };
    let outcome = follow(args, &mut daemon, &stopped);
    // The daemon's log is shown only if something went wrong.
    match outcome {
        Err(Failure::Failed(message)) => Err(Failure::Failed(format!("{message}{}", daemon.last_words()))),
        other => other,
    }
}

fn follow(args: &Args, daemon: &mut Daemon, stopped: &dyn Fn() -> bool) -> Result<(), Failure> {
    let target = Target { gwm: daemon.address.clone(), timeout: Duration::from_secs(5), tls: None };
    let wishes = Wishes {
        uid: LB.as_bytes().into(),
        groups: vec![
            GroupSpec { name: (*b"web").into(), ..GroupSpec::default() },
            GroupSpec { name: (*b"dns").into(), members: DNS.map(name_server).to_vec(), ..GroupSpec::default() },
        ],
        health: Health::BEST,
        flags: LbFlags::PUSH | LbFlags::TRUST,
    };
    let mut session = Session::open(target.connect()?, target.timeout, &wishes)?;
    let mut members = target.connect()?;
    let mut view = View::new(&target, daemon.page.as_deref())?;
    view.tell(&format!("A GWM listens on {}. Load balancer {LB} asks it to push weights,", target.gwm))?;
    view.tell("  trusts its members, and registers two name servers (dns) and an empty group (web).")?;
    if let Some(page) = &daemon.page {
        view.tell(&format!("A browser shows the same at {page}"))?;
    }
    view.show(session.weights())?;
    let mut events = 0;
    let mut before = Weights::default();
    let mut next_event = Instant::now() + args.pace;
    while !stopped() {
        let now = Instant::now();
        // An event waits until the load balancer has seen the change of the event before: so the story is true
        // on a busy machine too.
        if now >= next_event && *session.weights() != before {
            before = session.weights().clone();
            view.tell(event(events, daemon, &mut members)?)?;
            events += 1;
            next_event = now + args.pace;
        } else if now >= next_event + PATIENCE {
            return Err(Failure::Failed(format!("nothing was pushed {} s after the last event", PATIENCE.as_secs())));
        }
        let wait = if now < next_event { (next_event - now).min(ATTENTION) } else { ATTENTION };
        if session.next_push(wait)? {
            view.show(session.weights())?;
        }
    }
    Ok(())
}

/// How long the daemon may take to push the change of an event.
const PATIENCE: Duration = Duration::from_secs(20);

const LB: &str = "DEMO";

/// The web servers, which register themselves. Their addresses are for documentation; nothing connects to them.
const WEB: [(&str, IpAddr); 3] = [
    ("web-1", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    ("web-2", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))),
    ("web-3", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3))),
];

/// The name servers, which the load balancer registers.
const DNS: [(&str, IpAddr); 2] = [
    ("ns-1", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53))),
    ("ns-2", IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5))),
];

/// The operator's weights: of web servers, then of name servers. A web server without one is not in the file.
type FixedWeights = ([Option<u16>; 3], [u16; 2]);

const FIRST_WEIGHTS: FixedWeights = ([None; 3], [50, 50]);

/// The events that come once, at the beginning.
const OPENING: usize = 3;

/// The events that come again and again.
const ROUND: usize = 10;

/// Makes the story's next event happen and prints it. Each event changes the load balancer's table.
fn event(number: usize, daemon: &mut Daemon, members: &mut Client) -> Result<&'static str, Failure> {
    let (w, n) = (Some, [50, 50]);
    let told = match if number < OPENING { number } else { OPENING + (number - OPENING) % ROUND } {
        0 => {
            members.register(SenderFlags::NONE, [(WEB_GROUP, [web(0), web(1)])])?;
            "web-1 and web-2 register themselves. Nobody vouches for them: not CONFIDENT."
        }
        1 => {
            daemon.set_weights(&([w(40), w(20), w(20)], n))?;
            "The operator's file gives them weights, 40 and 20; the daemon rereads it."
        }
        2 => {
            members.register(SenderFlags::NONE, [(WEB_GROUP, [web(2)])])?;
            "web-3 registers itself, and gets its share."
        }
        3 => {
            daemon.set_weights(&([w(40), w(10), w(20)], n))?;
            "web-2 is busy: its weight falls to 10."
        }
        4 => {
            daemon.set_weights(&([w(40), w(5), w(20)], n))?;
            "web-2 is busier: 5."
        }
        5 => {
            set_state(members, 0, 0, MemberFlags::QUIESCE)?;
            "web-1 quiesces before maintenance: weight 0, it finishes the work that it has."
        }
        6 => {
            members.deregister(SenderFlags::NONE, Reason::PURPOSEFUL, [(WEB_GROUP, [web(0)])])?;
            "web-1 has finished and leaves the group."
        }
        7 => {
            daemon.set_weights(&([w(40), w(20), w(30)], n))?;
            "web-2 has recovered (20), web-3 got more memory (30)."
        }
        8 => {
            members.register(SenderFlags::NONE, [(WEB_GROUP, [web(0)])])?;
            "web-1 comes back from maintenance and registers itself again."
        }
        9 => {
            daemon.set_weights(&([w(40), w(20), w(30)], [80, 20]))?;
            "The first name server moves to a bigger machine: 80 to 20."
        }
        10 => {
            set_state(members, 2, 0x2A, MemberFlags::NONE)?;
            "web-3 sets its opaque state to 0x2A: the load balancer knows what that means."
        }
        11 => {
            set_state(members, 2, 0, MemberFlags::NONE)?;
            "web-3 clears its state."
        }
        _ => {
            daemon.set_weights(&([w(40), w(20), w(20)], n))?;
            "The weights are as they were at first; the story begins again."
        }
    };
    Ok(told)
}

const WEB_GROUP: GroupData<'static> = GroupData { lb_uid: LB.as_bytes(), name: b"web" };

fn web(at: usize) -> MemberData<'static> {
    let (label, address) = WEB[at];
    MemberData { endpoint: Endpoint::new(address, TCP, 80), label: label.as_bytes() }
}

fn set_state(members: &mut Client, at: usize, state: u8, flags: MemberFlags) -> Result<(), Failure> {
    let state = MemberState { member: web(at), state, flags };
    Ok(members.set_member_state(SenderFlags::NONE, [(WEB_GROUP, [state])])?)
}

fn name_server((label, address): (&str, IpAddr)) -> MemberSpec {
    MemberSpec { endpoint: Endpoint::new(address, UDP, 53), label: label.as_bytes().into() }
}

/// The daemon, its temporary directory and its file of weights; all end with this.
struct Daemon {
    child: Child,
    directory: PathBuf,
    address: String,
    /// The address of the daemon's page, if the daemon has an admin side.
    page: Option<String>,
}

impl Daemon {
    /// Starts the daemon and waits until it listens; `None` if `stopped` came first.
    fn start(weights: &FixedWeights, stopped: &dyn Fn() -> bool) -> Result<Option<Daemon>, Failure> {
        let directory = temporary_directory()?;
        let child = write_weights(&directory, weights).and_then(|()| spawn(&directory));
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                let _ = fs::remove_dir_all(&directory); // the first error is the one to tell
                return Err(error);
            }
        };
        let mut daemon = Daemon { child, directory, address: String::new(), page: None };
        let stdout = daemon.child.stdout.take().expect("it was spawned with a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Keeps reading when nobody listens any more, so that the daemon never waits for us.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match lines.recv_timeout(ATTENTION) {
                Ok(line) => {
                    if let Some(address) = line.strip_prefix("gwm: listening on ") {
                        daemon.address = address.split(' ').next().unwrap_or(address).to_owned();
                    }
                    // The daemon prints this address after the other one.
                    daemon.page = line.strip_prefix("gwm: admin on ").map(str::to_owned);
                    if daemon.page.is_some() || !cfg!(feature = "admin") {
                        return Ok(Some(daemon));
                    }
                }
                Err(_) if stopped() => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => return Err(Failure::Failed(format!("the daemon does not start{}", daemon.last_words()))),
            }
        }
    }

    /// Rewrites the file of weights and has the daemon reread it.
    fn set_weights(&mut self, weights: &FixedWeights) -> Result<(), Failure> {
        write_weights(&self.directory, weights)?;
        kill_process(Pid::from_child(&self.child), Signal::HUP)
            .map_err(|error| failed("can not signal the daemon", &error.into()))
    }

    /// The daemon's last lines on stderr, to add to an error.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(5)..];
        if last.is_empty() { String::new() } else { format!("; the daemon says:\n{}", last.join("\n")) }
    }
}

impl Drop for Daemon {
    /// Stops the daemon, by force if it takes longer than it promises, and removes its files.
    fn drop(&mut self) {
        // Errors here have no remedy: the process or the directory is gone.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(6);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn spawn(directory: &Path) -> Result<Child, Failure> {
    let program = env::current_exe().map_err(|error| failed("can not find this program", &error))?;
    let log = fs::File::create(directory.join("log")).map_err(|error| failed("can not write the log", &error))?;
    let mut command = Command::new(&program);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--shards", "1", "--probe", "off", "--members"])
        .arg(directory.join("members.toml"));
    if cfg!(feature = "admin") {
        command.args(["--admin-listen", "127.0.0.1:0"]);
    }
    // The demonstration ignores environment variables that are meant for a real daemon.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GWM_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    // In a process group of its own: a terminal's Ctrl-C reaches only this process, which then stops the daemon.
    command.process_group(0);
    command.spawn().map_err(|error| failed(&format!("can not run {}", program.display()), &error))
}

fn temporary_directory() -> Result<PathBuf, Failure> {
    let mut last = None;
    for attempt in 0..100 {
        let path = env::temp_dir().join(format!("gwm-demo-{}-{attempt}", process::id()));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) => last = Some(failed(&format!("can not create {}", path.display()), &error)),
        }
    }
    Err(last.expect("it was tried"))
}

/// Writes the daemon's file of weights beside the old file and renames it, so that a half-written file is never seen.
fn write_weights(directory: &Path, (web, dns): &FixedWeights) -> Result<(), Failure> {
    let mut text = String::new();
    let mut add = |address: IpAddr, protocol: u8, port: u16, weight: u16| {
        text += &format!("[[member]]\naddress = \"{address}\"\nprotocol = {protocol}\nport = {port}\n");
        text += &format!("weight = {weight}\nmonitor = \"none\"\n\n");
    };
    for ((_, address), weight) in WEB.into_iter().zip(web) {
        if let Some(weight) = weight {
            add(address, TCP, 80, *weight);
        }
    }
    for ((_, address), weight) in DNS.into_iter().zip(dns) {
        add(address, UDP, 53, *weight);
    }
    let (new, file) = (directory.join("members.new"), directory.join("members.toml"));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &file))
        .map_err(|error| failed(&format!("can not write {}", file.display()), &error))
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::Failed(format!("{what}: {error}"))
}

/// How many lines of the story a terminal keeps in view.
const STORY_LINES: usize = 8;

/// The story and the table: live on a terminal, otherwise line by line.
struct View {
    title: String,
    screen: Option<Screen>,
    story: VecDeque<String>,
    table: Vec<String>,
    /// Lines of the summary that were printed; only new lines are.
    printed: Vec<String>,
}

impl View {
    fn new(target: &Target, page: Option<&str>) -> Result<View, Failure> {
        let screen = if io::stdout().is_terminal() { Some(Screen::enter()?) } else { None };
        let page = page.map_or(String::new(), |page| format!("; page: {page}"));
        let title = format!("{LB} at {}, weights as they are pushed{page}  (Ctrl-C ends)", target.gwm);
        Ok(View { title, screen, story: VecDeque::new(), table: Vec::new(), printed: Vec::new() })
    }

    fn tell(&mut self, line: &str) -> io::Result<()> {
        if self.screen.is_none() {
            return print(line);
        }
        self.story.push_back(line.to_owned());
        if self.story.len() > STORY_LINES {
            self.story.pop_front();
        }
        self.draw()
    }

    fn show(&mut self, weights: &Weights) -> io::Result<()> {
        if let Some(screen) = &self.screen {
            self.table = table::lines(weights, screen.size().0);
            return self.draw();
        }
        let lines = summary(weights);
        lines.iter().filter(|line| !self.printed.contains(line)).try_for_each(|line| print(line))?;
        self.printed = lines;
        Ok(())
    }

    fn draw(&mut self) -> io::Result<()> {
        let Some(screen) = &mut self.screen else { return Ok(()) };
        let mut lines = vec![self.title.clone(), String::new()];
        lines.extend(self.table.iter().cloned());
        lines.push(String::new());
        // A low terminal shows only the newest lines of the story.
        let room = screen.size().1.saturating_sub(lines.len()).min(self.story.len());
        lines.extend(self.story.iter().skip(self.story.len() - room).cloned());
        screen.draw(&lines)
    }
}

/// A line a group: `    web: web-1 40 (66.7 %), web-2 20 (33.3 %)`.
fn summary(weights: &Weights) -> Vec<String> {
    let line = |group: &crate::client::GroupWeights| {
        let shares = group.shares();
        let member = |(at, member): (usize, &crate::client::MemberWeight)| {
            let name = match &member.label[..] {
                [] => member.endpoint.to_string(),
                label => Escaped(label).to_string(),
            };
            let quiesced = if member.entry.flags.contains(EntryFlags::QUIESCED) { ", quiesced" } else { "" };
            let state =
                if member.entry.state == 0 { String::new() } else { format!(", state 0x{:02X}", member.entry.state) };
            let share = shares.as_ref().map_or("not confident".into(), |shares| format!("{:.1} %", shares[at] * 100.0));
            format!("{name} {} ({share}{quiesced}{state})", member.entry.weight)
        };
        let members: Vec<String> = group.members().iter().enumerate().map(member).collect();
        let members = if members.is_empty() { "no members".to_owned() } else { members.join(", ") };
        format!("    {}: {members}", Escaped(group.name()))
    };
    weights.groups().iter().map(line).collect()
}

fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
