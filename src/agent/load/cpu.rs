//! The CPU that a service uses and could use, from `/proc/stat`, `cpu.stat`, `cpu.max` and lists of CPUs.

use std::time::Duration;

/// The most CPUs that count; the kernel's own limit on x86-64.
const CPUS: usize = 8192;

/// A set of CPUs, as the kernel lists them: `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(Vec<(u32, u32)>);

impl Cpus {
    /// Reads a list; `None` if it is none, or empty.
    pub fn parse(text: &str) -> Option<Cpus> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
            (first <= last).then_some((first, last))
        };
        let ranges: Option<Vec<(u32, u32)>> = text.trim().split(',').take(CPUS).map(range).collect();
        ranges.filter(|ranges| !ranges.is_empty()).map(Cpus)
    }

    /// The CPUs that a process may run on, from `/proc/PID/status`.
    pub fn of_status(status: &str) -> Option<Cpus> {
        Cpus::parse(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
    }

    /// Whether the set has the CPU.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&cpu))
    }
}

/// The times of one CPU since the machine's start, in the kernel's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    cpu: u32,
    /// Without work, or with work that gives way: `idle`, `iowait` and `nice`.
    free: u64,
    all: u64,
}

/// The times of some CPUs of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine(Vec<Times>);

impl Machine {
    /// Reads `/proc/stat`; only the CPUs of `allowed` count, if there is such a set.
    pub fn parse(stat: &str, allowed: Option<&Cpus>) -> Machine {
        let times = |line: &str| {
            let mut words = line.strip_prefix("cpu")?.split(' ').filter(|word| !word.is_empty());
            let cpu: u32 = words.next().filter(|_| !line.starts_with("cpu "))?.parse().ok()?;
            // user nice system idle iowait irq softirq steal; the two after them are parts of the first two.
            let mut fields = [0_u64; 8];
            for field in fields.iter_mut().take(4) {
                *field = words.next()?.parse().ok()?;
            }
            for (field, word) in fields.iter_mut().skip(4).zip(words) {
                *field = word.parse().ok()?;
            }
            let [_, nice, _, idle, iowait, ..] = fields;
            let sum = |fields: &[u64]| fields.iter().fold(0_u64, |sum, field| sum.saturating_add(*field));
            Some(Times { cpu, free: sum(&[nice, idle, iowait]), all: sum(&fields) })
        };
        let mut all: Vec<Times> = stat
            .lines()
            .take_while(|line| line.starts_with("cpu"))
            .take(CPUS + 1)
            .filter_map(times)
            .filter(|times| allowed.is_none_or(|allowed| allowed.contains(times.cpu)))
            .collect();
        all.sort_unstable_by_key(|times| times.cpu);
        all.dedup_by_key(|times| times.cpu);
        Machine(all)
    }

    /// How many CPUs there are.
    pub fn cores(&self) -> f64 {
        self.0.len() as f64
    }

    /// How many of the CPUs were free since `before`, as a mean. The share of each CPU is taken by itself, because a CPU
    /// that sleeps may lack ticks. A CPU that was not there before counts as free.
    pub fn free_since(&self, before: &Machine) -> f64 {
        let share = |now: &Times| {
            let before =
                before.0.binary_search_by_key(&now.cpu, |times| times.cpu).ok().and_then(|at| before.0.get(at));
            let (free, all) = before.map_or((0, 0), |before| {
                // `iowait` may fall.
                (now.free.saturating_sub(before.free), now.all.saturating_sub(before.all))
            });
            if all == 0 { 1.0 } else { (free as f64 / all as f64).min(1.0) }
        };
        self.0.iter().map(share).sum()
    }
}

/// The quota in `cpu.max`, in cores; `None` without one.
pub fn quota(max: &str) -> Option<f64> {
    let mut words = max.split_whitespace();
    cores_of(words.next()?, words.next()?)
}

/// The same of version 1: `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
pub fn cores_of(quota: &str, period: &str) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<u64>().ok().filter(|number| *number > 0);
    Some(number(quota)? as f64 / number(period)? as f64)
}

/// The CPU time that a control group has used, from `cpu.stat`.
pub fn used(stat: &str) -> Option<Duration> {
    let words = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    words.trim().parse().ok().map(Duration::from_micros)
}

