//! The daemon's messages, decoded by tshark, which others wrote.
//!
//! The test records the bytes of a session at its own socket, and writes a capture file with made-up headers. So the
//! test needs no right to capture.

use std::process::Command;

use etherparse::PacketBuilder;
use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    harness::{Daemon, LB, MEMBER, Peer, TempFile},
    wire,
};

const OK: u8 = ReturnCode::SUCCESSFUL.0;
const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

/// tshark's port for SASP; the daemon listens on another port.
const PORT: u16 = gwm::sasp::PORT;

/// A capture file of TCP connections; its packets are IPv4 without a link layer.
struct Capture {
    bytes: Vec<u8>,
    client: u16,
    sent: [u32; 2],
}

impl Capture {
    fn new() -> Capture {
        let mut bytes = 0xA1B2_C3D4u32.to_le_bytes().to_vec();
        bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // version 2.4, UTC
        bytes.extend(65535u32.to_le_bytes());
        bytes.extend(101u32.to_le_bytes()); // LINKTYPE_RAW
        Capture { bytes, client: 50000, sent: [1, 1] }
    }

    /// The packets of another connection follow.
    fn next_connection(&mut self) {
        self.client += 1;
        self.sent = [1, 1];
    }

    fn packet(&mut self, from_server: bool, payload: &[u8]) {
        let (client, server) = ([127, 0, 0, 1], [127, 0, 0, 2]);
        let [ours, theirs] = if from_server { [1, 0] } else { [0, 1] };
        let (source, target, ports) =
            if from_server { (server, client, (PORT, self.client)) } else { (client, server, (self.client, PORT)) };
        let packet = PacketBuilder::ipv4(source, target, 64)
            .tcp(ports.0, ports.1, self.sent[ours], 65535)
            .ack(self.sent[theirs])
            .psh();
        self.sent[ours] += payload.len() as u32;
        let length = packet.size(payload.len()) as u32;
        self.bytes.extend([0; 8]); // the time does not matter
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(length.to_le_bytes());
        packet.write(&mut self.bytes, payload).expect("a message of a test fits a packet");
    }

    /// Sends a request and returns the reply's code. Records both, and pushes that come before the reply.
    fn ask(&mut self, peer: &mut Peer, request: &[u8]) -> u8 {
        self.packet(false, request);
        peer.send(request);
        loop {
            let message = peer.receive();
            self.packet(true, &message);
            if !wire::is_push(&message) {
                return message[17];
            }
        }
    }

    /// Waits for a push, and records it.
    fn push(&mut self, peer: &mut Peer) {
        let push = peer.receive();
        assert!(wire::is_push(&push), "{}", wire::show(&push));
        self.packet(true, &push);
    }

