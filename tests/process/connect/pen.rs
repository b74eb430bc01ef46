//! `gwm connect pen`, with a real pen.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use gwm::{
    connect::pen::{Server, servers},
    sasp::component::TCP,
};
use socket2::{Domain, Socket, Type};

use super::{
    Connector, Gwm, Member,
    admin::{admin, get},
    real::{Running, free_address, installed},
    scenarios::{Real, Weights, outlives},
};
use crate::harness::{run, until};

/// Pen before some members; it can be restarted.
struct Pen {
    flags: Vec<String>,
    members: Vec<String>,
    listen: SocketAddr,
    control: SocketAddr,
    running: Option<Running>,
}

impl Pen {
    /// Pen with these flags; each member has a weight of pen's own.
    fn start(flags: &[&str], members: &[(SocketAddr, u16)]) -> Pen {
        let flags = flags.iter().map(|flag| flag.to_string()).collect();
        let members = members.iter().map(|(member, weight)| format!("{member}:0:0:{weight}")).collect();
        let mut pen = Pen { flags, members, listen: free_address(), control: free_address(), running: None };
        pen.restart();
        pen
    }

    fn restart(&mut self) {
        self.running = None;
        let mut command = Command::new("pen");
        let (listen, control) = (self.listen.to_string(), self.control.to_string());
        // `-u`: pen opens no control port as root without it.
        command.args(["-f", "-u", "root", "-C", &control]).args(&self.flags).arg(listen).args(&self.members);
        self.running = Some(Running::start(&mut command));
        until("pen listens", || TcpStream::connect(self.control).is_ok());
    }

    fn ask(&self, command: &str) -> String {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(self.control).expect("pen's control port");
        stream.write_all(format!("{command}\n").as_bytes()).expect("pen takes commands");
        stream.read_to_string(&mut answer).expect("pen answers");
        answer
    }

    fn servers(&self) -> Vec<Server> {
        servers(&self.ask("servers"), TCP).expect("the table of servers")
    }

    fn weights(&self) -> Vec<i64> {
        self.servers().iter().map(|server| server.weight).collect()
    }

    fn shows(&self, weights: &[i64]) {
        until(&format!("pen has the weights {weights:?}"), || self.weights() == weights);
    }
}

/// `gwm connect pen` with these flags besides.
fn connect(gwm: &Gwm, pen: &Pen, flags: &[&str]) -> Connector {
    let (gwm, control) = (gwm.address(), pen.control.to_string());
    Connector::start(&[&["--gwm", &gwm, "pen", "--control", &control, "--group", "web"][..], flags].concat())
}

/// One request on a connection from this address, with its whole answer; the connection is still open.
fn request(to: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(("Content-Length", value)) = line.split_once(": ") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body)?;
    Ok(stream)
}

