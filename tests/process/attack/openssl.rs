//! openssl's client, another implementation of TLS.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use gwm::sasp::LbFlags;

use crate::{
    harness::{Daemon, LB},
    site::Site,
    wire,
};

/// `openssl s_client` to the daemon, with flags for the authority and the client's certificate, and these flags.
fn s_client(site: &Site, daemon: &Daemon, flags: &[&str]) -> Child {
    let (chain, key) = site.folder.identity("openssl", &site.authority.client("LB1"));
    Command::new("openssl")
        .args(["s_client", "-connect", &daemon.address().to_string()])
        .args(["-CAfile", &site.folder.path("ca.pem"), "-verify_hostname", "localhost", "-verify_return_error"])
        .args(["-cert", &chain, "-key", &key])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is there (tests/run installs it)")
}

#[test]
fn openssl_shakes_hands_and_talks() {
    let site = Site::new();
    let daemon = site.start(&["--lb-identity", "certificate", "--push-window", "1ms"]);
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let mut openssl = s_client(&site, &daemon, &[flag, "-brief"]);
        let mut to = openssl.stdin.take().expect("it is piped");
        let mut from = openssl.stdout.take().expect("it is piped");
        let group = if version == "TLSv1.2" { "OLD" } else { "NEW" };
        let mut ask = |request: &[u8]| {
            to.write_all(request).and_then(|()| to.flush()).expect("openssl takes bytes");
            receive(&mut from)
        };
        assert_eq!(ask(&wire::lb_state(1, "LB1", 0x7F, LbFlags::NONE)), wire::code_reply(1, 0x1055, 0x00));
        let registration = wire::registration(2, LB, &[("LB1", group, &["10.0.0.1:80 one"])]);
        assert_eq!(ask(&registration), wire::code_reply(2, 0x1015, 0x00));
        let weights = ask(&wire::get_weights(3, &[("LB1", group)]));
        assert_eq!(wire::show(&weights), format!("LB1/{group} [10.0.0.1:80 one 00/05/100]"));
        assert_eq!(ask(&wire::lb_state(4, "LB2", 0x7F, LbFlags::NONE)), wire::code_reply(4, 0x1055, 0x11));
        drop(to); // the end of its input ends the client
        let mut said = String::new();
        openssl.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
        assert!(openssl.wait().expect("it ends").success(), "{said}");
        assert!(said.contains(version) && said.contains("Verification: OK"), "{said}");
    }
    daemon.stop();
}

/// One whole message.
fn receive(from: &mut impl Read) -> Vec<u8> {
    let mut message = vec![0; 13];
    from.read_exact(&mut message).expect("a message");
    let length = u32::from_be_bytes(message[5..9].try_into().expect("four bytes")) as usize;
    message.resize(length, 0);
    from.read_exact(&mut message[13..]).expect("the rest of a message");
    message
}

/// A client that wants to renegotiate a TLS 1.2 session (`R`) is refused.
#[test]
fn renegotiation_is_declined() {
    let site = Site::new();
    let daemon = site.start(&[]);
    let mut openssl = s_client(&site, &daemon, &["-tls1_2"]);
    let mut lines = BufReader::new(openssl.stdout.take().expect("it is piped")).lines().map(|line| line.expect("text"));
    let mut to = openssl.stdin.take().expect("it is piped");
    lines.find(|line| line.contains("Verify return code: 0 (ok)")).expect("a handshake");
    to.write_all(b"R\n").expect("openssl takes bytes");
    let mut said = String::new();
    openssl.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
    assert!(said.contains("no renegotiation"), "{said}");
    assert!(!openssl.wait().expect("it ends").success());
    daemon.stop();
}

/// Old versions that openssl still speaks get an alert.
#[test]
fn openssl_finds_no_old_version() {
    let site = Site::new();
    let daemon = site.start(&[]);
    for flag in ["-tls1", "-tls1_1"] {
        let openssl = s_client(&site, &daemon, &[flag, "-cipher", "ALL:@SECLEVEL=0"]);
        let output = openssl.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("SSL alert number"), "{said}");
    }
    daemon.stop();
}
