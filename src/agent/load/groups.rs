//! Where the control groups of a service are, from `/proc/PID/cgroup` and `/proc/PID/mountinfo`. Version 2 counts, and
//! version 1 where a controller is still there.

use std::path::{Component, Path, PathBuf};

/// The most levels from a control group up to the mount that are read.
const LEVELS: usize = 32;

/// The most lines of the two files that are read. A container host has thousands of mounts; those of control groups come
/// with the first.
const LINES: usize = 4096;

/// The version of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    One,
    /// One hierarchy for all.
    Two,
}

/// A control group: its directory and those above, up to the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which files the directories have.
    pub version: Version,
    /// The group's own directory first.
    pub levels: Vec<PathBuf>,
}

impl Group {
    /// The group's own directory.
    pub fn own(&self) -> Option<&Path> {
        self.levels.first().map(PathBuf::as_path)
    }

    /// Whether the group is the whole mount: of the machine, or of a container that has its own view of control groups.
    pub fn is_root(&self) -> bool {
        self.levels.len() < 2
    }

    /// Of a directory below a mount of version 2. `is_group` tells whether a directory is a control group.
    pub fn of_directory(directory: &Path, is_group: impl Fn(&Path) -> bool) -> Group {
        let levels = directory.ancestors().take(LEVELS).take_while(|level| is_group(level));
        Group { version: Version::Two, levels: levels.map(Path::to_owned).collect() }
    }
}

/// The control groups of one process, for each of what is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// With the quota of the CPU.
    pub cpu: Option<Group>,
    /// With the CPU time.
    pub account: Option<Group>,
    /// With the memory.
    pub memory: Option<Group>,
    /// With the pressure: version 2 only.
    pub pressure: Option<Group>,
}

impl Groups {
    /// The same group of version 2 for all.
    pub fn all(group: Group) -> Groups {
        let all = || Some(group.clone());
        Groups { cpu: all(), account: all(), memory: all(), pressure: all() }
    }

    /// From the two files of the process.
    pub fn parse(cgroup: &str, mountinfo: &str) -> Groups {
        let of_first = |controller: &str| {
            let path = cgroup.lines().take(LINES).find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers.split(',').any(|known| known == controller).then_some(path)
            })?;
            group(Version::One, path, &mount(mountinfo, Some(controller))?)
        };
        let second = cgroup
            .lines()
            .take(LINES)
            .find_map(|line| line.strip_prefix("0::"))
            .and_then(|path| group(Version::Two, path, &mount(mountinfo, None)?));
        let of = |controller: &str| of_first(controller).or_else(|| second.clone());
        // The whole mount of version 1 has no time of the service alone; version 2 counts time without a controller.
        let account = of_first("cpuacct").filter(|group| !group.is_root()).or_else(|| second.clone());
        Groups { cpu: of("cpu"), account, memory: of("memory"), pressure: second.clone() }
    }
}

/// A mount of control groups.
struct Mount {
    /// The group that is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
}

/// The mount of a controller of version 1, or (`None`) of version 2.
fn mount(mountinfo: &str, controller: Option<&str>) -> Option<Mount> {
    mountinfo.lines().take(LINES).find_map(|line| {
        // ID PARENT MAJOR:MINOR ROOT POINT OPTIONS FIELDS… - TYPE SOURCE OPTIONS
        let (first, last) = line.split_once(" - ")?;
        let mut last = last.split(' ');
        let (kind, options) = (last.next()?, last.nth(1)?);
        let is_wanted = match controller {
            None => kind == "cgroup2",
            Some(wanted) => kind == "cgroup" && options.split(',').any(|option| option == wanted),
        };
        let mut first = first.split(' ').skip(3);
        let (root, point) = (first.next()?, first.next()?);
        is_wanted.then(|| Mount { root: unescaped(root).into(), point: unescaped(point).into() })
    })
}

