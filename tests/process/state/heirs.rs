//! Processes that are to take over and can not: the machine does not give them what they need, or the program is broken. The
//! running process goes on.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    process::{Command, Output, Stdio},
};

use gwm::sasp::ReturnCode;
use rustix::process::Signal;

use super::{
    A, B, Directory,
    takeover::{Orphan, new_id, weights},
};
use crate::harness::{Daemon, GWM, LB, Peer, command, finish, until};

/// Runs a process that is to take over; the script lowers its limits and takes rights away from it.
fn take_over_under(script: &str, directory: &Directory, flags: &[&str]) -> Output {
    let takeover = ["serve", "--takeover", "--probe", "off", "--state", directory.path()];
    let gwm = command(&[&takeover[..], flags].concat());
    let mut shell = Command::new("sh");
    shell.args(["-ec", script, "sh"]).arg(gwm.get_program()).args(gwm.get_args());
    for (name, _) in gwm.get_envs() {
        shell.env_remove(name);
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(shell.spawn().expect("there is a shell"))
}

/// The connection goes on, and a change is kept.
fn serves(lb: &mut Peer, number: usize) {
    let member = format!("10.0.1.{number}:80");
    assert_eq!(lb.register(LB, "LB1", "web", &[&member]), ReturnCode::SUCCESSFUL, "after case {number}");
}

#[test]
fn a_process_that_the_machine_does_not_let_serve_takes_nothing_over() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: this needs rights to give away (root)");
        return;
    }
    let directory = Directory::new();
    let mut old = directory.start(&[]);
    let listen = old.address().to_string();
    let mut lb = old.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    // The file is another user's, whose files only the running process may read.
    chown(directory.file(), Some(65534), None).expect("root may");
    let without = |rights: &str| format!("exec setpriv --bounding-set={rights} -- \"$@\"");
    for (number, (script, shards, why, heard)) in [
        (
            format!("ulimit -l 64; {}", without("-sys_resource,-ipc_lock")),
            "1",
            "of locked memory and the limit is 64",
            0,
        ),
        (format!("ulimit -l 512; {}", without("-sys_resource,-ipc_lock")), "64", "locked memory", 1),
        (without("-dac_override,-dac_read_search"), "1", "Permission denied", 2),
    ]
    .into_iter()
    .enumerate()
    {
        let output = take_over_under(&script, &directory, &["--listen", &listen, "--shards", shards]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{script}: {text}");
        assert!(text.contains(why), "{script}: {text}");
        until("the failure is told", || {
            old.log().matches("a takeover has failed, and this process serves on").count() == heard
        });
        serves(&mut lb, number);
    }
    chown(directory.file(), Some(0), None).expect("root may");
    let before = weights(old.address(), "LB1");
    drop(lb);
    let new = directory.start(&["--takeover", "--listen", &listen]);
    assert!(old.wait().success());
    assert_eq!(weights(new.address(), "LB1"), before);
}

#[test]
fn a_broken_program_takes_nothing_over() {
    let directory = Directory::new();
    let program = directory.0.with_extension("gwm");
    let install = || fs::hard_link(GWM, &program).expect("a new name");
    install();
    let mut old = Daemon::start_from(&program, &["--state", directory.path()]);
    let mut lb = old.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &[A, B]), ReturnCode::SUCCESSFUL);
    // An upgrade that went wrong.
    fs::remove_file(&program).expect("it is there");
    fs::write(&program, "#!/bin/sh\nexit 3\n").expect("a new file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the own file");
    old.signal(Signal::USR2);
    old.wait_for_log(&["WARN", "which was to take over, has ended"]);
    serves(&mut lb, 1);
    fs::remove_file(&program).expect("it is there");
    old.signal(Signal::USR2);
    old.wait_for_log(&["ERROR", "no process to take over can be started, and this one serves on"]);
    serves(&mut lb, 2);
    let before = weights(old.address(), "LB1");
    drop(lb);
    // The next try is another one.
    install();
    old.signal(Signal::USR2);
    assert!(old.wait().success());
    let new = Orphan::new(new_id(&old.log(), 1));
    assert_eq!(weights(old.address(), "LB1"), before);
    drop(new);
    fs::remove_file(&program).expect("it is there");
}