/// The same of version 1, from `cpuacct.usage`.
pub fn used_v1(usage: &str) -> Option<Duration> {
    usage.trim().parse().ok().map(Duration::from_nanos)
}

/// What is known of the CPU at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The CPUs that the service may run on.
    pub machine: Machine,
    /// The least quota of the service's control group and of those above, in cores.
    pub quota: Option<f64>,
    /// The CPU time that the service has used; `None` if it has no control group of its own.
    pub used: Option<Duration>,
}

/// The CPU over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// The cores that the service may have at most: its quota, or the CPUs that it may run on.
    pub limit: f64,
    /// The cores that the service had.
    pub used: f64,
    /// The cores that the service could have had within its limit: what it had, what was free, and half of what others had.
    pub available: f64,
}

impl Cpu {
    /// From two readings, the later one `elapsed` after the other; `None` if they say nothing.
    pub fn between(before: &Reading, now: &Reading, elapsed: Duration) -> Option<Cpu> {
        let cores = now.machine.cores();
        if elapsed.is_zero() || cores == 0.0 {
            return None;
        }
        let limit = now.quota.map_or(cores, |quota| quota.min(cores));
        let free = now.machine.free_since(&before.machine);
        let own = match (before.used, now.used) {
            // A smaller value is of another control group.
            (Some(before), Some(now)) => now.checked_sub(before)?.as_secs_f64() / elapsed.as_secs_f64(),
            (None, None) => cores - free,
            _ => return None,
        };
        // The kernel lets a group overrun its quota a little, and no group runs on more than all CPUs.
        let used = own.clamp(0.0, limit);
        // Of what others use, half counts as free: the kernel shares a CPU evenly among those who want it. If nothing of it
        // counted, a member beside a busy neighbour could have what it uses and no more; so it would get less and less work.
        let others = (cores - free - used).max(0.0);
        Some(Cpu { limit, used, available: used + (limit - used).min(free + others / 2.0).max(0.0) })
    }

