//! An etcd that has lost something, and one that takes no changes.

use std::{thread, time::Duration};

use gwm::sasp::LbFlags;
use rustix::process::Signal;
use serde_json::Value;

use super::store::{A, B, CHEAP, OK, ROOT, Store, members};
use crate::{
    admin::read,
    harness::{Daemon, LB, Peer, TempFile, until},
};

fn fleet(daemon: &Daemon) -> Value {
    read(daemon, "/api/v1/fleet")["fleet"].take()
}

fn revision(daemon: &Daemon) -> i64 {
    fleet(daemon)["revision"].as_i64().expect("a number")
}

/// Changes something, and back, until etcd has this revision.
fn change_until(revision_then: i64, daemon: &Daemon, lb: &mut Peer) {
    until("etcd has as many changes", || {
        assert_eq!(lb.register(LB, "LB1", "busy", &[A]), OK);
        assert_eq!(lb.deregister(LB, "LB1", "busy", &[A]), OK);
        revision(daemon) > revision_then
    });
}

#[test]
fn a_node_that_was_frozen_while_etcd_was_made_anew_shows_what_the_others_show() {
    let Some(mut store) = Store::start() else { return };
    let (a, c) = (store.node("a", &[]), store.node("c", &[]));
    let mut lb = a.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    assert_eq!(lb.register(LB, "LB1", "web", &[A]), OK);
    until("c shows it", || members(&c).len() == 1);
    change_until(revision(&a) + 30, &a, &mut lb);
    c.signal(Signal::STOP);
    let known = revision(&a);
    store.wipe();
    until("etcd is back", || fleet(&a)["trouble"].is_null() && revision(&a) < known);
    assert_eq!(lb.register(LB, "LB1", "web", &[B]), OK);
    change_until(known + 5, &a, &mut lb);
    c.signal(Signal::CONT);
    until("c shows it", || members(&c).len() == 2);
    assert_eq!(members(&c), members(&a));
}

#[test]
fn an_etcd_that_takes_no_changes_is_trouble_until_it_takes_them() {
    let Some(store) = Store::start_with("http", &CHEAP) else { return };
    store.ask_for_password();
    let token = store.ask("/v3/auth/authenticate", "", ROOT).json();
    let token = format!("Authorization: {}\r\n", token["token"].as_str().expect("a token"));
    let ask = |path: &str, body: &str| {
        let answer = store.ask(path, &token, body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    };
    // All keys from /gwm/ on: L2d3bS8= and L2d3bTA= are /gwm/ and /gwm0.
    let grant = |kind: &str| {
        let permission = format!(r#"{{"permType":"{kind}","key":"L2d3bS8=","range_end":"L2d3bTA="}}"#);
        ask("/v3/auth/role/grant", &format!(r#"{{"name":"gwm","perm":{permission}}}"#));
    };
    ask("/v3/auth/user/add", r#"{"name":"gwm","password":"secret"}"#);
    ask("/v3/auth/role/add", r#"{"name":"gwm"}"#);
    ask("/v3/auth/user/grant", r#"{"user":"gwm","role":"gwm"}"#);
    grant("READ");
    let credentials = TempFile::new("credentials", "gwm:secret\n");
    let a = store.node("a", &["--fleet-credentials", credentials.path()]);
    let trouble = || fleet(&a)["trouble"].as_str().unwrap_or_default().to_owned();
    until("etcd takes nothing", || trouble().contains("takes no changes: "));
    let mut lb = a.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), OK);
    for _ in 0..40 {
        assert!(trouble().contains("takes no changes: "), "no moment is without");
        thread::sleep(Duration::from_millis(25));
    }
    grant("READWRITE");
    until("etcd takes changes", || trouble().is_empty());
    assert_eq!(lb.register(LB, "LB1", "web", &[A]), OK);
    let log = a.log();
    assert_eq!(log.matches("takes no changes: ").count(), 1, "{log}");
}
