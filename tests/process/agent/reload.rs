//! SIGHUP: `gwm agent` reads its files again.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
};

use gwm::sasp::{LbFlags, ReturnCode};
use rustix::process::Signal;

use super::{Agent, EMPTY, RunDirectory, listed, serve, service, until_listed};
use crate::{
    authority::Authority,
    connect::real::free_address,
    harness::{Daemon, PATIENCE, Peer, TempFile, until},
    site::Site,
};

/// A connection of `LB1`, which trusts its members.
fn lb(daemon: &Daemon) -> Peer {
    let mut lb = daemon.connect();
    assert_eq!(lb.set_lb("LB1", LbFlags::TRUST), ReturnCode::SUCCESSFUL);
    lb
}

fn table(group: &str, member: SocketAddr, more: &str) -> String {
    format!("[[service]]\nlb = 'LB1'\ngroup = '{group}'\nmember = '{member}'\n{more}\n")
}

#[test]
fn services_come_and_change_and_leave_well() {
    let daemon = Daemon::start(&[]);
    let mut lb = lb(&daemon);
    let [web, api, dns] = [(); 3].map(|()| service());
    let file = TempFile::new("agent.toml", table("web", web, "") + &table("api", api, ""));
    let directory = RunDirectory::new();
    let gwm = daemon.address().to_string();
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--config", file.path(), "--drain-time", "1h"]);
    let both = format!("LB1/web [{web} 00/01/100] LB1/api [{api} 00/01/100]");
    until("both are registered", || directory.tell(&["status"]).is_ok_and(|text| text.matches("1 of 1").count() == 2));
    let shown = listed(&mut lb);
    assert!(shown == both || shown == format!("LB1/api [{api} 00/01/100] LB1/web [{web} 00/01/100]"), "{shown}");
    directory.tell(&["quiesce", "web", "--reason", "disk"]).unwrap();

    // A mistake changes nothing.
    file.write("[[service]]\ngroup = 'web'\nmembers = 80\n");
    agent.signal(Signal::HUP);
    agent.wait_for_log(&["SIGHUP: the old settings stay in force: ", "agent.toml:3: unknown field `members`"]);
    assert_eq!(directory.tell(&["status"]).unwrap().matches("1 of 1").count(), 2);

    // One is new; one has a longer interval, and goes on as it was; one leaves when its connections are gone.
    let client = TcpStream::connect(api).unwrap();
    let registrations = || agent.log().lines().filter(|line| line.contains(" registered")).count();
    let before = registrations();
    file.write(table("web", web, "check_interval = '200ms'") + &table("dns", dns, ""));
    agent.signal(Signal::HUP);
    agent.wait_for_log(&["SIGHUP: the files are read again", "services=2 new=2 leave=1"]);
    until("the connection is waited for", || {
        directory.tell(&["status"]).is_ok_and(|text| text.contains("api: drain, 1 connection"))
    });
    until("the new one is registered", || listed(&mut lb).contains(&format!("LB1/dns [{dns} 00/01/100]")));
    let shown = listed(&mut lb);
    assert!(shown.contains(&format!("{web} 00/03/0")) && shown.contains(&format!("{api} 00/03/0")), "{shown}");
    assert_eq!(registrations(), before + 1, "only the new one");
    let status = directory.tell(&["status"]).unwrap();
    assert!(status.starts_with("web: maint (disk), "), "{status}");
    drop(client);
    until("it is deregistered", || listed(&mut lb).contains("LB1/api []"));
    until("it is forgotten", || directory.tell(&["status"]).is_ok_and(|text| !text.contains("api: ")));
    assert!(agent.has_logged(&["deregistered", "group=api"]) && !agent.has_logged(&["deregistered", "group=web"]));

    // Another endpoint: the new one is registered when it answers, the old one leaves.
    let moved = free_address();
    file.write(table("web", web, "") + &table("dns", moved, ""));
    agent.signal(Signal::HUP);
    until("the old one has left", || listed(&mut lb).contains("LB1/dns []"));
    serve(TcpListener::bind(moved).unwrap());
    until("the new one is registered", || listed(&mut lb).contains(&format!("LB1/dns [{moved} 00/01/100]")));
    assert!(agent.stop().success());
    assert!(listed(&mut lb).matches(":").count() == 0, "none is left");
    daemon.stop();
}

#[test]
fn those_who_ask_are_answered_about_the_new_services() {
    let [gwm, first, second, http] = [(); 4].map(|()| free_address());
    let (web, api) = (service(), service());
    let listen = |address: SocketAddr| format!("agent_listen = '{address}'\nagent_weight = 'none'\n");
    let file = TempFile::new("agent.toml", table("web", web, &listen(first)));
    let (gwm, http) = (gwm.to_string(), http.to_string());
    let directory = RunDirectory::new();
    let agent = Agent::start(&directory, &["--gwm", &gwm, "--config", file.path(), "--http-listen", &http]);
    let line = |address: SocketAddr| {
        let mut line = String::new();
        let stream = TcpStream::connect(address).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read_to_string(&mut line)
        });
        stream.is_ok().then_some(line)
    };
    until("it is up", || line(first).is_some_and(|line| line == "ready up\n"));
    // The first address is another service's from now on.
    file.write(table("api", api, &listen(first)) + &table("web", web, &listen(second)));
    agent.signal(Signal::HUP);
    until("both are up", || {
        [first, second].iter().all(|address| line(*address).is_some_and(|line| line == "ready up\n"))
    });
    directory.tell(&["quiesce", "web", "--reason", "disk"]).unwrap();
    until("web is under maintenance", || line(second).is_some_and(|line| line == "maint #disk\n"));
    assert_eq!(line(first).as_deref(), Some("ready up\n"));
    // An address that someone else has is a mistake; nothing changes.
    file.write(table("web", web, &listen(web)));
    agent.signal(Signal::HUP);
    agent.wait_for_log(&["SIGHUP: the old settings stay in force: --agent-listen", "in use"]);
    assert_eq!(line(second).as_deref(), Some("maint #disk\n"));
    file.write(table("web", web, ""));
    agent.signal(Signal::HUP);
    until("nobody listens", || line(first).is_none() && line(second).is_none());
    assert!(agent.stop().success());
}

#[test]
fn files_of_tls_are_read_again() {
    let site = Site::new();
    let flags: Vec<_> = site.flags.iter().map(String::as_str).chain(["--listen", "127.0.0.1:0"]).collect();
    let daemon = Daemon::start(&flags);
    let mut lb = lb(&daemon);
    let place = service();
    let ca = site.folder.write("trusted.pem", Authority::new("Other").pem());
    let (chain, key) = site.folder.identity("agent", &site.authority.client("LB1"));
    let (gwm, member) = (daemon.addresses()[1].to_string(), place.to_string());
    let directory = RunDirectory::new();
    let tls = ["--tls", "--tls-ca", &ca, "--tls-cert", &chain, "--tls-key", &key];
    let agent = Agent::start(&directory, &[&["--gwm", &gwm, "--member", &member][..], &tls].concat());
    agent.wait_for_log(&["certificate"]);
    site.folder.write("trusted.pem", "nonsense");
    agent.signal(Signal::HUP);
    agent.wait_for_log(&["SIGHUP: the old settings stay in force: --tls-ca", "trusted.pem"]);
    site.folder.write("trusted.pem", site.authority.pem());
    agent.signal(Signal::HUP);
    until_listed(&mut lb, &format!("LB1/web [{member} 00/01/100]"));
    assert!(agent.stop().success());
    assert_eq!(listed(&mut lb), EMPTY);
    daemon.stop();
}
