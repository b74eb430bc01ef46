//! The access log of a service, in the common or combined form of web servers: each line is a request. If the last field
//! of a line is the time that the request took, latencies are known, too.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::requests::Counts;
use crate::limits;

/// Bytes that one read takes.
const READ_BYTES: usize = 64 << 10;

/// The buckets of latencies: eight for each power of two of microseconds.
const BUCKETS: usize = 496;

/// The unit of the time in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// nginx's `$request_time`, Apache's `%T`.
    Seconds,
    /// Apache's `%{ms}T`.
    Milliseconds,
    /// Apache's `%D`.
    Microseconds,
}

impl std::str::FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Unit, String> {
        match text {
            "s" => Ok(Unit::Seconds),
            "ms" => Ok(Unit::Milliseconds),
            "us" => Ok(Unit::Microseconds),
            _ => Err(format!("`{text}` is not `s`, `ms` or `us`")),
        }
    }
}

impl Unit {
    fn seconds(self) -> f64 {
        match self {
            Unit::Seconds => 1.0,
            Unit::Milliseconds => 1e-3,
            Unit::Microseconds => 1e-6,
        }
    }
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// The status of the answer.
    pub status: u16,
    /// The time that the request took, in seconds.
    pub seconds: Option<f64>,
}

/// Reads a line; `None` if it is no request: `HOST - USER [TIME] "REQUEST" STATUS BYTES …`.
pub fn line(line: &[u8], unit: Option<Unit>) -> Option<Line> {
    // In the fields before, servers write a quote as an escape.
    let begin = line.iter().position(|byte| *byte == b'"')? + 1;
    let mut escaped = false;
    let length = line.get(begin..)?.iter().position(|byte| {
        let is_end = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_end
    })?;
    let rest = str::from_utf8(line.get(begin + length + 1..)?.trim_ascii()).ok()?;
    let status: u16 = rest.split(' ').next()?.parse().ok().filter(|status| (100..1000).contains(status))?;
    let time = || {
        // `"0.012"` and `rt=0.012` are written, too.
        let last = rest.rsplit(' ').next()?;
        let last = last.rsplit('=').next()?.trim_matches('"');
        let seconds = last.parse::<f64>().ok()? * unit?.seconds();
        (seconds.is_finite() && seconds >= 0.0).then_some(seconds)
    };
    Some(Line { status, seconds: time() })
}

/// What lines say together, since the agent's start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    requests: f64,
    errors: f64,
    /// How many times were told, and their sum in seconds.
    times: (f64, f64),
    buckets: Vec<f64>,
}

impl Tally {
    /// Counts a line.
    pub fn add(&mut self, line: Line) {
        self.requests += 1.0;
        if line.status >= 500 {
            self.errors += 1.0;
        }
        if let Some(seconds) = line.seconds {
            self.times = (self.times.0 + 1.0, self.times.1 + seconds);
            self.buckets.resize(BUCKETS, 0.0);
            if let Some(count) = self.buckets.get_mut(bucket(seconds)) {
                *count += 1.0;
            }
        }
    }

    /// Counts what another tally has, so many times.
    fn add_all(&mut self, other: &Tally, factor: f64) {
        self.requests += other.requests * factor;
        self.errors += other.errors * factor;
        self.times = (self.times.0 + other.times.0 * factor, self.times.1 + other.times.1 * factor);
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0.0);
        for (count, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more * factor;
        }
    }

    /// The counts, as a metrics page would have them.
    pub fn counts(&self) -> Counts {
        let mut below = 0.0;
        let mut buckets: Vec<(f64, f64)> = (0..self.buckets.len())
            .map(|at| {
                below += self.buckets.get(at).copied().unwrap_or(0.0);
                (end(at), below)
            })
            .collect();
        if !buckets.is_empty() {
            buckets.push((f64::INFINITY, below));
        }
        Counts {
            requests: Some(self.requests),
            errors: Some(self.errors),
            latencies: Some(self.times),
            buckets,
            quantile: None,
        }
    }
}

/// The bucket of a time.
fn bucket(seconds: f64) -> usize {
    let value = (seconds * 1e6).round() as u64; // saturates
    match value {
        0..8 => value as usize,
        _ => {
            let power = value.ilog2();
            (power as usize - 2) * 8 + (value >> (power - 3) & 7) as usize
        }
    }
}

/// Where a bucket ends, in seconds.
fn end(bucket: usize) -> f64 {
    let next = bucket + 1;
    let micros = match next {
        0..8 => next as f64,
        _ => (8 + next % 8) as f64 * 2_f64.powi((next / 8) as i32 - 1),
    };
    micros / 1e6
}

/// Follows a log over rotation, by a new file of the name or by cutting it to nothing.
pub struct Follower {
    path: PathBuf,
    unit: Option<Unit>,
    open: Option<Open>,
    /// Whether there was no file at the last look: one that comes later is read from its begin.
    was_absent: bool,
    tally: Tally,
}

