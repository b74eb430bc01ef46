//! Runs `nft`, with bounds on its time and its output.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::connect::Fault;

/// How long one call of `nft` may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest output that is read. A service with 100 slots has about 4 kB.
const OUTPUT_BYTES: u64 = 64 << 20;

/// The program `nft`.
#[derive(Clone, Debug)]
pub(super) struct Nft(pub(super) PathBuf);

impl Nft {
    /// Its output for these arguments and this input; the error of `nft` itself is its first line, in `Err`.
    pub(super) fn run(&self, arguments: &[&str], input: &str) -> Result<Result<String, String>, Fault> {
        self.try_to_run(arguments, input).map_err(|error| {
            let help = match error.kind() {
                io::ErrorKind::NotFound => " (--nft says where it is; Debian package nftables)",
                _ => "",
            };
            Fault::Io { what: format!("run the program `{}`{help}", self.0.display()), error }
        })
    }

    fn try_to_run(&self, arguments: &[&str], input: &str) -> io::Result<Result<String, String>> {
        let mut command = Command::new(&self.0);
        // Its messages are read.
        command.args(arguments).env("LC_ALL", "C");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = read(child.stdout.take());
        let stderr = read(child.stderr.take());
        let (mut stdin, input) = (child.stdin.take().expect("stdin is piped"), input.to_owned());
        // If `nft` does not read it, its status tells why.
        let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let status = wait(&mut child);
        if status.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = writer.join();
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        let status = status?;
        if status.success() {
            return Ok(Ok(stdout));
        }
        let first = stderr.lines().find(|line| !line.trim().is_empty()).map(str::trim);
        Ok(Err(first.map_or_else(|| status.to_string(), |line| line.chars().take(300).collect())))
    }
}

fn read(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    let pipe = pipe.expect("the output is piped");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A longer output is cut, and is no JSON then.
        let _ = pipe.take(OUTPUT_BYTES).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > TIMEOUT {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it took longer than 5 s and was killed"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}
