//! Reads the kernel's files. What can not be read, or is too long, is not known.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    capacity,
    cpu::{self, Cpus, Machine},
    groups::{Group, Groups, Version},
    memory::{self, Level, Pressure},
};
use crate::limits;

/// Where the CPU's frequencies are.
const CPUFREQ: &str = "/sys/devices/system/cpu/cpu0/cpufreq";

/// Where the control groups of systemd's units are.
const UNITS: [&str; 2] = ["/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/unified/system.slice"];

/// Of what the CPU, the memory and the pressure are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// Of the service's process, if the agent knows one; else of the machine.
    #[default]
    Process,
    /// Of the machine.
    Machine,
    /// Of a unit of systemd.
    Unit(String),
    /// Of a control group of version 2: its directory.
    Directory(PathBuf),
}

impl std::str::FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Subject, String> {
        let is_name = |name: &str| !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        match text.split_once(':').unwrap_or((text, "")) {
            ("process", "") => Ok(Subject::Process),
            ("machine", "") => Ok(Subject::Machine),
            ("unit", name) if is_name(name) => Ok(Subject::Unit(name.into())),
            ("cgroup", path) if path.starts_with('/') => Ok(Subject::Directory(path.into())),
            _ => Err(format!("`{text}` is not process, machine, unit:NAME.service or cgroup:/DIRECTORY")),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Process => f.write_str("process"),
            Subject::Machine => f.write_str("machine"),
            Subject::Unit(name) => write!(f, "unit:{name}"),
            Subject::Directory(path) => write!(f, "cgroup:{}", path.display()),
        }
    }
}

/// The text of a file.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limits::AGENT_KERNEL_BYTES + 1).read_to_end(&mut bytes).ok()?;
    // The first part of a long file is what is looked for: `/proc/stat` has the CPUs first.
    bytes.truncate(limits::AGENT_KERNEL_BYTES as usize);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the kernel says of a process. As long as this is the same, the place of its figures is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `/proc/PID/cgroup`.
    groups: String,
    cpus: Option<Cpus>,
}

impl Identity {
    /// Of the service's process, if it is known and counts.
    pub fn read(subject: &Subject, process: Option<u32>) -> Identity {
        match (subject, process) {
            (Subject::Process, Some(id)) => {
                let of = |file: &str| text(format!("/proc/{id}/{file}")).unwrap_or_default();
                Identity { groups: of("cgroup"), cpus: Cpus::of_status(&of("status")) }
            }
            _ => Identity::default(),
        }
    }
}

/// Where the figures of a service come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    groups: Groups,
    /// The CPUs that it may run on; all if this is not known.
    cpus: Option<Cpus>,
}

impl Place {
    /// Finds the place.
    pub fn find(subject: &Subject, identity: &Identity) -> Place {
        match subject {
            Subject::Machine => Place::default(),
            Subject::Process if identity.groups.is_empty() => Place::default(),
            Subject::Process => {
                // The mounts as the agent sees them: it opens the paths.
                let mounts = text("/proc/self/mountinfo").unwrap_or_default();
                Place { groups: Groups::parse(&identity.groups, &mounts), cpus: identity.cpus.clone() }
            }
            Subject::Unit(name) => {
                let directories = UNITS.iter().map(|units| Path::new(units).join(name));
                directories.into_iter().find(|path| path.is_dir()).map_or_else(Place::default, |path| Place::of(&path))
            }
            Subject::Directory(path) => Place::of(path),
        }
    }

    fn of(directory: &Path) -> Place {
        let group = Group::of_directory(directory, |level| level.join("cgroup.controllers").exists());
        // A group without the controller has the CPUs of the next one above that has it.
        let cpus = group.levels.iter().find_map(|level| Cpus::parse(&text(level.join("cpuset.cpus.effective"))?));
        Place { groups: Groups::all(group), cpus }
    }

    /// Whether the control group with the time is still there.
    pub fn exists(&self) -> bool {
        self.groups.account.as_ref().and_then(Group::own).is_some_and(Path::is_dir)
    }

    /// The CPU now.
    pub fn cpu(&self) -> cpu::Reading {
        let machine = Machine::parse(&text("/proc/stat").unwrap_or_default(), self.cpus.as_ref());
        let quota = |group: &Group, level: &PathBuf| match group.version {
            Version::Two => cpu::quota(&text(level.join("cpu.max"))?),
            Version::One => {
                cpu::cores_of(&text(level.join("cpu.cfs_quota_us"))?, &text(level.join("cpu.cfs_period_us"))?)
            }
        };
        let quotas =
            self.groups.cpu.iter().flat_map(|group| group.levels.iter().filter_map(|level| quota(group, level)));
        let used = |group: &Group| {
            let own = group.own()?;
            match group.version {
                Version::Two => cpu::used(&text(own.join("cpu.stat"))?),
                Version::One => cpu::used_v1(&text(own.join("cpuacct.usage"))?),
            }
        };
        cpu::Reading { machine, quota: quotas.reduce(f64::min), used: self.groups.account.as_ref().and_then(used) }
    }