#[test]
fn connections_follow_the_weights_and_a_restarted_pen_has_them_again() {
    if !installed("pen", "pen") {
        return;
    }
    let members: Vec<Member> = (0..3).map(|_| Member::start()).collect();
    let [a, b, c] = [members[0].address, members[1].address, members[2].address];
    let gwm = Gwm::start(&[(a, Some(30)), (b, Some(10)), (c, None)]);
    let mut pen = Pen::start(&["-W", "-r"], &[(a, 7), (b, 7), (c, 7)]);
    let connector = connect(&gwm, &pen, &["--admin-listen", "127.0.0.1:0"]);
    pen.shows(&[256, 85, 0]);
    // The connector shows what pen tells of its members.
    let (at, held) = (admin(&connector), request(pen.listen, Ipv4Addr::LOCALHOST).unwrap());
    until("pen's numbers are shown", || {
        let shown = get(&at, "/api/v1/pools").json()["pools"][0]["members"].clone();
        let of = |field: &str| [0, 1, 2].map(|member| shown[member][field].as_i64());
        let sum = |field: &str| of(field).iter().flatten().sum::<i64>();
        // The request has 29 bytes, and the answer has more.
        let bytes = sum("bytes_in") == 29 && sum("bytes_out") > 29;
        of("weight") == [Some(256), Some(85), Some(0)] && sum("connections") == 1 && bytes
    });
    drop(held);
    until("the connection is closed", || pen.servers().iter().all(|server| server.connections == 0));
    let opened = |pen: &Pen| {
        let before: Vec<u64> = members.iter().map(Member::served).collect();
        let open: Vec<_> = (0..40).map(|_| request(pen.listen, Ipv4Addr::LOCALHOST).unwrap()).collect();
        let counts: Vec<u64> = members.iter().zip(before).map(|(member, before)| member.served() - before).collect();
        drop(open);
        until("the connections are closed", || pen.servers().iter().all(|server| server.connections == 0));
        counts
    };
    assert_eq!(opened(&pen), [30, 10, 0]);
    gwm.set(&[(a, Some(10)), (b, Some(30)), (c, Some(40))]);
    pen.shows(&[64, 192, 256]);
    assert_eq!(opened(&pen), [5, 15, 20]);

    // Pen's own weights come back with its restart, and an operator's change is a change, too.
    pen.restart();
    pen.shows(&[64, 192, 256]);
    connector.wait_for_log(&["INFO", "pen was restarted"]);
    pen.ask("server 1 weight 3");
    pen.shows(&[64, 192, 256]);

    // The GWM comes and goes.
    let address = gwm.address();
    let mut gwm = Some(gwm);
    let mut last = 64;
    for (weight, shown) in [(20, 128), (30, 192), (40, 256)] {
        let losses = connector.log().matches("retry_seconds").count();
        drop(gwm.take());
        until("the loss is told", || connector.log().matches("retry_seconds").count() > losses);
        assert_eq!(pen.weights(), [last, 192, 256]);
        gwm = Some(Gwm::start_at(&address, &[(a, Some(weight)), (b, Some(30)), (c, Some(40))]));
        pen.shows(&[shown, 192, 256]);
        last = shown;
    }
    gwm.as_ref().unwrap().set(&[(a, Some(10)), (b, Some(10)), (c, Some(10))]);
    pen.shows(&[256, 256, 256]);
    assert_eq!(pen.servers().len(), 3, "no server was added");
}

#[test]
fn requests_go_on_while_a_member_drains_and_leaves() {
    if !installed("pen", "pen") {
        return;
    }
    let members: Vec<Member> = (0..3).map(|_| Member::start()).collect();
    let [a, b, c] = [members[0].address, members[1].address, members[2].address];
    let gwm = Gwm::start(&[(a, Some(20)), (b, Some(20)), (c, Some(20))]);
    // The weights without a GWM are others, so these show that the GWM is confident of all. Pen remembers its clients here.
    let pen = Pen::start(&["-W"], &[(a, 1), (b, 1), (c, 1)]);
    let _connector = connect(&gwm, &pen, &[]);
    pen.shows(&[256, 256, 256]);
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for client in 10..18 {
            let (stop, answered, listen) = (&stop, &answered, pen.listen);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    request(listen, Ipv4Addr::new(127, 0, 0, client)).expect("no request fails");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = |count: u64| {
            let from = answered.load(Ordering::Relaxed);
            until("requests are answered", || answered.load(Ordering::Relaxed) > from + count);
        };
        more(100);
        let used = members.iter().position(|member| member.served() > 0).expect("a member serves");
        let addresses = [a, b, c];
        let weights = |of_used| {
            let each = addresses.iter().enumerate();
            each.map(|(at, member)| (*member, if at == used { of_used } else { Some(20) })).collect::<Vec<_>>()
        };
        gwm.set(&weights(None));
        until("the member drains", || pen.weights()[used] == 0 && pen.servers()[used].connections == 0);
        more(20);
        let served = members[used].served();
        more(200);
        assert_eq!(members[used].served(), served, "clients that pen remembers stay away, too");
        members[used].set_open(false);
        more(200);
        members[used].set_open(true);
        gwm.set(&weights(Some(20)));
        pen.shows(&[256, 256, 256]);
        more(50);
        stop.store(true, Ordering::Relaxed);
    });
    // The blacklist went with the drain: new clients go to all three.
    let before: Vec<u64> = members.iter().map(Member::served).collect();
    let open: Vec<_> = (50..80).map(|client| request(pen.listen, Ipv4Addr::new(127, 0, 0, client)).unwrap()).collect();
    assert_eq!(open.len(), 30);
    assert!(members.iter().zip(before).all(|(member, before)| member.served() > before));
}

