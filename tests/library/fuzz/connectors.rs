//! The entry points of what real load balancers say to connectors and to agent-checks.

use gwm::fuzz;

use super::{bytes, pieces, run};

#[test]
fn haproxy_answer() {
    const WORDS: [&str; 12] =
        ["1\n", "# ", "be_name ", "srv_name ", "web ", "s1 ", "10.0.0.1 ", "80 ", "\"", "\n", ";", "Pid: 7"];
    const TABLE: &[u8] = b"1\n# be_name srv_name srv_addr srv_admin_state srv_uweight srv_iweight srv_port\n\
                           web s1 10.0.0.1 0 1 1 80\nweb s2 ::1 8 0 1 81\n";
    run(20_000, fuzz::haproxy_answer, |rng| pieces(rng, &WORDS, 20));
    run(5_000, fuzz::haproxy_answer, |rng| {
        let mut table = TABLE.to_vec();
        let at = rng.usize(..table.len());
        table[at] = rng.u8(..);
        table
    });
}

#[test]
fn pen_answer() {
    const WORDS: [&str; 12] =
        ["0 ", "addr ", "10.0.0.1 ", "::1 ", "port ", "80 ", "conn 3 ", "weight ", "no ", "prio ", "-1 ", "\n"];
    const ROW: &[u8] = b"1 addr 10.0.0.1 port 80 conn 0 max 0 hard 0 weight 5 prio 0 sx 0 rx 0\n";
    run(20_000, fuzz::pen_answer, |rng| pieces(rng, &WORDS, 20));
    run(1_000, fuzz::pen_answer, |rng| {
        let mut rows = ROW.repeat(3);
        let at = rng.usize(..rows.len());
        rows[at] = rng.u8(..);
        rows
    });
}

#[test]
fn nft_listing() {
    const LISTING: &[u8] = br#"{"nftables": [{"rule": {"family": "inet", "table": "gwm", "chain": "services", "expr": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "10.0.0.1"}},
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
        {"dnat": {"family": "ip", "addr": {"map": {"key": {"numgen": {"mode": "inc", "mod": 1, "offset": 0}},
                  "data": {"set": [[0, {"concat": ["10.1.0.1", 8080]}]]}}}}}]}}]}"#;
    const TOKENS: [&str; 12] =
        ["{}", "[", "]", "null", "\"concat\"", "70000", "-1", "\"services\"", "{", "}", ",", "1.5"];
    run(10_000, fuzz::nft_listing, |rng| {
        let mut listing = LISTING.to_vec();
        for _ in 0..rng.usize(..4) {
            let at = rng.usize(..listing.len());
            let token = rng.choice(TOKENS).expect("a list").bytes();
            listing.splice(at..(at + rng.usize(..8)).min(listing.len()), token);
        }
        listing
    });
}

#[test]
fn ipvs_answer() {
    /// An attribute, padded to four bytes.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 16).unwrap();
        let (kind, sequence) = (kind.to_ne_bytes(), 1_u32.to_ne_bytes());
        [&length.to_ne_bytes()[..], &kind, &[2, 0], &sequence, &[0; 4], body].concat()
    }

    fn datagram() -> Vec<u8> {
        let address = [&[10, 0, 0, 1][..], &[0; 12]].concat();
        let destination = [attribute(1, &address), attribute(2, &[0, 80]), attribute(4, &[7, 0, 0, 0])].concat();
        let listed = [&[5, 1, 0, 0][..], &attribute(1, &attribute(6, b"wrr\0")), &attribute(2, &destination)].concat();
        [message(30, &listed), message(30, &listed), message(3, &[0; 4])].concat()
    }

    run(10_000, fuzz::ipvs_answer, |rng| {
        let mut datagram = datagram();
        for _ in 0..rng.usize(..4) {
            let at = rng.usize(..datagram.len());
            datagram[at] = rng.u8(..);
        }
        datagram.truncate(rng.usize(..datagram.len() * 2));
        datagram
    });
}

#[test]
fn agent_check_request() {
    const WORDS: [&str; 14] = [
        "GET ",
        "/load/",
        "/load?",
        "web",
        "/",
        "s1",
        "10.0.0.1:80",
        "[::1]:80",
        "%2f",
        "%",
        " HTTP/1.1",
        "\r\n",
        "\n",
        " ",
    ];
    run(20_000, fuzz::agent_check_request, |rng| pieces(rng, &WORDS, 10));
}

#[cfg(feature = "xds")]
#[test]
fn xds_stream() {
    const KINDS: [&str; 5] = [
        "type.googleapis.com/envoy.config.listener.v3.Listener",
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "x",
    ];
    const TEXTS: [&str; 8] = ["web", "other", "late", "*", "", "7", "8", "8.2"];
    run(20_000, fuzz::xds_stream, |rng| {
        let mut data = bytes(rng, 1);
        for _ in 0..rng.usize(..8) {
            if rng.u8(..6) == 0 {
                data.push(255);
                continue;
            }
            let delta = data.first().is_some_and(|choice| choice % 2 == 1);
            let mut request = Vec::new();
            let mut field = |number: u8, text: &str| {
                request.extend([number << 3 | 2, text.len() as u8]);
                request.extend(text.bytes());
            };
            field(if delta { 2 } else { 4 }, rng.choice(KINDS).expect("a list"));
            for _ in 0..rng.usize(..4) {
                field(rng.u8(1..8), rng.choice(TEXTS).expect("a list"));
            }
            if rng.u8(..10) == 0 {
                let at = rng.usize(..request.len());
                request[at] = rng.u8(..);
            }
            data.push(request.len() as u8);
            data.extend(request);
        }
        data
    });
}

#[cfg(feature = "xds")]
#[test]
fn xds_poll() {
    const TOKENS: [&str; 10] = [
        "{",
        "}",
        "[",
        "]",
        "\"resource_names\":",
        "\"resourceNames\":",
        "\"web\"",
        "\"version_info\":\"8\"",
        ",",
        "7",
    ];
    run(20_000, fuzz::xds_poll, |rng| pieces(rng, &TOKENS, 9));
}

#[cfg(feature = "xds")]
#[test]
fn xds_report() {
    /// A field of protobuf: a text or a message.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(value.len()).expect("a short value")], value].concat()
    }

    run(20_000, fuzz::xds_report, |rng| {
        let mut cluster = field(1, rng.choice(["web", "other", "late", ""]).expect("a list").as_bytes());
        for _ in 0..rng.usize(..4) {
            let name = rng.choice(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80", ""]).expect("a list");
            let mut stats = field(1, &field(3, name.as_bytes()));
            for number in [3, 4, 8] {
                stats.extend([number << 3, rng.u8(..128)]);
            }
            cluster.extend(field(2, &stats));
        }
        let mut report = field(2, &cluster);
        if rng.bool() {
            let at = rng.usize(..report.len());
            report[at] = rng.u8(..);
        }
        report
    });
}
