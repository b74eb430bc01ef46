//! The client library against a GWM that plays a script.

use std::{
    io::{self, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use gwm::{
    client::{Client, Error, ErrorKind, Transport},
    sasp::{
        ComponentType, FrameError, GroupData, Health, LbFlags, MemberData, MemberFlags, MemberState, Message, Reason,
        ReturnCode, SenderFlags, message::SetLbStateRequest,
    },
};

use crate::fake_gwm::{FakeGwm, endpoint, push, reply, weights_reply};

const FARM: GroupData<'static> = GroupData { lb_uid: b"LB1", name: b"FARM1" };
const LONG: Duration = Duration::from_secs(30);

fn connect(gwm: &FakeGwm) -> Client {
    Client::connect(&gwm.address, LONG).unwrap()
}

fn member(host: u8) -> MemberData<'static> {
    MemberData { endpoint: endpoint(host), label: b"" }
}

fn set_push(client: &mut Client) -> Result<(), Error> {
    client.set_lb_state(b"LB1", Health::BEST, LbFlags::PUSH)
}

/// Weights of a message's groups, in order.
fn weights(message: &Message<'_>) -> Vec<u16> {
    let groups = match message {
        Message::SendWeights(push) => push.groups,
        Message::GetWeightsReply(reply) => reply.groups,
        other => panic!("{other:?} has no weights"),
    };
    groups.into_iter().flat_map(|group| group.entries()).map(|member| member.entry.weight).collect()
}

#[test]
fn every_request_goes_out_as_the_rfc_lays_it_out() {
    let gwm = FakeGwm::once(|mut peer| {
        let expected = [
            "2010000d 01 00000040 00000001 1010 0007 01 0001 4010 0006 0001 3011 000e 03 4c4231 05 4641524d31 \
             3010 0018 06 0050 000000000000000000000000 0a000001 00",
            "2010000d 01 00000029 00000002 1020 0008 00 01 0001 4010 0006 0000 3011 000e 03 4c4231 05 4641524d31",
            "2010000d 01 00000046 00000003 1060 0007 01 0001 4012 0006 0001 3011 000e 03 4c4231 05 4641524d31 \
             3010 0018 06 0050 000000000000000000000000 0a000001 00 3013 0006 2a 01",
            "2010000d 01 00000017 00000004 1050 000a 03 4c4231 7f 05",
            "2010000d 01 00000021 00000005 1030 0006 0001 3011 000e 03 4c4231 05 4641524d31",
        ];
        for (at, expected) in expected.iter().enumerate() {
            let request = peer.read();
            let hex: String = request.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected.replace(char::is_whitespace, ""), "request {at}");
            let id = at as u32 + 1;
            let (_, message) = Message::decode(&request).unwrap();
            match message {
                Message::GetWeightsRequest(_) => peer.write(&weights_reply(id, 64, &[("FARM1", &[(1, 0x0D, 40)])])),
                other => peer.write(&reply(id, other.component_type(), ReturnCode::SUCCESSFUL)),
            }
        }
    });
    let mut client = connect(&gwm);
    client.register(SenderFlags::LOAD_BALANCER, [(FARM, [member(1)])]).unwrap();
    client.deregister(SenderFlags::NONE, Reason::PURPOSEFUL, [(FARM, [])]).unwrap();
    let state = MemberState { member: member(1), state: 0x2A, flags: MemberFlags::QUIESCE };
    client.set_member_state(SenderFlags::LOAD_BALANCER, [(FARM, [state])]).unwrap();
    client.set_lb_state(b"LB1", Health::BEST, LbFlags::PUSH | LbFlags::NO_CHANGE_NO_SEND).unwrap();
    let reply = client.get_weights([FARM]).unwrap();
    assert_eq!((reply.interval_seconds, weights(&Message::GetWeightsReply(reply))), (64, vec![40]));
    gwm.end();
}

