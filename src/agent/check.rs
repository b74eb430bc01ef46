//! Whether a service answers on this host: the local check.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

use super::children::Children;

/// How a service is checked, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How.
    pub kind: Kind,
    /// From one check to the next.
    pub interval: Duration,
    /// The time limit of one check.
    pub timeout: Duration,
    /// So many good checks in a row bring the service up.
    pub rise: u32,
    /// So many failed checks in a row take the service down.
    pub fall: u32,
}

/// How a service is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not at all: it counts as up.
    None,
    /// It takes a connection.
    Tcp,
    /// It answers GET of this path with a status from 200 to 399.
    Http(String),
    /// This shell command ends with status 0.
    Exec(String),
    /// The process whose number stands in this file lives.
    Process(PathBuf),
    /// The control group of this unit of systemd has a process.
    Unit(String),
}

/// The most bytes of an HTTP answer's first line.
const STATUS_LINE_BYTES: usize = 1024;

/// The most bytes of a file with a process's number, and of `/proc/PID/stat` up to the process's state: its name has at
/// most 64 bytes.
const PROCESS_BYTES: u64 = 256;

/// The most bytes of `cgroup.events`: two short lines.
const EVENTS_BYTES: u64 = 4096;

/// Where the control groups are mounted.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

impl Kind {
    /// `none`, `tcp`, `http:/PATH`, `exec:COMMAND`, `pid:FILE` or `unit:NAME`.
    pub fn parse(text: &str) -> Result<Kind, String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        match (name, rest) {
            ("none", "") => Ok(Kind::None),
            ("tcp", "") => Ok(Kind::Tcp),
            ("http", path) if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Kind::Http(path.into()))
            }
            ("http", _) => Err(format!("`{text}`: write http:/PATH, in ASCII and without spaces")),
            ("exec", command) if !command.trim().is_empty() => Ok(Kind::Exec(command.into())),
            ("pid", file) if !file.is_empty() => Ok(Kind::Process(file.into())),
            ("unit", unit) if !unit.is_empty() && is_below(Path::new(unit)) => Ok(Kind::Unit(unit.into())),
            _ => Err(format!(
                "`{text}` is not a check: none, tcp, http:/PATH, exec:COMMAND, pid:FILE or unit:NAME.service"
            )),
        }
    }

    /// Whether the check needs a place where the service listens.
    pub fn needs_place(&self) -> bool {
        matches!(self, Kind::Tcp | Kind::Http(_))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::None => f.write_str("none"),
            Kind::Tcp => f.write_str("tcp"),
            Kind::Http(path) => write!(f, "http:{path}"),
            Kind::Exec(command) => write!(f, "exec:{command}"),
            Kind::Process(file) => write!(f, "pid:{}", file.display()),
            Kind::Unit(unit) => write!(f, "unit:{unit}"),
        }
    }
}

/// Whether a path leads down only.
fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Checks once: each place, if the check is about places. An error is why the service does not answer, in one line.
pub fn run(kind: &Kind, places: &[SocketAddr], timeout: Duration, children: &Children) -> Result<(), String> {
    let until = Instant::now() + timeout;
    let each = |check: &dyn Fn(SocketAddr, Duration) -> io::Result<()>| {
        places.iter().try_for_each(|&place| {
            // The limit is one of all places together.
            let result = left(until).and_then(|left| check(place, left));
            result.map_err(|error| format!("{kind}: {place}: {}", plain(&error)))
        })
    };
    match kind {
        Kind::None => Ok(()),
        Kind::Tcp => each(&|place, left| TcpStream::connect_timeout(&place, left).map(drop)),
        Kind::Http(path) => each(&|place, left| http(place, path, left)),
        Kind::Exec(command) => children.run(command, timeout, 0).map(drop).map_err(|why| format!("{kind}: {why}")),
        Kind::Process(file) => process(file).map(drop).map_err(|why| format!("{kind}: {why}")),
        Kind::Unit(unit) => populated(unit).map_err(|why| format!("{kind}: {why}")),
    }
}

/// The time until then; none left is an error.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer in time".into(),
        ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

