//! The file of fixed weights, at start and on SIGHUP.

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use crate::harness::{Daemon, LB, TempFile};

const OK: ReturnCode = ReturnCode::SUCCESSFUL;

fn member(address: &str, weight: u16) -> String {
    format!(
        "[[member]]\naddress = \"{address}\"\nprotocol = \"tcp\"\nport = 80\nweight = {weight}\nmonitor = \"none\"\n"
    )
}

#[test]
fn a_new_file_counts_after_sighup_and_an_invalid_one_does_not() {
    let file = TempFile::new("members.toml", member("10.0.0.1", 20) + &member("10.0.0.2", 40));
    let daemon = Daemon::start(&["--members", file.path(), "--push-window", "1ms"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]), OK);
    assert_eq!(lb.register(LB, "LB1", "H", &["10.0.0.2:80"]), OK);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), OK);
    assert_eq!(
        lb.push(),
        "LB1/G [10.0.0.1:80 00/0D/20, 10.0.0.2:80 00/0D/40, 10.0.0.3:80 00/05/100] LB1/H [10.0.0.2:80 00/0D/40]"
    );

    // One weight is new, one member is not listed any more, one is newly listed: an LB with push on gets the changes.
    file.write(member("10.0.0.1", 7) + &member("10.0.0.3", 0));
    daemon.signal(Signal::HUP);
    let second =
        "LB1/G [10.0.0.1:80 00/0D/7, 10.0.0.2:80 00/05/100, 10.0.0.3:80 00/0D/0] LB1/H [10.0.0.2:80 00/05/100]";
    assert_eq!(lb.push(), second);

    for (text, line) in [
        (member("10.0.0.1", 9) + "colour = 1\n", "7"),
        (member("10.0.0.1", 101), "5"),
        (member("10.0.0.1", 9) + &member("10.0.0.1", 9), "7"),
        (member("10.0.0.1", 9).replace("none", "ftp"), "6"),
    ] {
        let name = file.path();
        file.write(text);
        daemon.signal(Signal::HUP);
        daemon.wait_for_log(&[&format!("{name}:{line}:")]);
        assert_eq!(lb.get_weights("LB1", &[""]), second);
    }

    file.write(member("10.0.0.1", 8) + &member("10.0.0.3", 0));
    daemon.signal(Signal::HUP);
    assert_eq!(lb.push(), second.replace("/7,", "/8,").replace(" LB1/H [10.0.0.2:80 00/05/100]", ""));
    daemon.stop();
}

/// A missing file is treated like an invalid one.
#[test]
fn a_file_that_is_gone_leaves_the_weights_as_they_are() {
    let file = TempFile::new("gone.toml", member("10.0.0.1", 20));
    let daemon = Daemon::start(&["--members", file.path()]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &["10.0.0.1:80"]), OK);
    let name = file.path().to_owned();
    drop(file);
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(&["members file", &name]);
    assert_eq!(lb.get_weights("LB1", &["G"]), "LB1/G [10.0.0.1:80 00/0D/20]");
    daemon.stop();
}

/// Without a members file, SIGHUP has nothing to read and does not end the daemon.
#[test]
fn sighup_without_a_file_is_harmless() {
    let daemon = Daemon::start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &["10.0.0.1:80"]), OK);
    daemon.signal(Signal::HUP);
    for _ in 0..20 {
        assert_eq!(lb.get_weights("LB1", &["G"]), "LB1/G [10.0.0.1:80 00/05/100]");
    }
    daemon.stop();
}

/// Weights of 0 to 65535 reach the wire; a member that is not listed has `--weight-max`.
#[test]
fn weights_use_the_range_that_the_flag_gives() {
    let file = TempFile::new("range.toml", member("10.0.0.1", 65535) + &member("10.0.0.2", 0));
    let daemon = Daemon::start(&["--members", file.path(), "--weight-max", "65535"]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "G", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]), OK);
    assert_eq!(
        lb.get_weights("LB1", &["G"]),
        "LB1/G [10.0.0.1:80 00/0D/65535, 10.0.0.2:80 00/0D/0, 10.0.0.3:80 00/05/65535]"
    );
}