#[test]
fn messages_survive_every_split_of_the_stream() {
    // A reply between two pushes in one stream, split in two at every place.
    let mut stream = push(&[("FARM1", &[(1, 0x0D, 40)])]);
    stream.extend(reply(1, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL));
    stream.extend(push(&[("FARM1", &[(1, 0x0D, 41)])]));
    for cut in 0..=stream.len() {
        let pieces = [stream[..cut].to_vec(), stream[cut..].to_vec()];
        let mut client = Client::over(Box::new(Canned::new(pieces)), "canned", LONG);
        set_push(&mut client).unwrap();
        for weight in [40, 41] {
            let push = client.next_push(LONG).unwrap().unwrap();
            assert_eq!(weights(&Message::SendWeights(push)), [weight], "cut at {cut}");
        }
        assert!(matches!(closed(client.next_push(LONG)), 0), "cut at {cut}");
    }
    // And byte by byte.
    let mut client = Client::over(Box::new(Canned::new(stream.chunks(1).map(<[u8]>::to_vec))), "canned", LONG);
    set_push(&mut client).unwrap();
    assert_eq!(weights(&Message::SendWeights(client.next_push(LONG).unwrap().unwrap())), [40]);
    assert_eq!(weights(&Message::SendWeights(client.next_push(LONG).unwrap().unwrap())), [41]);
}

#[test]
fn a_message_larger_than_any_buffer_arrives() {
    let members: Vec<(u8, u8, u16)> = (0..60_000u32).map(|at| (at as u8, 0x0D, at as u16)).collect();
    let gwm = FakeGwm::once(move |mut peer| {
        let id = peer.expect(ComponentType::GET_WEIGHTS_REQUEST);
        peer.write(&weights_reply(id, 60, &[("FARM1", &members)]));
        peer.answer(ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL);
    });
    let mut client = connect(&gwm);
    let reply = client.get_weights([FARM]).unwrap();
    let got = weights(&Message::GetWeightsReply(reply));
    assert!(got.iter().copied().eq((0..60_000u32).map(|at| at as u16)));
    set_push(&mut client).unwrap();
    gwm.end();
}

#[test]
fn messages_come_in_the_order_of_their_arrival() {
    let gwm = FakeGwm::once(|mut peer| {
        let id = peer.expect(ComponentType::SET_LB_STATE_REQUEST);
        peer.write(&push(&[("FARM1", &[(1, 0x0D, 1)])]));
        peer.write(&push(&[("FARM1", &[(1, 0x0D, 2)])]));
        peer.write(&reply(id, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL));
        let id = peer.expect(ComponentType::SET_LB_STATE_REQUEST);
        peer.write(&push(&[("FARM1", &[(1, 0x0D, 3)])]));
        peer.write(&reply(id, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL));
    });
    let mut client = connect(&gwm);
    set_push(&mut client).unwrap();
    let state = SetLbStateRequest { lb_uid: b"LB1", health: Health(0), flags: LbFlags::NONE };
    let id = client.send(&Message::SetLbStateRequest(state)).unwrap();
    for weight in [1, 2, 3] {
        let (push_id, push) = client.receive(LONG).unwrap().unwrap();
        assert_eq!((push_id, weights(&push)), (0, vec![weight]));
    }
    let got = client.receive(LONG).unwrap();
    assert_eq!(got, Some((id, Message::SetLbStateReply(ReturnCode::SUCCESSFUL))));
    gwm.end();
}

#[test]
fn a_refusal_names_its_code_and_leaves_the_connection_in_use() {
    let gwm = FakeGwm::once(|mut peer| {
        peer.answer(ComponentType::REGISTRATION_REQUEST, ReturnCode::ALREADY_REGISTERED);
        let id = peer.expect(ComponentType::GET_WEIGHTS_REQUEST);
        let mut refused = weights_reply(id, 60, &[]);
        refused[17] = 0x42;
        peer.write(&refused);
        peer.answer(ComponentType::SET_LB_STATE_REQUEST, ReturnCode(0x7B));
        peer.answer(ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL);
    });
    let mut client = connect(&gwm);
    let error = client.register(SenderFlags::NONE, [(FARM, [member(1)])]).unwrap_err();
    assert_eq!(error.refusal(), Some(ReturnCode::ALREADY_REGISTERED));
    assert!(!error.is_transient());
    let expected = "refused the Registration Request: member already registered (0x40)";
    assert_eq!(error.to_string(), format!("GWM {}: {expected}", gwm.address));
    assert_eq!(client.get_weights([FARM]).unwrap_err().refusal(), Some(ReturnCode::UNKNOWN_GROUP));
    assert_eq!(set_push(&mut client).unwrap_err().refusal(), Some(ReturnCode(0x7B)), "a code of no name");
    set_push(&mut client).unwrap();
    gwm.end();
}