    /// The used share of the memory now.
    pub fn memory(&self) -> Option<f64> {
        let level = |group: &Group, level: &PathBuf| {
            let [current, max, high] = match group.version {
                Version::Two => ["memory.current", "memory.max", "memory.high"],
                Version::One => ["memory.usage_in_bytes", "memory.limit_in_bytes", ""],
            };
            let of = |file: &str| text(level.join(file)).unwrap_or_default();
            let (max, high) = (of(max), if high.is_empty() { String::new() } else { of(high) });
            // Most groups have no limit: their other files need not be read.
            Level::parse("0", "", &max, &high)?;
            Level::parse(&of(current), &of("memory.stat"), &max, &high)
        };
        let levels =
            self.groups.memory.iter().flat_map(|group| group.levels.iter().filter_map(|path| level(group, path)));
        memory::utilization(levels, text("/proc/meminfo").and_then(|text| memory::of_machine(&text)))
    }

    /// How long tasks wait now.
    pub fn pressure(&self) -> Pressure {
        let own = self.groups.pressure.as_ref().filter(|group| !group.is_root()).and_then(Group::own);
        let waited = |name: &str| {
            let of_group = own.and_then(|own| text(own.join(format!("{name}.pressure"))));
            memory::waited(&of_group.or_else(|| text(format!("/proc/pressure/{name}")))?)
        };
        Pressure { cpu: waited("cpu"), memory: waited("memory"), io: waited("io") }
    }
}

/// The frequency of the machine's CPUs, in GHz: what the maker promises, if the kernel knows it.
pub fn frequency() -> Option<f64> {
    let of_cpufreq = |file: &str| capacity::of_cpufreq(&text(Path::new(CPUFREQ).join(file))?);
    let of_cpuinfo = || capacity::of_cpuinfo(&text("/proc/cpuinfo")?);
    of_cpufreq("base_frequency").or_else(|| of_cpufreq("cpuinfo_max_freq")).or_else(of_cpuinfo)
}

/// The machine's CPUs.
pub fn cores() -> f64 {
    Machine::parse(&text("/proc/stat").unwrap_or_default(), None).cores()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::load::cpu::Cpu;

    #[test]
    fn subjects_have_names() {
        for (name, subject) in [
            ("process", Subject::Process),
            ("machine", Subject::Machine),
            ("unit:web.service", Subject::Unit("web.service".into())),
            ("cgroup:/sys/fs/cgroup/a", Subject::Directory("/sys/fs/cgroup/a".into())),
        ] {
            assert_eq!(name.parse(), Ok(subject.clone()));
            assert_eq!(subject.to_string(), name);
        }
        for wrong in ["", "unit:", "unit:../x", "unit:..", "cgroup:a", "machine:1", "pid"] {
            assert!(wrong.parse::<Subject>().is_err(), "{wrong}");
        }
    }

    fn find(subject: Subject, process: Option<u32>) -> Place {
        Place::find(&subject, &Identity::read(&subject, process))
    }

    #[test]
    fn this_process_and_machine_have_figures() {
        for place in [
            find(Subject::Process, Some(std::process::id())),
            find(Subject::Process, None),
            find(Subject::Unit("no-such-unit.service".into()), None),
        ] {
            let before = place.cpu();
            // Some time goes by, until the kernel has counted a tick.
            let mut now = place.cpu();
            for _ in 0..1_000_000 {
                if now != before {
                    break;
                }
                now = place.cpu();
            }
            let cpu = Cpu::between(&before, &now, Duration::from_secs(1)).expect("a machine has CPUs");
            assert!(cpu.limit > 0.0 && cpu.limit <= cores() && (0.0..=1.0).contains(&cpu.utilization()), "{cpu:?}");
            assert!(place.memory().is_some_and(|share| (0.0..=1.0).contains(&share)));
        }
        assert_eq!(text("/no/such/file"), None);
    }

    #[test]
    fn a_directory_that_is_no_group_has_the_machines_figures() {
        let place = find(Subject::Directory("/no/such/group".into()), None);
        assert!(!place.exists());
        assert_eq!(place.cpu().used, None);
        assert_eq!(place.groups.cpu.unwrap().levels, Vec::<PathBuf>::new());
    }
}