    /// tshark's output for the capture, with these arguments.
    fn tshark(&self, arguments: &[&str]) -> String {
        let file = TempFile::new("session.pcap", &self.bytes);
        let output = Command::new("tshark").args(["-n", "-r", file.path()]).args(arguments).output();
        let output =
            output.unwrap_or_else(|error| panic!("tshark can not be run ({error}): `bash tests/run` installs it"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("tshark writes text")
    }
}

#[test]
fn tshark_reads_every_message_of_the_daemon() {
    let file = TempFile::new(
        "tshark.toml",
        "[[member]]\naddress = \"10.0.0.1\"\nport = 80\nweight = 20\nmonitor = \"none\"\n",
    );
    let daemon = Daemon::start(&["--members", file.path(), "--push-window", "1ms", "--poll-interval", "64s"]);
    let mut capture = Capture::new();
    let mut lb = daemon.connect();
    let all = LbFlags::PUSH | LbFlags::TRUST;
    let registration = wire::registration(0x0102_0304, LB, &[("LB1", "FARM1", &[A, "10.0.0.2:80 label"])]);
    assert_eq!(capture.ask(&mut lb, &registration), OK);
    assert_eq!(capture.ask(&mut lb, &wire::lb_state(2, "LB1", 0x7F, all)), OK);
    capture.push(&mut lb);
    assert_eq!(capture.ask(&mut lb, &wire::member_state(3, LB, &[("LB1", "FARM1", &[(A, 0x32, true)])])), OK);
    capture.push(&mut lb);
    assert_eq!(capture.ask(&mut lb, &wire::get_weights(4, &[("LB1", "FARM1")])), OK);
    assert_eq!(capture.ask(&mut lb, &wire::get_weights(5, &[("LB1", "nothing")])), ReturnCode::UNKNOWN_GROUP.0);
    assert_eq!(capture.ask(&mut lb, &wire::deregistration(6, LB, &[("LB1", "FARM1", &[B])])), OK);
    capture.push(&mut lb);

    capture.next_connection();
    let mut member = daemon.connect();
    let members = ["[2001:db8::1]:8080", "10.0.0.9"];
    assert_eq!(capture.ask(&mut member, &wire::registration(7, MEMBER, &[("LB1", "FARM2", &members)])), OK);
    assert_eq!(capture.ask(&mut member, &wire::registration(8, MEMBER, &[("LB9", "F", &[A])])), 0x61);
    daemon.stop();

    // No malformed packet, and no type that tshark does not know.
    let faults = capture.tshark(&["-Y", "_ws.malformed || sasp.msg.type.invalid || _ws.short || !sasp"]);
    assert_eq!(faults, "");

    let fields = |filter: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("sasp.{name}")).collect();
        let mut arguments = vec!["-Y", filter, "-T", "fields", "-E", "separator=;"];
        names.iter().for_each(|name| arguments.extend(["-e", name]));
        capture.tshark(&arguments).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // Every message of the daemon, in order.
    let types = fields("tcp.srcport == 3860", &["msg.type", "msg.id"]);
    assert_eq!(types.len(), 11, "{types:#?}");
    for (found, (kind, id)) in types.iter().zip([
        (0x1015, 0x0102_0304),
        (0x1055, 2),
        (0x1040, 0),
        (0x1065, 3),
        (0x1040, 0),
        (0x1035, 4),
        (0x1035, 5),
        (0x1025, 6),
        (0x1040, 0),
        (0x1015, 7),
        (0x1015, 8),
    ]) {
        // The header's type, the message's, then those of the components in it.
        let expected = (format!("0x2010,0x{kind:04x}"), format!(";{id}"));
        assert!(found.starts_with(&expected.0) && found.ends_with(&expected.1), "{expected:?} is not in {types:#?}");
    }

    // Members and weights; tshark lists an IPv4-compatible address in two forms.
    let weights = ["memdatacomp.ip", "memdatacomp.port", "wtentry.state", "wtentrydatacomp.weight"];
    let weights = fields("tcp.srcport == 3860 && sasp.wtentry.size", &weights);
    let members = "::10.0.0.1,::10.0.0.1,::10.0.0.2,::10.0.0.2;80,80";
    assert_eq!(
        weights,
        [
            format!("{members};0x00,0x00;20,100"),
            format!("{members};0x32,0x00;0,100"),
            format!("{members};0x32,0x00;0,100"),
            "::10.0.0.1,::10.0.0.1;80;0x32;0".into(),
        ]
    );
    let flags = ["flags.contactsuccess", "flags.quiesce", "flags.registration", "flags.confident"];
    let flags = fields("sasp.getwt-rep.retcode == 0", &flags);
    assert_eq!(flags, ["1,1;1,0;1,1;1,0"]);
    let names = fields("sasp.getwt-rep.retcode == 0", &["grpdatacomp.label.uid", "grpdatacomp.grpname"]);
    assert_eq!(names, ["LB1;FARM1"]);
    let labels = fields("sasp.getwt-rep.retcode == 0", &["memdatacomp.label"]);
    assert_eq!(labels, [",label"]);
    // The verdicts, and the interval in seconds.
    let codes = ["reg-rep.retcode", "getwt-rep.retcode", "getwt-rep.interval"];
    let codes = fields("sasp.reg-rep.retcode || sasp.getwt-rep.retcode", &codes);
    assert_eq!(codes, ["0x00;;", ";0x00;64", ";0x42;64", "0x00;;", "0x61;;"]);
}
