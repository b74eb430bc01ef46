//! The used share of the memory that a service may have, and how long its processes wait (PSI).

/// A limit of this many bytes or more is none: version 1 writes the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 60;

/// The memory of one control group, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// What can not be given back at once.
    pub used: u64,
    /// The most that the group may have.
    pub limit: u64,
}

impl Level {
    /// From `memory.current`, `memory.stat`, `memory.max` and `memory.high`; `None` without a limit. File pages that were
    /// not used lately (`inactive_file`) do not count as used: the kernel gives them back when memory is short.
    pub fn parse(current: &str, stat: &str, max: &str, high: &str) -> Option<Level> {
        let limit = [max, high].into_iter().filter_map(limit).min()?;
        let inactive = ["total_inactive_file ", "inactive_file "]
            .into_iter()
            .find_map(|name| stat.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok());
        let current: u64 = current.trim().parse().ok()?;
        Some(Level { used: current.saturating_sub(inactive.unwrap_or(0)), limit })
    }

    fn share(self) -> f64 {
        (self.used as f64 / self.limit as f64).min(1.0)
    }
}

fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| (1..NO_LIMIT).contains(limit)) // `max` is no number
}

/// The used share of the machine's memory, from `/proc/meminfo`.
pub fn of_machine(meminfo: &str) -> Option<f64> {
    let field = |name: &str| {
        let value = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    };
    let (total, available) = (field("MemTotal:").filter(|total| *total > 0)?, field("MemAvailable:")?);
    Some(1.0 - (available as f64 / total as f64).min(1.0))
}

/// The used share where memory is scarcest: in the control groups with a limit, or in the whole machine.
pub fn utilization(levels: impl IntoIterator<Item = Level>, machine: Option<f64>) -> Option<f64> {
    levels.into_iter().map(Level::share).chain(machine).reduce(f64::max)
}

/// The share of the last ten seconds in which some task waited, 0 to 1, from a file of PSI such as `cpu.pressure`.
pub fn waited(pressure: &str) -> Option<f64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = some.split(' ').find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
    (percent.is_finite() && percent >= 0.0).then_some((percent / 100.0).min(1.0))
}

/// How long tasks waited: shares of the last ten seconds, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// For a CPU.
    pub cpu: Option<f64>,
    /// For memory.
    pub memory: Option<f64>,
    /// For input and output.
    pub io: Option<f64>,
}

/// How much a service lacks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Tasks wait less than 5 % of the time for anything.
    Calm,
    /// Less than 20 %.
    Some,
    /// Less than 50 %.
    High,
    /// At least half of the time.
    Stalled,
}

impl Class {
    /// The byte that SASP's opaque state gets: 0 to 3.
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Class::Calm => "calm",
            Class::Some => "some",
            Class::High => "high",
            Class::Stalled => "stalled",
        }
    }
}

impl Pressure {
    /// The class of the greatest of the shares; `None` if the kernel has no PSI.
    pub fn class(&self) -> Option<Class> {
        let most = [self.cpu, self.memory, self.io].into_iter().flatten().reduce(f64::max)?;
        Some(match most {
            ..0.05 => Class::Calm,
            ..0.2 => Class::Some,
            ..0.5 => Class::High,
            _ => Class::Stalled,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_needs_a_limit() {
        let level = |max: &str, high: &str| Level::parse("1000\n", "anon 5\ninactive_file 200\n", max, high);
        assert_eq!(level("2000\n", "max\n"), Some(Level { used: 800, limit: 2000 }));
        assert_eq!(level("2000\n", "1600\n"), Some(Level { used: 800, limit: 1600 }));
        assert_eq!(level("max\n", "1600"), Some(Level { used: 800, limit: 1600 }));
        for (max, high) in [("max", "max"), ("", ""), ("0", "0"), ("9223372036854771712", "")] {
            assert_eq!(level(max, high), None, "{max} {high}");
        }
        let first = "inactive_file 900\ntotal_inactive_file 200\n";
        assert_eq!(Level::parse("1000", first, "2000", "").unwrap().used, 800, "version 1 has both");
        assert_eq!(Level::parse("100", "inactive_file 200", "2000", "").unwrap().used, 0);
        assert_eq!(Level::parse("x", "", "2000", ""), None);
    }

    #[test]
    fn the_scarcest_counts() {
        let meminfo = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    750 kB\n";
        assert_eq!(of_machine(meminfo), Some(0.25));
        for wrong in ["", "MemTotal: 1000 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", "MemTotal: x\nMemAvailable: 1"]
        {
            assert_eq!(of_machine(wrong), None, "{wrong}");
        }
        let levels = [Level { used: 800, limit: 1600 }, Level { used: 900, limit: 3600 }];
        assert_eq!(utilization(levels, Some(0.25)), Some(0.5));
        assert_eq!(utilization(levels, Some(0.75)), Some(0.75));
        assert_eq!(utilization([Level { used: 8, limit: 4 }], None), Some(1.0));
        assert_eq!(utilization([], None), None);
    }

    #[test]
    fn pressure_has_classes() {
        let file =
            "some avg10=18.80 avg60=21.69 avg300=16.24 total=170363258\nfull avg10=1.00 avg60=0.00 avg300=0 total=0\n";
        assert_eq!(waited(file), Some(0.188));
        assert_eq!(waited("some avg10=250.00 avg60=0"), Some(1.0));
        for wrong in ["", "full avg10=1.0 avg60=0", "some avg60=1", "some avg10=x", "some avg10=-1", "some avg10=nan"] {
            assert_eq!(waited(wrong), None, "{wrong}");
        }
        let class = |cpu, io| Pressure { cpu, memory: Some(0.01), io }.class().map(Class::byte);
        assert_eq!(class(None, None), Some(0));
        assert_eq!(class(Some(0.188), Some(0.04)), Some(1));
        assert_eq!(class(Some(0.1), Some(0.2)), Some(2));
        assert_eq!(class(Some(0.5), None), Some(3));
        assert_eq!(Pressure::default().class(), None);
    }
}
