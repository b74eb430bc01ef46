//! A real file system that is full, or that has become read-only: the daemon serves on and says so, acknowledges nothing that
//! is not on the disk, and goes on by itself when the file system takes something again.
//!
//! The file systems are mounted in a namespace of their own. The daemon reaches them by the `/proc` entry of the process
//! that holds the namespace.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::PathBuf,
    process::Command,
};

use gwm::sasp::{LbFlags, ReturnCode};

use super::{A, B, Directory, kill};
use crate::{
    admin::get,
    connect::real::{Running, installed},
    harness::{Daemon, LB, MEMBER, Peer, TempFile, run, until},
    wire,
};

/// Where the file system is, in its namespace.
const PLACE: &str = "/mnt";

/// Members of a large group.
const MEMBERS: usize = 200;

const FLAGS: [&str; 4] = ["--admin-listen", "127.0.0.1:0", "--push-window", "1ms"];

/// A namespace of mounts, until this is dropped; it needs root.
struct Mounts(Running);

impl Mounts {
    /// One without a file system of its own yet; `None` where that is not possible.
    fn new() -> Option<Mounts> {
        let may = Command::new("unshare").args(["--mount", "true"]).status();
        if !may.is_ok_and(|status| status.success()) {
            eprintln!("left out: this needs a namespace of mounts (root)");
            return None;
        }
        let holder = Running::start(Command::new("unshare").args(["--mount", "sleep", "infinity"]));
        let name = format!("/proc/{}/comm", holder.id());
        until("the namespace exists", || fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep"));
        Some(Mounts(holder))
    }

    /// Runs a script in the namespace.
    fn run(&self, script: &str) {
        let id = self.0.id().to_string();
        let command = ["--mount", "--target", &id, "sh", "-ec", script];
        let output = Command::new("nsenter").args(command).output().expect("nsenter is there");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The file system, for processes outside of the namespace.
    fn path(&self) -> PathBuf {
        format!("/proc/{}/root{PLACE}", self.0.id()).into()
    }

    fn directory(&self) -> Directory {
        Directory(self.path().join("state"))
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("there is room for a file");
        loop {
            match ballast.write_all(&[1; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }
}

/// Registers a large group of LB2. The return code; `None` if the connection ends instead.
fn register(peer: &mut Peer, group: usize) -> Option<ReturnCode> {
    let members: Vec<String> = (0..MEMBERS).map(|member| format!("10.1.{member}.1:80 {}", "x".repeat(200))).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let id = peer.next_id();
    peer.send(&wire::registration(id, LB, &[("LB2", &format!("G{group}"), &members)]));
    peer.try_receive().expect("a reply, or a graceful end").map(|reply| wire::code(&reply))
}

/// Registers large groups until one is not acknowledged; gives its number.
fn register_until_it_fails(daemon: &Daemon, from: usize) -> usize {
    let mut lb = daemon.connect();
    for group in from..from + 1000 {
        match register(&mut lb, group) {
            Some(code) => assert_eq!(code, ReturnCode::SUCCESSFUL, "group {group}"),
            None => return group,
        }
    }
    panic!("the disk takes everything");
}

/// The groups below this number are there, whole.
fn has_groups(daemon: &Daemon, count: usize) {
    let mut lb = daemon.connect();
    for group in 0..count {
        let shown = lb.get_weights("LB2", &[&format!("G{group}")]);
        assert_eq!(shown.matches(":80 ").count(), MEMBERS, "group {group} of {count}: {shown}");
    }
}

/// The disk does not take what changes; the daemon serves on, and says so.
fn serves_on(daemon: &Daemon, watcher: &mut Peer, why: &str, state: u8) {
    daemon.wait_for_log(&["ERROR", "the state on disk", why, "changes wait in memory, and are tried again"]);
    until("the daemon is not ready", || get(daemon, "/readyz").status == 503);
    let ready = get(daemon, "/readyz");
    assert!(ready.body.contains("the disk does not take changes"), "{ready:?}");
    // Who asks for weights does not wait, and a change is pushed though it is not on the disk.
    let shown = |state: u8| format!("LB1/web [{A} {state:02X}/07/0, {B} 00/05/100]");
    let mut member = daemon.connect();
    let id = member.next_id();
    member.send(&wire::member_state(id, MEMBER, &[("LB1", "web", &[(A, state, true)])]));
    watcher.push_until(&shown(state));
    assert_eq!(watcher.get_weights("LB1", &["web"]), shown(state));
    // No return code says that the disk is full: the connection ends instead.
    member.expect_end();
}

/// The disk takes changes again: everything is written, and requests are answered.
fn recovers(daemon: &Daemon, group: usize) {
    daemon.wait_for_log(&["INFO", "the state on disk", "is whole again"]);
    until("the daemon is ready", || get(daemon, "/readyz").status == 200);
    // The registration that nobody has acknowledged is done by now.
    let code = register(&mut daemon.connect(), group);
    assert_eq!(code, Some(ReturnCode::ALREADY_REGISTERED));
}

/// Load balancers that nobody has acknowledged anything of but that.
fn begin(daemon: &Daemon) -> Peer {
    let mut watcher = daemon.connect();
    assert_eq!(watcher.set_lb("LB1", LbFlags::TRUST | LbFlags::PUSH), ReturnCode::SUCCESSFUL);
    assert_eq!(watcher.register(LB, "LB1", "web", &[A, B]), ReturnCode::SUCCESSFUL);
    assert_eq!(get(daemon, "/readyz").status, 200);
    watcher
}

fn fills(mounts: &Mounts) {
    let directory = mounts.directory();
    let daemon = directory.start(&FLAGS);
    let mut watcher = begin(&daemon);
    mounts.fill();
    // The file has some free pages.
    let first = register_until_it_fails(&daemon, 0);
    serves_on(&daemon, &mut watcher, "No space left on device", 0x55);
    mounts.make_room();
    recovers(&daemon, first);

    // A crash while the disk is full, and a start on the full disk.
    mounts.fill();
    let second = register_until_it_fails(&daemon, first + 1);
    kill(daemon);
    let daemon = directory.start(&FLAGS);
    has_groups(&daemon, second);
    let mut watcher = daemon.connect();
    let kept = format!("LB1/web [{A} 55/07/0, {B} 00/05/100]");
    assert_eq!(watcher.get_weights("LB1", &["web"]), kept);
    let third = register_until_it_fails(&daemon, second + 1);
    serves_on(&daemon, &mut watcher, "No space left on device", 0x66);
    mounts.make_room();
    recovers(&daemon, third);
    kill(daemon);
    let daemon = directory.start(&FLAGS);
    has_groups(&daemon, second);
    assert_eq!(daemon.connect().get_weights("LB1", &["web"]), kept.replace("55/", "66/"));
    daemon.stop();
}

#[test]
fn a_full_tmpfs_keeps_nobody_from_serving() {
    let Some(mounts) = Mounts::new() else { return };
    mounts.run(&format!("mount -t tmpfs -o size=16m tmpfs {PLACE}"));
    fills(&mounts);
}

/// A file with an ext4 file system, which is mounted.
fn ext4(mounts: &Mounts) -> Option<TempFile> {
    if !installed("mkfs.ext4", "e2fsprogs") {
        return None;
    }
    let image = TempFile::new("ext4", "");
    let path = image.path();
    // No blocks are left for root alone.
    mounts.run(&format!(
        "truncate -s 24M {path}; mkfs.ext4 -q -m 0 -F {path}; mount -o loop,errors=remount-ro {path} {PLACE}"
    ));
    Some(image)
}

#[test]
fn a_full_ext4_keeps_nobody_from_serving() {
    let Some(mounts) = Mounts::new() else { return };
    let Some(_image) = ext4(&mounts) else { return };
    fills(&mounts);
}

/// As after an error of the disk: the kernel makes the file system read-only, and a person repairs and mounts it again.
#[test]
fn a_file_system_that_has_become_read_only_keeps_nobody_from_serving() {
    let Some(mounts) = Mounts::new() else { return };
    let Some(image) = ext4(&mounts) else { return };
    let directory = mounts.directory();
    let daemon = directory.start(&FLAGS);
    let mut watcher = begin(&daemon);
    assert_eq!(register(&mut daemon.connect(), 0), Some(ReturnCode::SUCCESSFUL));
    mounts.run(&format!("mount -o remount,abort {PLACE}"));
    assert_eq!(register_until_it_fails(&daemon, 1), 1);
    // What is under way then has an input/output error, what comes later a read-only file system.
    serves_on(&daemon, &mut watcher, "(os error ", 0x55);
    let again = TempFile::new("repaired", "");
    let [broken, repaired] = [&image, &again].map(TempFile::path);
    mounts.run(&format!(
        "umount -l {PLACE}; cp {broken} {repaired}; e2fsck -fy {repaired} || [ $? = 1 ]; mount -o loop {repaired} {PLACE}"
    ));
    recovers(&daemon, 1);
    kill(daemon);
    let daemon = directory.start(&FLAGS);
    has_groups(&daemon, 2);
    assert_eq!(daemon.connect().get_weights("LB1", &["web"]), format!("LB1/web [{A} 55/07/0, {B} 00/05/100]"));
    daemon.stop();

    // A start that can write nothing at all is refused.
    mounts.run(&format!("mount -o remount,ro {PLACE}"));
    let state = directory.path();
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--state", state]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("Read-only file system") && stderr.contains("let gwm read and write"), "{stderr}");
}

/// The disk refuses what the system has taken for it, as a broken one does. What the system has in memory is not what the
/// disk has then, and is lost with the power: here with the mount.
#[test]
fn what_a_broken_disk_has_refused_is_never_acknowledged() {
    let Some(mounts) = Mounts::new() else { return };
    if !installed("mkfs.ext4", "e2fsprogs") {
        return;
    }
    // The disk is a file on a file system that fills up. Only where the inner file system has its own tables there is always
    // room; it believes that it has room everywhere.
    let mount = format!("mount -o loop,errors=continue {PLACE}/image {PLACE}/disk");
    mounts.run(&format!(
        "mount -t tmpfs -o size=24m tmpfs {PLACE}; cd {PLACE}; mkdir disk; truncate -s 64M image; \
         mkfs.ext4 -q -m 0 -O ^has_journal -E lazy_itable_init=0 -F image; fallocate -l 8M image; {mount}"
    ));
    let directory = Directory(mounts.path().join("disk").join("state"));
    let daemon = directory.start(&FLAGS);
    let mut watcher = begin(&daemon);
    mounts.fill();
    let first = register_until_it_fails(&daemon, 0);
    serves_on(&daemon, &mut watcher, "error", 0x55);
    kill(daemon);
    mounts.run(&format!("umount {PLACE}/disk; {mount}"));
    let daemon = directory.start(&FLAGS);
    has_groups(&daemon, first);
    let second = register_until_it_fails(&daemon, first + 1);
    mounts.make_room();
    recovers(&daemon, second);
    kill(daemon);
    mounts.run(&format!("umount {PLACE}/disk; {mount}"));
    let daemon = directory.start(&FLAGS);
    has_groups(&daemon, first);
    assert_eq!(register(&mut daemon.connect(), second), Some(ReturnCode::ALREADY_REGISTERED));
    daemon.stop();
    mounts.run(&format!("umount {PLACE}/disk"));
}
