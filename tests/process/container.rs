//! A container over this machine's files, with a real systemd as process 1.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::harness::{command, until};

/// Makes a root of its own over the machine's, and becomes systemd. Arguments: the test's folder, the binary's folder.
const CONTAINER: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount --rbind /dev dev
mkdir run/shared run/gwm run/old
mount --bind "$1" run/shared
mount --bind "$2" run/gwm
cp -r run/shared/units/. etc/systemd/system/
ip link set lo up
pivot_root . run/old
cd /
umount -l /run/old
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=gwm-test /lib/systemd/systemd --unit=gwm-test.target --log-target=null
"#;

/// A control group for the container, then its namespaces. Arguments: as above, and the script.
const OUTER: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/cgroup
mount -t cgroup2 cgroup2 /mnt/cgroup
group=/mnt/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/gwm-systemd-$$
mkdir -p "$group"
clean() {
    for try in 1 2 3 4 5 6 7 8 9 10; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.2
    done
}
trap clean EXIT
sh -c 'echo $$ > "$1/cgroup.procs" && exec unshare --cgroup --pid --net --ipc --uts --mount --fork --kill-child sh -c "$2" sh "$3" "$4"' \
    sh "$group" "$3" "$1" "$2"
"#;

/// The test's folder; removed when this value is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes a file of the test's folder, with its folders.
pub(crate) fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a new folder");
    fs::write(path, text).expect("a new file");
}

/// Writes a unit.
pub(crate) fn unit(folder: &Path, name: &str, unit: &str, service: &str) {
    let text = format!("[Unit]\nDefaultDependencies=no\n{unit}\n[Service]\n{service}\n");
    write(folder, &format!("units/{name}.service"), &text);
}

/// The binary, in the container.
pub(crate) const GWM: &str = "/run/gwm/gwm";

/// This machine's Python, by its whole name: a unit's path is short.
pub(crate) fn python() -> String {
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().expect("python3");
    String::from_utf8_lossy(&python.stdout).trim().to_owned()
}

/// Starts the units that are named, which `prepare` writes to a folder; in the container this is `/run/shared`. Gives the
/// JSON that one of the units writes to `result` there; `None` where that is not possible.
pub(crate) fn run(wants: &str, prepare: impl FnOnce(&Path)) -> Option<serde_json::Value> {
    if !Path::new("/lib/systemd/systemd").exists() {
        eprintln!("left out: systemd is missing");
        return None;
    }
    let namespaces = Command::new("unshare").args(["--mount", "--pid", "--cgroup", "--fork", "true"]).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        eprintln!("left out: this needs namespaces of its own (root)");
        return None;
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("systemd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = Folder(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
    let path = &folder.0;
    prepare(path);
    write(path, "units/gwm-test.target", &format!("[Unit]\nDefaultDependencies=no\nWants={wants}\n"));
    let binary = command(&[]);
    let binary = Path::new(binary.get_program()).parent().expect("a folder");
    let mut container = Command::new("unshare")
        .args(["--mount", "sh", "-c", OUTER, "sh"])
        .args([path, binary])
        .arg(CONTAINER)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare is there");
    let result = path.join("result");
    until("the driver has a result", || result.exists() || container.try_wait().is_ok_and(|status| status.is_some()));
    // Its children end with `unshare`, which is the shell's child.
    let id = container.id();
    let text = fs::read_to_string(&result);
    end(id);
    let output = container.wait_with_output().expect("it ends");
    let text = text.unwrap_or_else(|_| panic!("no result: {}", String::from_utf8_lossy(&output.stderr)));
    Some(serde_json::from_str(&text).expect("JSON"))
}

/// Kills the child of the shell: `unshare`, with the whole container.
fn end(shell: u32) {
    let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        if let Some(child) = rustix::process::Pid::from_raw(child) {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
    }
}
