//! The processes that the agent started: one place starts and reaps them. As process 1 of a container the agent also reaps
//! those that their own parents left behind.

use std::{
    collections::HashMap,
    env,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{self, ChildStdout, Command, Stdio},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait, waitpid},
    thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled},
};

/// How often a thread that waits for a process looks itself, in case that nobody heard SIGCHLD.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Settings of the allocator, which takes them from the environment before `main` begins. Tables for 32 MiB of memory
/// instead of 1 GiB take 0.17 MB less, and free memory goes back at once: 0.16 MB.
const ALLOCATOR: [(&str, &str); 2] = [("MIMALLOC_ARENA_RESERVE", "32768"), ("MIMALLOC_PURGE_DELAY", "0")];

/// The processes that were started.
#[derive(Default)]
pub struct Children {
    known: Mutex<HashMap<Pid, Fate>>,
    ended: Condvar,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lives,
    Ended(WaitStatus),
    /// It was killed and does not end yet, as when its disk does not answer. Nobody wants its status.
    Forgotten,
}

/// Says that a process has ended.
fn end(known: &mut HashMap<Pid, Fate>, id: Pid, status: WaitStatus) {
    match known.get_mut(&id) {
        Some(Fate::Forgotten) => drop(known.remove(&id)),
        Some(fate) => *fate = Fate::Ended(status),
        None => {} // another process has left it to process 1
    }
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, Fate>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process, and gives its number and its output if that is piped. Its status is kept until
    /// [`Children::wait`] or [`Children::status`] gives it.
    pub fn spawn(&self, command: &mut Command) -> io::Result<(Pid, Option<ChildStdout>)> {
        // Under the lock: nobody else reaps the process before it is known here.
        let mut known = self.lock();
        // The process inherits these settings, which are the agent's own.
        for (name, _) in ALLOCATOR.iter().filter(|(name, value)| env::var_os(name).is_some_and(|has| has == *value)) {
            command.env_remove(name);
        }
        use_huge_pages(true);
        let child = command.spawn();
        use_huge_pages(false);
        let mut child = child?;
        let id = Pid::from_child(&child);
        known.insert(id, Fate::Lives);
        Ok((id, child.stdout.take()))
    }

    /// Runs a shell command in a process group of its own, and gives what it has printed, at most so many bytes. What takes
    /// too long is killed, with all that the command started there.
    pub fn run(&self, command: &str, timeout: Duration, max_bytes: usize) -> Result<Vec<u8>, String> {
        let mut shell = Command::new("/bin/sh");
        let output = if max_bytes == 0 { Stdio::null() } else { Stdio::piped() };
        shell.args(["-c", command]).stdin(Stdio::null()).stdout(output).stderr(Stdio::null()).process_group(0);
        let (id, output) = self.spawn(&mut shell).map_err(|error| format!("can not run it: {error}"))?;
        let status = self.wait(id, Instant::now() + timeout);
        match status {
            Some(status) if status.exit_status() == Some(0) => {
                Ok(output.map(|pipe| head(pipe, max_bytes)).unwrap_or_default())
            }
            Some(status) => Err(format!("status {}", shell_status(status))),
            None => {
                let _ = kill_process_group(id, Signal::KILL); // it may have ended just now
                if self.wait(id, Instant::now() + timeout).is_none() {
                    self.lock().insert(id, Fate::Forgotten);
                }
                Err(format!("no end within {}", humantime::format_duration(timeout)))
            }
        }
    }

    /// Takes the statuses of all that have ended; to be called at each SIGCHLD.
    pub fn reap(&self) {
        let mut known = self.lock();
        if process::id() == 1 {
            loop {
                match wait(WaitOptions::NOHANG) {
                    Ok(Some((id, status))) => end(&mut known, id, status),
                    Err(Errno::INTR) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        } else {
            let live: Vec<_> =
                known.iter().filter(|(_, fate)| !matches!(fate, Fate::Ended(_))).map(|(id, _)| *id).collect();
            for id in live {
                if let Ok(Some((_, status))) = waitpid(Some(id), WaitOptions::NOHANG) {
                    end(&mut known, id, status);
                }
            }
        }
        self.ended.notify_all();
    }

    /// The status of a process that has ended; it is given once.
    pub fn status(&self, id: Pid) -> Option<WaitStatus> {
        let mut known = self.lock();
        let Some(&Fate::Ended(status)) = known.get(&id) else { return None };
        known.remove(&id);
        Some(status)
    }

    /// Waits for the end of a process, at most until then.
    pub fn wait(&self, id: Pid, until: Instant) -> Option<WaitStatus> {
        loop {
            self.reap();
            if let Some(status) = self.status(id) {
                return Some(status);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let has_ended = |known: &mut HashMap<Pid, Fate>| !matches!(known.get(&id), Some(Fate::Lives));
            let guard = self.lock();
            drop(self.ended.wait_timeout_while(guard, left.min(LOOK_EVERY), |known| !has_ended(known)));
        }
    }
}

/// Whether the kernel may back this process's memory with pages of 2 MiB.
fn use_huge_pages(on: bool) {
    // A kernel without the setting has no such pages.
    let _ = disable_transparent_huge_pages(!on);
}

/// Begins this process again, with the same arguments, without pages of 2 MiB and with settings of the allocator for little
/// memory: an agent then has 1.5 MB of its own instead of 14. The allocator asks for such pages, and reads its settings, before
/// `main` begins. Returns if all is so already, or can not be.
pub fn begin_again_small() {
    let had_huge_pages = transparent_huge_pages_are_disabled().is_ok_and(|disabled| !disabled);
    let changed = had_huge_pages && disable_transparent_huge_pages(true).is_ok();
    let missing: Vec<_> = ALLOCATOR.into_iter().filter(|(name, _)| env::var_os(name).is_none()).collect();
    let mut arguments = env::args_os();
    if (changed || !missing.is_empty())
        && let (Ok(program), Some(name)) = (env::current_exe(), arguments.next())
    {
        // An error, such as a binary that was replaced meanwhile, costs memory only.
        let _ = Command::new(program).arg0(name).args(arguments).envs(missing).exec();
    }
}

/// What lies in a pipe. Nothing is waited for: who wrote has ended, and another who holds the pipe may never end.
fn head(mut pipe: ChildStdout, max_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; max_bytes];
    let mut ready = [PollFd::new(&pipe, PollFlags::IN)];
    let is_ready = poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0);
    let length = if is_ready { pipe.read(&mut bytes).unwrap_or(0) } else { 0 };
    bytes.truncate(length);
    bytes
}

/// A status as a shell shows it: the exit status, or 128 and the signal's number.
pub fn shell_status(status: WaitStatus) -> u8 {
    let signal = || status.terminating_signal().map(|signal| signal.saturating_add(128));
    status.exit_status().or_else(signal).and_then(|status| u8::try_from(status).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_given_once_to_the_one_who_waits() {
        let children = Children::default();
        let mut shell = Command::new("/bin/sh");
        let (three, _) = children.spawn(shell.args(["-c", "exit 3"])).unwrap();
        let mut shell = Command::new("/bin/sh");
        let (killed, _) = children.spawn(shell.args(["-c", "kill -9 $$"])).unwrap();
        let soon = Instant::now() + Duration::from_secs(60);
        assert_eq!(children.wait(killed, soon).map(shell_status), Some(137));
        assert_eq!(children.wait(three, soon).map(shell_status), Some(3));
        assert!(children.status(three).is_none());
    }

    #[test]
    fn one_that_nobody_waits_for_is_reaped_and_forgotten() {
        let children = Children::default();
        let mut shell = Command::new("/bin/sh");
        let (id, _) = children.spawn(shell.args(["-c", "exit 3"])).unwrap();
        children.lock().insert(id, Fate::Forgotten);
        let begin = Instant::now();
        while !children.lock().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(60), "it is never reaped");
            children.reap();
        }
    }

    #[test]
    fn a_command_must_end_in_time_and_its_first_bytes_are_given() {
        let children = Children::default();
        let long = Duration::from_secs(60);
        assert_eq!(children.run("echo 42; echo more", long, 3), Ok(b"42\n".to_vec()));
        assert_eq!(children.run("true", long, 3), Ok(Vec::new()));
        assert_eq!(children.run("sleep 5 & echo 7", long, 64), Ok(b"7\n".to_vec()), "it leaves a process behind");
        assert_eq!(children.run("exit 3", long, 0), Err("status 3".into()));
        assert_eq!(children.run("sleep 600", Duration::from_millis(50), 0), Err("no end within 50ms".into()));
    }
}