struct Open {
    file: File,
    /// Device and inode.
    id: (u64, u64),
    at: u64,
    /// The begin of a line whose end is not written yet.
    begin: Vec<u8>,
    /// The rest of a line that is too long is left out.
    is_too_long: bool,
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Follower {
    /// Follows the file from its end on.
    pub fn new(path: &Path, unit: Option<Unit>) -> Follower {
        // A log with times has all buckets from the begin.
        let tally = Tally { buckets: vec![0.0; if unit.is_some() { BUCKETS } else { 0 }], ..Tally::default() };
        Follower { path: path.into(), unit, open: None, was_absent: false, tally }
    }

    /// Reads what has come, and gives what was counted since the begin.
    pub fn read(&mut self) -> io::Result<Counts> {
        if self.open.is_none() {
            // After another fault the file has old lines, too.
            let opened = Open::new(&self.path, !self.was_absent);
            self.was_absent = opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            self.open = Some(opened?);
        }
        self.take()?;
        // A new file of the name: the old one was read to its end just now. No file: the new one comes soon.
        let open_id = self.open.as_ref().map(|open| open.id);
        if std::fs::metadata(&self.path).is_ok_and(|found| Some(id(&found)) != open_id) {
            self.open = Some(Open::new(&self.path, false)?);
            self.take()?;
        }
        Ok(self.tally.counts())
    }

    fn take(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        match open.take(self.unit) {
            Ok((tally, factor)) => {
                self.tally.add_all(&tally, factor);
                Ok(())
            }
            Err(error) => {
                self.open = None;
                Err(error)
            }
        }
    }
}

impl Open {
    fn new(path: &Path, from_end: bool) -> io::Result<Open> {
        // To open a FIFO would wait for its writer.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let at = if from_end { file.seek(SeekFrom::End(0))? } else { 0 };
        // The first line after the end may be the rest of one.
        let is_too_long = from_end && at > 0 && !ends_line(&mut file, at)?;
        Ok(Open { file, id: id(&metadata), at, begin: Vec::new(), is_too_long })
    }

    /// Counts the new lines. What is too much at once is skipped, and the lines that were read count for it, too: the
    /// factor is more than 1 then.
    fn take(&mut self, unit: Option<Unit>) -> io::Result<(Tally, f64)> {
        let length = self.file.metadata()?.len();
        if length < self.at {
            self.at = self.file.seek(SeekFrom::Start(0))?;
            (self.begin, self.is_too_long) = (Vec::new(), false);
        }
        let mut tally = Tally::default();
        let (mut taken, mut chunk) = (0, vec![0; READ_BYTES]);
        while taken < limits::AGENT_LOG_BYTES {
            let count = self.file.read(&mut chunk)?;
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            taken += count as u64;
            self.lines(bytes, unit, &mut tally);
        }
        self.at += taken;
        let rest = self.file.metadata()?.len().saturating_sub(self.at);
        if taken < limits::AGENT_LOG_BYTES || rest == 0 {
            return Ok((tally, 1.0));
        }
        self.at = self.file.seek(SeekFrom::End(0))?;
        self.begin.clear();
        self.is_too_long = !ends_line(&mut self.file, self.at)?;
        Ok((tally, 1.0 + rest as f64 / taken as f64))
    }

    fn lines(&mut self, bytes: &[u8], unit: Option<Unit>, tally: &mut Tally) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            if self.begin.len() + text.len() > limits::AGENT_LOG_LINE_BYTES {
                self.is_too_long = true;
                self.begin = Vec::new();
            } else if !self.is_too_long {
                self.begin.extend_from_slice(text);
            }
            if is_whole {
                if !self.is_too_long
                    && let Some(line) = line(&self.begin, unit)
                {
                    tally.add(line);
                }
                self.is_too_long = false;
                self.begin.clear();
            }
        }
    }
}

