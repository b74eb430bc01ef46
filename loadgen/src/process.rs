//! A process's use of CPU and memory, from `/proc`.

use std::{collections::BTreeMap, fs, io, path::Path, time::Duration};

use crate::Result;

/// A process's use of the machine up to now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// CPU of each thread name, in nanoseconds; of threads that are alive.
    threads: BTreeMap<String, u64>,
    /// User and system time in clock ticks, of ended threads too: how the CPU time divides.
    user_ticks: u64,
    system_ticks: u64,
    voluntary: u64,
    involuntary: u64,
}

/// A process's use between two samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    /// CPU time, user and system, exact to the nanosecond for threads that sleep at both ends.
    pub(crate) cpu_ns: u64,
    /// Its part spent in the kernel, 0 to 1, from counters of 10 ms.
    pub(crate) system_part: f64,
    /// Times that a thread went to sleep.
    pub(crate) voluntary_switches: u64,
    /// Times that a thread was made to wait for another.
    pub(crate) involuntary_switches: u64,
    /// CPU by thread name.
    pub(crate) threads: BTreeMap<String, u64>,
}

/// A process's memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) rss: u64,
    /// Resident, with shared pages divided among the processes that share them.
    pub(crate) pss: u64,
    /// Resident and its own: heap and stacks.
    pub(crate) anonymous: u64,
}

impl Usage {
    /// Samples a process.
    pub(crate) fn of(pid: u32) -> Result<Usage> {
        sample(pid).map_err(|error| format!("can not read /proc/{pid}: {error}"))
    }

    /// Samples this process.
    pub(crate) fn own() -> Result<Usage> {
        Usage::of(std::process::id())
    }

    /// The use since `before`.
    pub(crate) fn since(&self, before: &Usage) -> Used {
        let threads: BTreeMap<String, u64> = self
            .threads
            .iter()
            .map(|(name, now)| (name.clone(), now.saturating_sub(before.threads.get(name).copied().unwrap_or(0))))
            .collect();
        let user = self.user_ticks.saturating_sub(before.user_ticks);
        let system = self.system_ticks.saturating_sub(before.system_ticks);
        Used {
            cpu_ns: threads.values().sum(),
            system_part: if user + system > 0 { system as f64 / (user + system) as f64 } else { 0.0 },
            voluntary_switches: self.voluntary.saturating_sub(before.voluntary),
            involuntary_switches: self.involuntary.saturating_sub(before.involuntary),
            threads,
        }
    }
}

impl Used {
    /// Adds the use between two other samples.
    pub(crate) fn extend(&mut self, other: Used) {
        let system = self.cpu_ns as f64 * self.system_part + other.cpu_ns as f64 * other.system_part;
        self.cpu_ns += other.cpu_ns;
        self.system_part = if self.cpu_ns > 0 { system / self.cpu_ns as f64 } else { 0.0 };
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
        for (name, cpu_ns) in other.threads {
            *self.threads.entry(name).or_default() += cpu_ns;
        }
    }

    /// CPU time.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns)
    }
}

fn sample(pid: u32) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let root = Path::new("/proc").join(pid.to_string());
    for task in fs::read_dir(root.join("task"))? {
        let task = task?.path();
        // A thread may end between being listed and being read.
        let (Ok(name), Ok(times), Ok(status)) = (
            fs::read_to_string(task.join("comm")),
            fs::read_to_string(task.join("schedstat")),
            fs::read_to_string(task.join("status")),
        ) else {
            continue;
        };
        let on_cpu = times.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
        *usage.threads.entry(name.trim().to_owned()).or_insert(0u64) += on_cpu;
        usage.voluntary += field(&status, "voluntary_ctxt_switches:");
        usage.involuntary += field(&status, "nonvoluntary_ctxt_switches:");
    }
    let stat = fs::read_to_string(root.join("stat"))?;
    // The command's name, in parentheses, may contain anything: fields are counted behind it.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    usage.user_ticks = fields.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    usage.system_ticks = fields.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    Ok(usage)
}

impl Memory {
    /// Samples a process.
    pub(crate) fn of(pid: u32) -> Result<Memory> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|error| format!("can not read {path}: {error}"))?;
        let bytes = |name| field(&text, name) * 1024;
        Ok(Memory { rss: bytes("Rss:"), pss: bytes("Pss:"), anonymous: bytes("Anonymous:") })
    }
}

/// The number after the name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_shows() {
        let before = Usage::own().unwrap();
        let mut sum = 0u64;
        let worker = std::thread::Builder::new().name("worker".into());
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let thread = worker
            .spawn(move || {
                for number in 0..20_000_000u64 {
                    sum = std::hint::black_box(sum.wrapping_add(number));
                }
                receive.recv().unwrap_err(); // stays alive until it was looked at
            })
            .unwrap();
        while Usage::own().unwrap().since(&before).threads.get("worker").is_none_or(|&worked| worked == 0) {
            std::thread::yield_now();
        }
        drop(send);
        thread.join().unwrap();
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.rss >= memory.anonymous && memory.anonymous > 0 && memory.pss > 0, "{memory:?}");
    }

    #[test]
    fn fields_are_found_at_the_start_of_a_line() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\nRss:      12 kB\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), 3);
        assert_eq!(field(text, "Rss:"), 12);
        assert_eq!(field(text, "Pss:"), 0);
    }
}