/// Mountinfo writes blanks and backslashes as `\040`.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                out.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The group of a path that the kernel states. A path above or beside what is mounted has only the mount itself.
fn group(version: Version, path: &str, mount: &Mount) -> Option<Group> {
    let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(path));
    let below = path.strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    let below = if is_plain { below } else { Path::new("") };
    // `ancestors` ends with the empty path: the mount.
    let levels: Vec<PathBuf> = below
        .ancestors()
        .map(|level| if level.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(level) })
        .collect();
    let skipped = levels.len().saturating_sub(LEVELS);
    // Of a very deep group, the lowest levels do not count: those above limit it, too.
    Some(Group { version, levels: levels.into_iter().skip(skipped).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: &str = "24 30 0:22 / /proc rw - proc proc rw\n\
                          31 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    const FIRST: &str = "40 24 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                         41 24 0:31 /docker/ab /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory\n\
                         42 24 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn levels(group: &Option<Group>) -> Vec<&str> {
        group.as_ref().map_or(Vec::new(), |group| group.levels.iter().map(|level| level.to_str().unwrap()).collect())
    }

    #[test]
    fn version_2_has_one_group_for_all() {
        let groups = Groups::parse("0::/system.slice/web.service\n", SECOND);
        let expected = ["/sys/fs/cgroup/system.slice/web.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"];
        for group in [&groups.cpu, &groups.account, &groups.memory, &groups.pressure] {
            assert_eq!(levels(group), expected);
            assert_eq!(group.as_ref().unwrap().version, Version::Two);
        }
        assert!(!groups.cpu.as_ref().unwrap().is_root());
        let container = Groups::parse("0::/\n", SECOND);
        assert_eq!(levels(&container.cpu), ["/sys/fs/cgroup"]);
        assert!(container.cpu.unwrap().is_root());
        assert_eq!(levels(&Groups::parse("0::/../other\n", SECOND).cpu), ["/sys/fs/cgroup"]);
        assert_eq!(levels(&Groups::parse("0::/a (deleted)\n", SECOND).cpu)[0], "/sys/fs/cgroup/a");
        assert_eq!(Groups::parse("0::/a\n", ""), Groups::default());
        assert_eq!(Groups::parse("", SECOND), Groups::default());
    }

    #[test]
    fn version_1_counts_where_a_controller_is_there() {
        let groups = Groups::parse("4:cpu,cpuacct:/web\n3:memory:/docker/ab/x\n0::/u\n", FIRST);
        assert_eq!(levels(&groups.cpu), ["/sys/fs/cgroup/cpu,cpuacct/web", "/sys/fs/cgroup/cpu,cpuacct"]);
        assert_eq!(groups.cpu.as_ref().unwrap().version, Version::One);
        assert_eq!(groups.account, groups.cpu);
        assert_eq!(levels(&groups.memory), ["/sys/fs/cgroup/mem ory/x", "/sys/fs/cgroup/mem ory"]);
        assert_eq!(levels(&groups.pressure)[0], "/sys/fs/cgroup/unified/u");
        // The mount does not have the group: a container without a view of its own.
        assert_eq!(levels(&Groups::parse("3:memory:/docker/cd\n", FIRST).memory), ["/sys/fs/cgroup/mem ory"]);
        // The time of the whole machine is not the service's.
        let root = Groups::parse("4:cpu,cpuacct:/\n0::/u\n", FIRST);
        assert_eq!(root.account.unwrap().version, Version::Two);
    }

    #[test]
    fn a_deep_group_has_its_highest_levels() {
        let path = format!("0::{}\n", "/x".repeat(100));
        let groups = Groups::parse(&path, SECOND);
        let levels = levels(&groups.cpu);
        assert_eq!((levels.len(), levels[LEVELS - 1]), (LEVELS, "/sys/fs/cgroup"));
    }

    #[test]
    fn a_directory_ends_where_no_group_is() {
        let group = Group::of_directory(Path::new("/m/a/b"), |level| level.starts_with("/m"));
        assert_eq!(levels(&Some(group)), ["/m/a/b", "/m/a", "/m"]);
    }

    #[test]
    fn escapes_of_mountinfo() {
        assert_eq!(unescaped("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescaped("\\9\\0\\777é\\"), "\\9\\0\\777é\\");
    }
}