#[test]
fn a_reply_of_another_request_is_an_error() {
    for (id_off, kind) in [(1, ComponentType::SET_LB_STATE_REQUEST), (0, ComponentType::REGISTRATION_REQUEST)] {
        let gwm = FakeGwm::once(move |mut peer| {
            let id = peer.expect(ComponentType::SET_LB_STATE_REQUEST);
            peer.write(&reply(id + id_off, kind, ReturnCode::SUCCESSFUL));
            peer.until_closed();
        });
        let mut client = connect(&gwm);
        let error = set_push(&mut client).unwrap_err();
        let ErrorKind::Unexpected { message, id } = error.kind else { panic!("{error}") };
        assert_eq!((message, id), (kind.reply().unwrap(), 1 + id_off));
        drop(client);
        gwm.end();
    }
}

#[test]
fn a_close_tells_whether_it_cut_a_message() {
    for cut in [0, 1, 12, 13, 17] {
        let gwm = FakeGwm::once(move |mut peer| {
            let id = peer.expect(ComponentType::SET_LB_STATE_REQUEST);
            peer.write(&reply(id, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL)[..cut]);
        });
        let error = set_push(&mut connect(&gwm)).unwrap_err();
        assert!(error.is_transient());
        assert_eq!(closed::<()>(Err(error)), cut);
        gwm.end();
    }
}

#[test]
fn what_is_not_sasp_is_told_apart() {
    let answer = |bytes: Vec<u8>| {
        let gwm = FakeGwm::once(move |mut peer| {
            peer.expect(ComponentType::SET_LB_STATE_REQUEST);
            peer.write(&bytes);
            peer.until_closed();
        });
        let mut client = connect(&gwm);
        let error = set_push(&mut client).unwrap_err();
        drop(client);
        gwm.end();
        error.kind
    };
    let http = answer(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    assert!(matches!(http, ErrorKind::Framing(FrameError::NotAHeader(ComponentType(0x4854)))), "{http:?}");
    let mut long = reply(1, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL);
    long[5..9].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF]);
    let long = answer(long);
    assert!(matches!(long, ErrorKind::Framing(FrameError::MessageTooLong { stated: i32::MAX, .. })), "{long:?}");
    let mut version = reply(1, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::NOT_UNDERSTOOD);
    version[4] = 2;
    assert!(matches!(answer(version), ErrorKind::Decode(error) if error.offset == 4));
    let mut length = reply(1, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL);
    length[16] = 6;
    assert!(matches!(answer(length), ErrorKind::Decode(error) if error.offset == 15));
}

#[test]
fn silence_ends_a_request_but_not_a_wait_for_pushes() {
    let gwm = FakeGwm::once(|mut peer| {
        peer.expect(ComponentType::SET_LB_STATE_REQUEST);
        let push = push(&[("FARM1", &[(1, 0x0D, 7)])]);
        peer.write(&push[..20]);
        peer.expect(ComponentType::SET_LB_STATE_REQUEST); // the client has stopped waiting
        peer.write(&push[20..]);
        peer.until_closed();
    });
    let mut client = Client::connect(&gwm.address, Duration::from_millis(50)).unwrap();
    let error = set_push(&mut client).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::TimedOut { .. }), "{error}");
    assert!(client.next_push(Duration::from_millis(1)).unwrap().is_none());
    let state = SetLbStateRequest { lb_uid: b"LB1", health: Health(0), flags: LbFlags::NONE };
    client.send(&Message::SetLbStateRequest(state)).unwrap();
    let push = client.next_push(LONG).unwrap().unwrap();
    assert_eq!(weights(&Message::SendWeights(push)), [7], "the part that came before the timeouts is not lost");
    drop(client);
    gwm.end();
}