/// Asks for a path; HTTP/1.0 closes the connection without being asked to.
fn http(place: SocketAddr, path: &str, timeout: Duration) -> io::Result<()> {
    let until = Instant::now() + timeout;
    let left = || left(until).map(Some);
    let mut stream = TcpStream::connect_timeout(&place, timeout)?;
    stream.set_write_timeout(left()?)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {place}\r\nUser-Agent: gwm-agent\r\n\r\n").as_bytes())?;
    let mut line = Vec::new();
    let mut chunk = [0; 256];
    while !line.contains(&b'\n') && line.len() < STATUS_LINE_BYTES {
        stream.set_read_timeout(left()?)?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(chunk.get(..count).unwrap_or(&chunk)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    match status(&line) {
        Some(200..=399) => Ok(()),
        Some(other) => Err(io::Error::other(format!("status {other}"))),
        None => Err(io::Error::other("the answer is not HTTP")),
    }
}

/// The status of an answer that begins so.
pub(crate) fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let rest = line.strip_prefix(b"HTTP/1.0 ").or_else(|| line.strip_prefix(b"HTTP/1.1 "))?;
    let digits = rest.get(..3)?;
    let ends = rest.get(3).is_none_or(|byte| matches!(byte, b' ' | b'\r'));
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (ends && digits.iter().all(u8::is_ascii_digit)).then_some(status)
}

/// The first bytes of a file. A pipe is refused: nobody may write there.
pub(super) fn head(path: &Path, max_bytes: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let mut open = || {
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        file.take(max_bytes).read_to_end(&mut bytes)
    };
    open().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The number of the process that a file names, if the process lives.
pub(crate) fn process(file: &Path) -> Result<u32, String> {
    let text = head(file, PROCESS_BYTES)?;
    let number = text.split_whitespace().next().and_then(|word| word.parse::<u32>().ok()).filter(|number| *number != 0);
    let number = number.ok_or_else(|| format!("{}: no process number stands there", file.display()))?;
    let stat = head(&PathBuf::from(format!("/proc/{number}/stat")), PROCESS_BYTES);
    match stat.ok().and_then(|stat| process_state(&stat)) {
        Some(state) if !matches!(state, 'Z' | 'X' | 'x') => Ok(number),
        _ => Err(format!("process {number} does not live")),
    }
}

/// The state in `/proc/PID/stat`: it stands after the process's name, which is in brackets and may have brackets itself.
pub(crate) fn process_state(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.chars().next()
}

/// Whether a unit of the system's manager, or the control group of this path, has a process.
fn populated(unit: &str) -> Result<(), String> {
    let group = if unit.contains('/') { unit.to_owned() } else { format!("system.slice/{unit}") };
    let events = head(&Path::new(CONTROL_GROUPS).join(group).join("cgroup.events"), EVENTS_BYTES)?;
    let populated = events.lines().any(|line| line.trim() == "populated 1");
    if populated { Ok(()) } else { Err("it has no process".into()) }
}

/// Turns results of checks into up and down.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streak {
    up: bool,
    /// Results in a row that speak against what counts now.
    against: u32,
}

impl Streak {
    /// Of a service that is up, or not.
    pub fn new(up: bool) -> Streak {
        Streak { up, against: 0 }
    }

    /// Takes a result; says what counts from now on, if that is something else than before.
    pub fn take(&mut self, good: bool, check: &Check) -> Option<bool> {
        if good == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = if good { check.rise } else { check.fall };
        if self.against < enough {
            return None;
        }
        (self.up, self.against) = (good, 0);
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn once(kind: &str, places: &[SocketAddr]) -> Result<(), String> {
        run(&Kind::parse(kind).unwrap(), places, LONG, &Children::default())
    }

    /// A server that sends this to each client.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    #[test]
    fn checks_are_read_as_they_are_shown() {
        for text in ["none", "tcp", "http:/health?a=b", "exec:test -e /x:y", "pid:/run/x.pid", "unit:web.service"] {
            assert_eq!(Kind::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "tcp:80", "http", "http:health", "http:/a b", "exec:", "exec: ", "pid:", "unit:", "unit:../x"] {
            assert!(Kind::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_answers_or_not() {
        let open = server("");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(once("tcp", &[open, open]), Ok(()));
        assert_eq!(once("tcp", &[open, closed]), Err(format!("tcp: {closed}: connection refused")));
        let good = server("HTTP/1.1 204 No Content\r\n\r\n");
        let bad = server("HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert_eq!(once("http:/", &[good]), Ok(()));
        assert_eq!(once("http:/", &[bad]), Err(format!("http:/: {bad}: status 503")));
        assert_eq!(once("http:/", &[open]), Err(format!("http:/: {open}: the answer is not HTTP")));
    }

    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nX: y\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 404\r\n"), Some(404));
        assert_eq!(status(b"HTTP/1.1 301"), Some(301));
        for bad in [&b""[..], b"HTTP/1.1", b"HTTP/1.1 20", b"HTTP/1.1 2000", b"HTTP/1.1 +20 ", b"HTTP/2 200", b"x\n"] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_command_says_by_its_status_and_must_end_in_time() {
        assert_eq!(once("exec:true", &[]), Ok(()));
        assert_eq!(once("exec:exit 3", &[]), Err("exec:exit 3: status 3".into()));
        let kind = Kind::parse("exec:sleep 600").unwrap();
        let late = run(&kind, &[], Duration::from_millis(50), &Children::default());
        assert_eq!(late, Err("exec:sleep 600: no end within 50ms".into()));
    }

    #[test]
    fn a_process_lives_or_not() {
        let file = std::env::temp_dir().join(format!("gwm-agent-check-{}.pid", std::process::id()));
        let kind = format!("pid:{}", file.display());
        std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        assert_eq!(once(&kind, &[]), Ok(()));
        std::fs::write(&file, "4194305\n").unwrap(); // above the highest number that Linux gives
        assert!(once(&kind, &[]).unwrap_err().ends_with("process 4194305 does not live"));
        std::fs::write(&file, "x\n").unwrap();
        assert!(once(&kind, &[]).unwrap_err().ends_with("no process number stands there"));
        std::fs::remove_file(&file).unwrap();
        assert!(once(&kind, &[]).is_err());
        // Nobody writes into this pipe.
        std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(once(&kind, &[]).unwrap_err().ends_with("it is not a file"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(process_state("7 (a) b) R 1 2"), Some('R'));
        assert_eq!((process_state(""), process_state("7 (a")), (None, None));
    }

    #[test]
    fn so_many_results_in_a_row_change_what_counts() {
        let check = Check { kind: Kind::Tcp, interval: LONG, timeout: LONG, rise: 2, fall: 3 };
        let mut streak = Streak::default();
        let mut take = |results: &str| -> Vec<Option<bool>> {
            results.chars().map(|result| streak.take(result == '+', &check)).collect()
        };
        assert_eq!(take("-+-++"), [None, None, None, None, Some(true)]);
        assert_eq!(take("+--+---"), [None, None, None, None, None, None, Some(false)]);
        assert_eq!(take("---++"), [None, None, None, None, Some(true)]);
    }
}
