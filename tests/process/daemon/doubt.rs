//! Blindness and doubt from end to end: real listeners that go and come back. All are on loopback addresses.

use std::net::TcpListener;

use crate::{
    daemon::monitoring::{DOWN, Server, UP, daemon, group, lb},
    harness::{Peer, until},
};

/// Servers at these addresses, and their names.
fn farm(network: &str, count: usize) -> (Vec<Server>, Vec<String>) {
    let servers: Vec<Server> = (1..=count).map(|host| Server::silent(&format!("{network}.{host}:0"))).collect();
    let names = servers.iter().map(Server::name).collect();
    (servers, names)
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// The weights of a group that says the same of all members.
fn all(names: &[String], says: &str) -> String {
    group(&names.iter().map(|name| (name.as_str(), says)).collect::<Vec<_>>())
}

/// The same weights of the group of another LB.
fn of(uid: &str, weights: &str) -> String {
    weights.replace("LB1/", &format!("{uid}/"))
}

/// Waits for a push that shows all members with contact and a weight, which failing checks may have lowered, and none as
/// confident.
fn until_unsure(lb: &mut Peer, members: usize) {
    until("all have contact, and nobody is confident", || {
        let push = lb.push();
        push.matches(" 00/05/").count() == members && !push.contains("/0,") && !push.contains("/0]")
    });
}

/// The case of a batch farm, 10 of 18 watched members, that is shut down on purpose.
#[test]
fn a_farm_that_is_shut_down_is_down_and_leaves_the_others_alone() {
    let daemon = daemon(&["--probe", "tcp", "--panic-time", "500ms"]);
    let ((batch, batch_names), (mut web, web_names)) = (farm("127.1.0", 10), farm("127.2.0", 8));
    let mut batch_lb = lb(&daemon, "BATCH", &refs(&batch_names));
    let mut web_lb = lb(&daemon, "WEB", &refs(&web_names));
    batch_lb.push_until(&of("BATCH", &all(&batch_names, UP)));
    web_lb.push_until(&of("WEB", &all(&web_names, UP)));
    drop(batch);
    until_unsure(&mut batch_lb, 10);
    daemon.wait_for_log(&["WARN", "group in doubt:", "BATCH"]);
    batch_lb.push_until(&of("BATCH", &all(&batch_names, DOWN)));
    daemon.wait_for_log(&["WARN", "group in doubt no more", "--panic-time"]);
    assert_eq!(web_lb.get_weights("WEB", &["G"]), of("WEB", &all(&web_names, UP)));
    // A web server that dies later is dead.
    drop(web.remove(0));
    let says: Vec<_> = web_names.iter().enumerate().map(|(at, name)| (name.as_str(), [DOWN, UP][at.min(1)])).collect();
    web_lb.push_until(&of("WEB", &group(&says)));
    assert!(!daemon.log().contains("blind"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_gwm_that_hears_nothing_drains_nobody() {
    let daemon = daemon(&["--probe", "tcp", "--panic-time", "100ms"]);
    let (servers, names) = farm("127.0.0", 4);
    let mut lb = lb(&daemon, "LB1", &refs(&names));
    lb.push_until(&all(&names, UP));
    drop(servers);
    until_unsure(&mut lb, 4);
    daemon.wait_for_log(&["WARN", "blind: nothing at this machine's own addresses answers"]);
    // Two are back: the others get a recovery, and are down then.
    let back: Vec<Server> = names[..2].iter().map(|name| Server::silent(name)).collect();
    let says: Vec<_> = names.iter().enumerate().map(|(at, name)| (name.as_str(), [UP, DOWN][at / 2])).collect();
    lb.push_until(&group(&says));
    daemon.wait_for_log(&["WARN", "blind no more"]);
    let times = |text| daemon.log().lines().filter(|line| line.contains(text)).count();
    assert_eq!((times("blind:"), times("blind no more")), (1, 1));
    drop(back);
    daemon.stop();
}

/// With a witness that answers, even the only farm is down when it is gone.
#[test]
fn a_witness_proves_that_a_farm_is_gone() {
    let witness = TcpListener::bind("127.9.0.1:0").expect("a loopback address can be bound");
    let address = witness.local_addr().expect("it is bound").to_string();
    let daemon = daemon(&["--probe", "tcp", "--panic-time", "300ms", "--witness", &address]);
    let (servers, names) = farm("127.0.0", 2);
    let mut lb = lb(&daemon, "LB1", &refs(&names));
    lb.push_until(&all(&names, UP));
    drop(servers);
    until_unsure(&mut lb, 2);
    lb.push_until(&all(&names, DOWN));
    assert!(!daemon.log().contains("blind"), "{}", daemon.log());
    // The witness and the farm come and go: nothing answers any more.
    let servers: Vec<Server> = names.iter().map(|name| Server::silent(name)).collect();
    lb.push_until(&all(&names, UP));
    drop(witness);
    drop(servers);
    until_unsure(&mut lb, 2);
    daemon.wait_for_log(&["WARN", "blind: nothing at this machine's own addresses answers"]);
    daemon.stop();
}

/// The only server of a farm is judged down when it dies with all its ports.
#[test]
fn one_server_that_dies_is_dead() {
    let servers = [Server::silent("127.0.0.1:0"), Server::silent("127.0.0.1:0")];
    let names = [servers[0].name(), servers[1].name()];
    let daemon = daemon(&["--probe", "tcp"]);
    let mut lb = lb(&daemon, "LB1", &[&names[0], &names[1]]);
    lb.push_until(&all(&names, UP));
    drop(servers);
    lb.push_until(&all(&names, DOWN));
    daemon.stop();
}