/// Whether a line ends before this byte, where the file is read from next.
fn ends_line(file: &mut File, at: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(at.saturating_sub(1)))?;
    Ok(file.read(&mut last)? == 0 || last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::{super::requests::Requests, *};

    #[test]
    fn lines_of_known_forms() {
        let read = |text: &str, unit| line(text.as_bytes(), unit).map(|line| (line.status, line.seconds));
        let common = r#"10.0.0.9 - - [10/Oct/2000:13:55:36 -0700] "GET /a\"b?x=1 HTTP/1.1" 200 2326"#;
        assert_eq!(read(common, None), Some((200, None)));
        let seconds = Some(Unit::Seconds);
        let combined = format!(r#"{common} "http://x/" "curl \"7\" [a]""#);
        assert_eq!(read(&format!("{combined} 0.012"), seconds), Some((200, Some(0.012))));
        assert_eq!(read(&format!("{combined} rt=0.012\r"), seconds), Some((200, Some(0.012))));
        assert_eq!(read(&format!("{combined} \"0.012\""), seconds), Some((200, Some(0.012))));
        assert_eq!(read(&format!("{combined} 1500"), Some(Unit::Microseconds)), Some((200, Some(0.0015))));
        assert_eq!(read(&format!("{combined} 15"), Some(Unit::Milliseconds)), Some((200, Some(0.015))));
        assert_eq!(read(&format!("{combined} -"), seconds), Some((200, None)));
        assert_eq!(read(&format!("{combined} -1"), seconds), Some((200, None)));
        assert_eq!(read("x \"\" 499 0", None), Some((499, None)));
        for wrong in ["", "GET / 200", "\"GET /", "\"GET /\" x", "\"GET /\" 20", "\"GET /\" 2000", "\"\\\" 200 1"] {
            assert_eq!(read(wrong, seconds), None, "{wrong}");
        }
        assert_eq!(line(b"\"\xff\" 200 1", None), Some(Line { status: 200, seconds: None }));
    }

    #[test]
    fn buckets_are_an_eighth_of_a_power_of_two_wide() {
        for micros in (0..2000_u64).chain([4095, 4096, 1 << 40]) {
            let seconds = micros as f64 / 1e6;
            let at = bucket(seconds);
            assert!(seconds < end(at), "{micros}");
            assert!(at == 0 || seconds >= end(at - 1) * 0.999_999, "{micros}");
        }
        assert!(bucket(f64::MAX) < BUCKETS);
    }

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("gwm-log-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    fn write(path: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_log_is_followed_over_rotation() {
        let (path, old) = (path("rotation"), path("rotation.1"));
        write(&path, "\"old\" 200 1\n\"half");
        let mut log = Follower::new(&path, Some(Unit::Seconds));
        let mut read = || log.read().map(|counts| (counts.requests.unwrap(), counts.errors.unwrap())).unwrap();
        assert_eq!(read(), (0.0, 0.0));
        let before = Tally::default().counts();
        write(&path, " a line\" 200 1\n\"GET\" 200 0.25\n\"GET\" 503");
        assert_eq!(read(), (1.0, 0.0), "neither the half line nor the one without an end");
        write(&path, " 0.75\n");
        assert_eq!(read(), (2.0, 1.0));
        fs::rename(&path, &old).unwrap();
        write(&old, "\"GET\" 200 1\n");
        assert_eq!(read(), (3.0, 1.0), "the old file, while there is no new one");
        write(&old, "\"GET\" 200 1\n");
        write(&path, "\"GET\" 200 1\n");
        assert_eq!(read(), (5.0, 1.0), "both");
        fs::write(&path, "").unwrap();
        assert_eq!(read(), (5.0, 1.0));
        write(&path, "\"GET\" 500 1\n");
        assert_eq!(read(), (6.0, 2.0), "cut to nothing");
        let counts = log.read().unwrap();
        assert_eq!(counts.latencies, Some((6.0, 5.0)));
        assert_eq!(Requests::between(&before, &counts, 2.0).rate, Some(3.0));
        fs::remove_file(&path).unwrap();
        fs::remove_file(&old).unwrap();
    }

    #[test]
    fn a_file_that_comes_later_is_read_from_its_begin() {
        let path = path("later");
        let mut log = Follower::new(&path, None);
        assert!(log.read().is_err());
        write(&path, "\"GET\" 200 1\n");
        assert_eq!(log.read().unwrap().requests, Some(1.0));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_could_not_be_read_at_first_is_followed_from_its_end() {
        let path = path("fault");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let mut log = Follower::new(&path, None);
        assert!(log.read().is_err());
        fs::remove_file(&path).unwrap();
        write(&path, "\"GET\" 200 1\n");
        assert_eq!(log.read().unwrap().requests, Some(0.0), "an old line");
        write(&path, "\"GET\" 200 1\n");
        assert_eq!(log.read().unwrap().requests, Some(1.0));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_too_much_is_skipped_and_counted_in_proportion() {
        let path = path("much");
        write(&path, "");
        let mut log = Follower::new(&path, None);
        log.read().unwrap();
        let text = "\"GET\" 200 1234567890123456789012345678901234567890\n".repeat(1000);
        let lines = 3 * limits::AGENT_LOG_BYTES as usize / text.len() * 1000;
        (0..lines / 1000).for_each(|_| write(&path, &text));
        let counted = log.read().unwrap().requests.unwrap();
        assert!((counted / lines as f64 - 1.0).abs() < 0.01, "{counted} of {lines}");
        write(&path, &format!("\"GET\" 200 {}\n\"GET\" 200 1\n", "x".repeat(limits::AGENT_LOG_LINE_BYTES)));
        assert_eq!(log.read().unwrap().requests.unwrap() - counted, 1.0, "one line is too long");
        fs::remove_file(&path).unwrap();
    }
}
