//! A disk that takes a write and does not end it: `fdatasync` of the daemon waits as long as a file exists, by a library that
//! the daemon is started with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use gwm::sasp::ReturnCode;

use super::{A, B, Directory, kill};
use crate::{
    harness::{Daemon, LB, MEMBER, Peer, TempFile, until},
    wire,
};

/// Stands in front of the C library.
const LIBRARY: &str = r#"
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void stall(void) {
    const char *file = getenv("STALL_FILE");
    while (file && access(file, F_OK) == 0) usleep(1000);
}

int fdatasync(int descriptor) { stall(); return syscall(SYS_fdatasync, descriptor); }
int fsync(int descriptor) { stall(); return syscall(SYS_fsync, descriptor); }
"#;

/// The library, built.
struct Library(PathBuf);

impl Library {
    fn build() -> Library {
        let source = TempFile::new("stall.c", LIBRARY);
        let library = Path::new(source.path()).with_extension("so");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source.path()).output();
        let built = built.expect("there is a C compiler, or Rust could not link");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Library(library)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Sends a registration, and does not wait.
fn send_registration(peer: &mut Peer, lb: &str, member: &str) {
    let id = peer.next_id();
    peer.send(&wire::registration(id, LB, &[(lb, "web", &[member])]));
}

#[test]
fn a_stalled_write_holds_replies_back_and_loses_nothing_that_was_acknowledged() {
    let library = Library::build();
    let directory = Directory::new();
    let stall = directory.0.with_extension("stall");
    let environment = [("LD_PRELOAD", library.0.as_os_str()), ("STALL_FILE", stall.as_os_str())];
    let daemon = Daemon::start_with(&["--state", directory.path()], &environment);
    let mut first = daemon.connect();
    assert_eq!(first.register(LB, "LB1", "web", &[A]), ReturnCode::SUCCESSFUL);
    let before = first.get_weights("LB1", &["web"]);

    fs::write(&stall, "").expect("a new file");
    let mut second = daemon.connect();
    send_registration(&mut second, "LB2", A);
    // Who asks for weights does not wait for the disk.
    assert_eq!(first.get_weights("LB1", &["web"]), before);
    // A refusal would say that the disk has what it refuses.
    let mut third = daemon.connect();
    let id = third.next_id();
    third.send(&wire::registration(id, MEMBER, &[("LB2", "web", &[A])]));
    daemon.wait_for_log(&[
        "WARN",
        "a write to the state on disk takes over",
        "replies to requests that change something wait",
    ]);
    // No return code says "perhaps": the connections end instead.
    second.expect_end();
    third.expect_end();
    assert_eq!(first.get_weights("LB1", &["web"]), before, "the daemon serves on");

    // The disk goes on, and so do requests.
    fs::remove_file(&stall).expect("the file is there");
    until("requests are answered again", || {
        let mut peer = daemon.connect();
        peer.register(LB, "LB3", "web", &[A]) == ReturnCode::SUCCESSFUL
            || peer.register(LB, "LB3", "web", &[B]) == ReturnCode::SUCCESSFUL
    });
    assert_eq!(first.register(LB, "LB1", "web", &[B]), ReturnCode::SUCCESSFUL);
    let acknowledged = first.get_weights("LB1", &["web"]);

    // A crash in the middle of a stalled write.
    fs::write(&stall, "").expect("a new file");
    let mut lost = daemon.connect();
    send_registration(&mut lost, "LB4", A);
    assert_eq!(first.get_weights("LB1", &["web"]), acknowledged);
    kill(daemon);
    fs::remove_file(&stall).expect("the file is there");
    let daemon = directory.start(&[]);
    assert_eq!(daemon.connect().get_weights("LB1", &["web"]), acknowledged);
    // What waited when its connection ended is there, too: the disk took it later.
    assert_eq!(daemon.connect().register(LB, "LB2", "web", &[A]), ReturnCode::ALREADY_REGISTERED);
}