/// One pen has one group; this one has a hundred servers, of which two are there.
impl Real for Pen {
    fn connect(&self, gwm: &str) -> Connector {
        Connector::start(&["--gwm", gwm, "pen", "--control", &self.control.to_string(), "--group", "web"])
    }

    fn has(&mut self, (first, second): Weights) -> bool {
        let scaled = |weight: u16| i64::from(weight) * 256 / i64::from(first.max(second));
        let weights = self.weights();
        weights.len() == 100 && [first, second].iter().zip(weights).all(|(of, is)| (is - scaled(*of)).abs() <= 1)
    }

    fn restart(&mut self) {
        Pen::restart(self);
    }
}

#[test]
fn a_hundred_servers_outlive_all() {
    if !installed("pen", "pen") {
        return;
    }
    let members = [(); 2].map(|()| Member::start().address);
    let others = (1..=98).map(|host| SocketAddr::from(([127, 77, 0, host], 9)));
    let own: Vec<_> = members.into_iter().chain(others).map(|address| (address, 5)).collect();
    outlives(&mut Pen::start(&["-W"], &own), members);
}

#[test]
fn the_own_weights_come_back_at_the_end_if_asked() {
    if !installed("pen", "pen") {
        return;
    }
    let (one, two) = (Member::start(), Member::start());
    let (a, b) = (one.address, two.address);
    let gwm = Gwm::start(&[(a, Some(40)), (b, None)]);
    let pen = Pen::start(&["-W", "-r"], &[(a, 1000), (b, 3)]);
    let dry = connect(&gwm, &pen, &["--dry-run"]);
    let steps = ["weight 1000 -> 256".into(), format!("would do: server 1 ({b}): weight 3 -> 0, blacklist")];
    until("the steps are printed", || steps.iter().all(|step: &String| dry.output().contains(step)));
    assert!(dry.stop().success());
    assert_eq!(pen.weights(), [1000, 3]);
    let connector = connect(&gwm, &pen, &["--on-exit", "restore"]);
    pen.shows(&[256, 0]);
    assert!(connector.stop().success());
    assert_eq!(pen.weights(), [1000, 3]);
    let open: Vec<_> = (0..400).map(|_| request(pen.listen, Ipv4Addr::LOCALHOST).unwrap()).collect();
    assert!(two.served() > 0, "the blacklist ended, too: {} and {}", one.served(), two.served());
    drop(open);
}

#[test]
fn a_pen_that_can_not_be_used_is_told_with_the_reason() {
    if !installed("pen", "pen") {
        return;
    }
    let check = |control: &str| {
        let output = run(&["connect", "--uid", "LB1", "--check", "pen", "--control", control, "--group", "web"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let refused = |control: &str, says: &str| {
        let (code, text) = check(control);
        assert!(code == Some(1) && text.contains(says), "{code:?} {text}");
    };
    let member = SocketAddr::from(([10, 0, 0, 1], 80));
    let pen = Pen::start(&[], &[(member, 1)]);
    let control = pen.control.to_string();
    refused(&control, "start pen with -W");
    pen.ask("weight");
    assert_eq!(check(&control), (Some(0), "pool web: group web\n  10.0.0.1:80\n".into()));
    pen.ask("prio");
    refused(&control, "no prio");
    pen.ask("no prio");
    pen.ask("acl 1 deny 127.0.0.1");
    pen.ask("control_acl 1");
    refused(&control, "pen");
    drop(pen);
    refused(&control, &format!("pen is not running, or not with -C {control}"));
    refused("/nonexistent/pen.ctl", "pen's control port /nonexistent/pen.ctl: No such file");
    refused("unix:/nonexistent/pen.ctl", "pen's control port /nonexistent/pen.ctl: No such file");
    // Others that listen there.
    for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "\u{1b}[2J\n", ""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let other = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut command = String::new();
            BufReader::new(&stream).read_line(&mut command).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let (code, text) = check(&address);
        assert!(code == Some(1) && text.contains("answers `pid` with") && !text.contains('\u{1b}'), "{text}");
        other.join().unwrap();
    }
    assert_eq!(check("nonsense").0, Some(2));
}
