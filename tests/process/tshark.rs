//! Our encoder's messages, decoded by tshark, which others wrote.
//!
//! tshark follows counts and inner lengths. So these tests prove offsets and byte order, not rules.

use std::{fs, path::PathBuf, process::Command};

use gwm::sasp::{
    ComponentType, Endpoint, EntryFlags, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Reason,
    ReturnCode, SenderFlags, WeightEntry, WeightedMember, Writer, writer,
};

use crate::captures::Capture;

/// One line per packet: the values of `fields`; several values of a field are separated by commas.
fn tshark(name: &str, capture: &Capture, fields: &[&str]) -> Vec<Vec<String>> {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.pcap", std::process::id()));
    fs::write(&file, &capture.bytes).unwrap();
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&file).args(["-Y", "sasp", "-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap_or_else(|error| {
        panic!("tshark can not be run ({error}): install it (`apt-get install tshark`); `bash tests/run` does")
    });
    assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(&file).unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

fn member(last: u8) -> MemberData<'static> {
    MemberData { endpoint: Endpoint::new([10, 10, 10, last].into(), 6, 80 + u16::from(last)), label: b"tag" }
}

const WEB: GroupData<'_> = GroupData { lb_uid: b"LB1", name: b"web" };
const DNS: GroupData<'_> = GroupData { lb_uid: b"LB1", name: b"nameservers" };

/// A field name of tshark, and its values.
type FieldValue = (&'static str, &'static str);