#[test]
fn what_does_not_fit_the_wire_is_not_sent() {
    let gwm = FakeGwm::once(|mut peer| peer.answer(ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL));
    let mut client = connect(&gwm);
    let label = [b'x'; 256];
    let member = MemberData { endpoint: endpoint(1), label: &label };
    let error = client.register(SenderFlags::NONE, [(FARM, [member])]).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Encode(_)), "{error}");
    set_push(&mut client).unwrap();
    gwm.end();
}

#[test]
fn a_connection_that_can_not_be_made_says_to_whom() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = Client::connect(&closed, LONG).err().unwrap();
    assert!(matches!(error.kind, ErrorKind::Io { doing: "connect", .. }), "{error}");
    assert!(error.to_string().contains(&closed) && error.is_transient());
    let error = Client::connect("not an address", LONG).err().unwrap();
    assert!(matches!(error.kind, ErrorKind::Io { doing: "resolve its name", .. }), "{error}");
}

#[test]
fn requests_survive_a_transport_that_takes_a_byte_at_a_time() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let answer = reply(1, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL);
    let transport = Canned { sent: sent.clone(), ..Canned::new([answer]) };
    set_push(&mut Client::over(Box::new(transport), "canned", LONG)).unwrap();
    let mut expected = Vec::new();
    let state = SetLbStateRequest { lb_uid: b"LB1", health: Health::BEST, flags: LbFlags::PUSH };
    Message::SetLbStateRequest(state).encode(1, &mut expected).unwrap();
    assert_eq!(*sent.lock().unwrap(), expected);
}

#[test]
fn what_the_gwm_owes_is_taken_in_while_it_does_not_read() {
    let mut owed: Vec<u8> = (1..=3).flat_map(|weight| push(&[("FARM1", &[(1, 0x0D, weight)])])).collect();
    let reply = reply(1, ComponentType::SET_LB_STATE_REQUEST, ReturnCode::SUCCESSFUL);
    owed.extend(&reply[..5]); // a part of a message stays a part
    let transport = OwesFirst { owed: owed.into(), reply: reply[5..].to_vec() };
    let mut client = Client::over(Box::new(transport), "owes first", LONG);
    set_push(&mut client).unwrap();
    for weight in 1..=3 {
        assert_eq!(weights(&Message::SendWeights(client.next_push(LONG).unwrap().unwrap())), [weight]);
    }
}

#[test]
fn no_more_is_taken_in_while_sending_than_is_kept() {
    // While the client sends, it does not decode: the bytes need not be messages.
    let mut client = Client::over(Box::new(Endless), "endless", LONG);
    let error = set_push(&mut client).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Backlog { .. }), "{error}");
}

fn closed<T>(outcome: Result<T, Error>) -> usize {
    match outcome.err().expect("an error is due").kind {
        ErrorKind::Closed { unfinished_bytes } => unfinished_bytes,
        other => panic!("{other:?}"),
    }
}

/// A transport: each read gives one piece, after an interruption; each write takes one byte.
struct Canned {
    pieces: std::vec::IntoIter<Vec<u8>>,
    interrupted: bool,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Canned {
    fn new(pieces: impl IntoIterator<Item = Vec<u8>>) -> Canned {
        let pieces: Vec<_> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Canned { pieces: pieces.into_iter(), interrupted: false, sent: Arc::default() }
    }
}

impl Read for Canned {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let Some(piece) = self.pieces.next() else { return Ok(0) };
        out[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

impl Write for Canned {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.lock().unwrap().push(bytes[0]);
        Ok(1)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Canned {
    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        assert!(!timeout.is_zero());
        Ok(())
    }

    fn set_write_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        assert!(!timeout.is_zero());
        Ok(())
    }
}

/// A peer that reads nothing before it has sent everything, then reads everything and replies.
struct OwesFirst {
    owed: std::collections::VecDeque<u8>,
    reply: Vec<u8>,
}

impl Read for OwesFirst {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let some = 7.min(out.len());
        match self.owed.read(&mut out[..some])? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for OwesFirst {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.owed.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.owed.extend(self.reply.drain(..));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for OwesFirst {
    fn set_read_timeout(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// A peer that sends for ever and reads nothing.
struct Endless;

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(out.len()) // zeros: the buffer as it is
    }
}

impl Write for Endless {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Endless {
    fn set_read_timeout(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}