    /// The used share of the available cores, 0 to 1; 1 if there is nothing to have.
    pub fn utilization(&self) -> f64 {
        if self.available > 0.0 { (self.used / self.available).min(1.0) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  300 20 30 1000 40 0 6 4 0 0\ncpu0 100 20 10 600 20 0 3 2 9 9\ncpu1 200 0 20 400 20 0 3 2 0 0\n\
                        intr 1 2 3\nctxt 5\n";

    fn stat(cpus: &[(u32, u64, u64)]) -> Machine {
        let line = |(cpu, busy, idle): &(u32, u64, u64)| format!("cpu{cpu} {busy} 0 0 {idle}\n");
        Machine::parse(&cpus.iter().map(line).collect::<String>(), None)
    }

    #[test]
    fn lists_of_cpus() {
        let has =
            |text: &str| Cpus::parse(text).map(|cpus| (0..12).filter(|cpu| cpus.contains(*cpu)).collect::<Vec<_>>());
        assert_eq!(has("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(has("5"), Some(vec![5]));
        for wrong in ["", "\n", "3-1", "a", "1,", "-1", "1-", "99999999999"] {
            assert_eq!(has(wrong), None, "{wrong:?}");
        }
        let status = "Name:\tx\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\nMems_allowed:\t1\n";
        assert_eq!(Cpus::of_status(status), Cpus::parse("0-1"));
        assert_eq!(Cpus::of_status("Name:\tx\n"), None);
    }

    #[test]
    fn each_cpu_has_its_times() {
        let all = Machine(vec![Times { cpu: 0, free: 640, all: 755 }, Times { cpu: 1, free: 420, all: 645 }]);
        assert_eq!(Machine::parse(STAT, None), all);
        let one = Machine::parse(STAT, Cpus::parse("1,7").as_ref());
        assert_eq!((one.cores(), one.0[0].cpu), (1.0, 1));
        assert_eq!(Machine::parse("cpu0 1 2 3\ncpu1 x 1 1 1\ncpux 1 1 1 1\nintr 1\ncpu2 1 1 1 1\n", None).cores(), 0.0);
        assert_eq!(Machine::parse("cpu0 1 0 0 1\ncpu0 5 0 0 5\n", None).cores(), 1.0);
        let huge = "cpu0 18446744073709551615 1 1 18446744073709551615\n";
        assert_eq!(Machine::parse(huge, None).0[0].all, u64::MAX);
    }

    #[test]
    fn free_cores_are_the_sum_of_each_cpus_free_share() {
        let before = stat(&[(0, 100, 100), (1, 100, 100)]);
        assert_eq!(stat(&[(0, 150, 150), (1, 200, 100)]).free_since(&before), 0.5);
        // The second CPU slept and has half of the ticks.
        assert_eq!(stat(&[(0, 200, 100), (1, 100, 150)]).free_since(&before), 1.0);
        // A CPU without ticks is idle, and so is a new one; one that has gone does not count.
        assert_eq!(stat(&[(0, 100, 100), (7, 9, 0)]).free_since(&before), 2.0);
        assert_eq!(stat(&[(1, 99, 50)]).free_since(&before), 1.0, "counters that fall");
    }

    #[test]
    fn quotas_and_times() {
        assert_eq!(quota("50000 100000\n"), Some(0.5));
        assert_eq!(quota("250000 100000"), Some(2.5));
        for none in ["max 100000", "", "50000", "0 100000", "5 0", "-1 100000", "x y"] {
            assert_eq!(quota(none), None, "{none}");
        }
        assert_eq!(cores_of("20000\n", "100000\n"), Some(0.2));
        assert_eq!(cores_of("-1\n", "100000\n"), None);
        assert_eq!(used("usage_usec 1500\nuser_usec 1\n"), Some(Duration::from_micros(1500)));
        assert_eq!(used("user_usec 1\nusage_usec 7"), Some(Duration::from_micros(7)));
        assert_eq!(used("usage_usec x\n"), None);
        assert_eq!(used_v1("2000\n"), Some(Duration::from_micros(2)));
    }

    #[test]
    fn available_is_what_is_used_and_what_is_free_within_the_limit() {
        let second = Duration::from_secs(1);
        let between = |quota, used: Option<u64>, idle: u64| {
            let before = Reading { machine: stat(&[(0, 0, 0), (1, 0, 0)]), quota, used: used.map(|_| Duration::ZERO) };
            let machine = stat(&[(0, 100 - idle, idle), (1, 100 - idle, idle)]);
            let now = Reading { machine, quota, used: used.map(Duration::from_millis) };
            let cpu = Cpu::between(&before, &now, second).unwrap();
            [cpu.limit, cpu.used, cpu.available, cpu.utilization()].map(|value| (value * 1000.0).round() / 1000.0)
        };
        // Without a control group of its own, all that is used is the service's.
        assert_eq!(between(None, None, 75), [2.0, 0.5, 2.0, 0.25]);
        // A quota of half a core on an idle machine.
        assert_eq!(between(Some(0.5), Some(250), 75), [0.5, 0.25, 0.5, 0.5]);
        assert_eq!(between(Some(0.5), Some(500), 0), [0.5, 0.5, 0.5, 1.0]);
        assert_eq!(between(Some(0.5), Some(520), 50), [0.5, 0.5, 0.5, 1.0], "a little over");
        // Others use 1.2 of the two cores, and 0.4 cores are free.
        assert_eq!(between(None, Some(400), 20), [2.0, 0.4, 1.4, 0.286]);
        assert_eq!(between(Some(0.5), Some(100), 10), [0.5, 0.1, 0.5, 0.2], "its quota is its own");
        assert_eq!(between(None, Some(0), 0), [2.0, 0.0, 1.0, 0.0], "others use all");
        // A quota beyond the machine.
        assert_eq!(between(Some(16.0), Some(1000), 50), [2.0, 1.0, 2.0, 0.5]);
    }

    #[test]
    fn readings_that_do_not_belong_together_say_nothing() {
        let reading = |used| Reading { machine: stat(&[(0, 1, 1)]), quota: None, used };
        let (less, more) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(2)));
        let second = Duration::from_secs(1);
        assert_eq!(Cpu::between(&reading(more), &reading(less), second), None);
        assert_eq!(Cpu::between(&reading(None), &reading(less), second), None);
        assert_eq!(Cpu::between(&reading(less), &reading(more), Duration::ZERO), None);
        assert_eq!(Cpu::between(&Reading::default(), &Reading::default(), second), None);
        assert!(Cpu::between(&reading(less), &reading(more), second).is_some());
    }
}