/// Every kind of message, and the fields that tshark must show; the types of all TLVs come first.
fn messages() -> Vec<(Vec<u8>, Vec<FieldValue>)> {
    let v6 = MemberData { endpoint: Endpoint::new("2001:db8::1".parse().unwrap(), 17, 53), label: b"" };
    let mut list = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>), expected: &[FieldValue]| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        list.push((bytes, expected.to_vec()));
    };
    add(
        &|out| {
            let mut writer = Writer::registration_request(out, 0x0102_0304, SenderFlags::LOAD_BALANCER);
            writer.group(WEB);
            writer.entry(&member(1));
            writer.entry(&member(2));
            writer.group(DNS);
            writer.entry(&v6);
            writer.finish().unwrap();
        },
        &[
            ("sasp.msg.type", "0x2010,0x1010,0x4010,0x3011,0x3010,0x3010,0x4010,0x3011,0x3010"),
            ("sasp.msg.id", "16909060"),
            ("sasp.reg-req.size", "7"),
            ("sasp.reg-req.lbflag", "1"),
            ("sasp.grp-mem-data.count", "2"),
            ("sasp.grp.memdatacomp.count", "2,1"),
            ("sasp.grpdatacomp.label.uid", "LB1,LB1"),
            ("sasp.grpdatacomp.grpname", "web,nameservers"),
            ("sasp.memdatacomp.protocol", "0x06,0x06,0x11"),
            ("sasp.memdatacomp.port", "81,82,53"),
            ("sasp.memdatacomp.ip", "::10.10.10.1,::10.10.10.2,2001:db8::1"),
            ("sasp.memdatacomp.label.len", "3,3,0"),
            ("sasp.memdatacomp.size", "27,27,24"),
        ],
    );
    add(
        &|out| {
            let flags = SenderFlags::NONE;
            let mut writer = Writer::deregistration_request(out, 5, flags, Reason::PURPOSEFUL);
            writer.group(WEB);
            writer.entry(&member(1));
            writer.finish().unwrap();
        },
        &[
            ("sasp.msg.type", "0x2010,0x1020,0x4010,0x3011,0x3010"),
            ("sasp.dereg-req.size", "8"),
            ("sasp.dereg-req.lbflag", "0"),
            ("sasp.flags.reason", "0x01"),
            ("sasp.grpdatacomp.grpname", "web"),
            ("sasp.memdatacomp.port", "81"),
        ],
    );
    add(
        &|out| {
            let mut writer = Writer::get_weights_request(out, 6);
            writer.name(WEB);
            writer.name(DNS);
            writer.finish().unwrap();
        },
        &[
            ("sasp.msg.type", "0x2010,0x1030,0x3011,0x3011"),
            ("sasp.getwt.req.size", "6"),
            ("sasp.getwt-req-grpdata.count", "2"),
            ("sasp.grpdatacomp.grpname", "web,nameservers"),
        ],
    );
    let weighted = |last, weight| WeightedMember {
        member: member(last),
        entry: WeightEntry { state: last, flags: EntryFlags::CONTACT | EntryFlags::REGISTERED_BY_LB, weight },
    };
    add(
        &|out| {
            let mut writer = Writer::get_weights_reply(out, 6, ReturnCode::SUCCESSFUL, 64);
            writer.group(WEB);
            writer.entry(&weighted(1, 40));
            writer.entry(&weighted(2, 65_535));
            writer.finish().unwrap();
        },
        &[
            ("sasp.msg.type", "0x2010,0x1035,0x4011,0x3011,0x3010,0x3012,0x3010,0x3012"),
            ("sasp.getwt.rep.size", "9"),
            ("sasp.getwt-rep.retcode", "0x00"),
            ("sasp.getwt-rep.interval", "64"),
            ("sasp.getwt-rep-grpwtentrydata.count", "1"),
            ("sasp.grp-wtentrydata.count", "2"),
            ("sasp.wtentry.state", "0x01,0x02"),
            ("sasp.flags.contactsuccess", "1,1"),
            ("sasp.flags.registration", "1,1"),
            ("sasp.flags.confident", "0,0"),
            ("sasp.wtentrydatacomp.weight", "40,65535"),
        ],
    );
    add(
        &|out| {
            let mut writer = Writer::send_weights(out);
            writer.group(WEB);
            writer.entry(&weighted(3, 7));
            writer.finish().unwrap();
        },
        &[
            ("sasp.msg.type", "0x2010,0x1040,0x4011,0x3011,0x3010,0x3012"),
            ("sasp.msg.id", "0"),
            ("sasp.sendwt.size", "6"),
            ("sasp.sendwt-grp-wtentrydata.count", "1"),
            ("sasp.memdatacomp.ip", "::10.10.10.3"),
            ("sasp.wtentrydatacomp.weight", "7"),
        ],
    );
    add(
        &|out| {
            let flags = LbFlags::PUSH | LbFlags::NO_CHANGE_NO_SEND;
            writer::set_lb_state_request(out, 7, b"LB1", Health(0x42), flags).unwrap();
        },
        &[
            ("sasp.msg.type", "0x2010,0x1050"),
            ("sasp.setlbstate-req.size", "10"),
            ("sasp.setlbstate-req.lbuid", "LB1"),
            ("sasp.setlbstate-req.lbhealth", "0x42"),
            ("sasp.flags.push", "1"),
            ("sasp.flags.trust", "0"),
            ("sasp.flags.nochange", "1"),
        ],
    );
    add(
        &|out| {
            let mut writer = Writer::set_member_state_request(out, 8, SenderFlags::LOAD_BALANCER);
            writer.group(WEB);
            writer.entry(&MemberState { member: member(9), state: 0x32, flags: MemberFlags::QUIESCE });
            writer.entry(&MemberState { member: member(10), state: 0x33, flags: MemberFlags::NONE });
            writer.finish().unwrap();
        },
        &[
            ("sasp.msg.type", "0x2010,0x1060,0x4012,0x3011,0x3010,0x3013,0x3010,0x3013"),
            ("sasp.setmemstate-req.size", "7"),
            ("sasp.setmemstate-req.lbflag", "1"),
            ("sasp.group-memstate.count", "1"),
            ("sasp.grp.memstate.count", "2"),
            ("sasp.memdatacomp.port", "89,90"),
            ("sasp.memstate.state", "0x32,0x33"),
            ("sasp.flags.quiesce", "1,0"),
        ],
    );
    add(
        &|out| writer::reply(out, 1, ComponentType::REGISTRATION_REPLY, ReturnCode::ALREADY_REGISTERED),
        &[("sasp.msg.type", "0x2010,0x1015"), ("sasp.reg-rep.size", "5"), ("sasp.reg-rep.retcode", "0x40")],
    );
    add(
        &|out| writer::reply(out, 2, ComponentType::DEREGISTRATION_REPLY, ReturnCode::NOT_REGISTERED),
        &[("sasp.msg.type", "0x2010,0x1025"), ("sasp.dereg-rep.size", "5"), ("sasp.dereg-rep.retcode", "0x41")],
    );
    add(
        &|out| writer::reply(out, 3, ComponentType::SET_LB_STATE_REPLY, ReturnCode::LB_UID_SIZE),
        &[
            ("sasp.msg.type", "0x2010,0x1055"),
            ("sasp.setlbstate-rep.size", "5"),
            ("sasp.setlbstate-rep.retcode", "0x51"),
        ],
    );
    add(
        &|out| writer::reply(out, 4, ComponentType::SET_MEMBER_STATE_REPLY, ReturnCode::LB_NOT_CONTACTED),
        &[
            ("sasp.msg.type", "0x2010,0x1065"),
            ("sasp.setmemstate-rep.size", "5"),
            ("sasp.setmemstate-rep.retcode", "0x61"),
        ],
    );
    list
}

/// Fields of every message, and fields that show a fault.
const COMMON: [&str; 5] = ["sasp.header.Len", "sasp.version", "sasp.msg.len", "_ws.malformed", "sasp.msg.type.invalid"];

fn ends() -> (std::net::SocketAddr, std::net::SocketAddr) {
    ("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:3860".parse().unwrap())
}

#[test]
fn tshark_reads_every_message_and_field_as_we_wrote_it() {
    let messages = messages();
    let payloads: Vec<_> = messages.iter().map(|(bytes, _)| bytes.clone()).collect();
    let capture = Capture::connection(ends().0, ends().1, &payloads);
    let mut fields = COMMON.to_vec();
    fields.extend(messages.iter().flat_map(|(_, expected)| expected.iter().map(|(field, _)| *field)));
    fields[COMMON.len()..].sort_unstable();
    fields.dedup();
    let rows = tshark("messages", &capture, &fields);
    assert_eq!(rows.len(), messages.len());
    for (row, (bytes, expected)) in rows.iter().zip(&messages) {
        assert_eq!(
            row[..COMMON.len()],
            ["13", "1", &bytes.len().to_string(), "", ""].map(String::from),
            "{expected:?}"
        );
        for (field, value) in expected {
            let place = fields.iter().position(|found| found == field).unwrap();
            // Some versions print booleans as words.
            let mut found = row[place].replace("True", "1").replace("False", "0");
            if *field == "sasp.memdatacomp.ip" {
                // Some versions list every address twice; ours differ from one member to the next.
                let mut addresses: Vec<&str> = found.split(',').collect();
                addresses.dedup();
                found = addresses.join(",");
            }
            assert_eq!(found, *value, "{field} of {}", expected[0].1);
        }
    }
}

#[test]
fn tshark_finds_every_message_where_segments_cut_across_them() {
    let messages = messages();
    let stream: Vec<u8> = messages.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    for size in [7, 1000] {
        let payloads: Vec<_> = stream.chunks(size).map(<[u8]>::to_vec).collect();
        let capture = Capture::connection(ends().0, ends().1, &payloads);
        let rows = tshark(&format!("cut-{size}"), &capture, &["sasp.msg.type", "sasp.msg.len", "_ws.malformed"]);
        let column = |place: usize| -> Vec<String> {
            rows.iter()
                .flat_map(|row| row[place].split(',').filter(|text| !text.is_empty()).map(String::from))
                .collect()
        };
        let kinds: Vec<_> = messages.iter().flat_map(|(_, expected)| expected[0].1.split(',')).collect();
        let lengths: Vec<_> = messages.iter().map(|(bytes, _)| bytes.len().to_string()).collect();
        assert_eq!((column(0), column(1)), (kinds.into_iter().map(String::from).collect(), lengths));
        assert_eq!(column(2), [""; 0]);
    }
}
