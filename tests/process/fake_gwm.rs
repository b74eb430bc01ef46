//! A GWM that plays a script on loopback: it reads requests and writes exactly the bytes that a test wants.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread::JoinHandle,
    time::Duration,
};

use gwm::sasp::{
    ComponentType, Endpoint, EntryFlags, GroupData, MemberData, Message, ReturnCode, WeightEntry, WeightedMember,
    Writer, writer,
};

/// A script on its own thread; [`FakeGwm::end`] passes the script's panic to the test.
pub(crate) struct FakeGwm {
    pub(crate) address: String,
    thread: JoinHandle<()>,
}

impl FakeGwm {
    /// Listens; the script accepts connections from the listener.
    pub(crate) fn start(script: impl FnOnce(&TcpListener) + Send + 'static) -> FakeGwm {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        FakeGwm { address, thread: std::thread::spawn(move || script(&listener)) }
    }

    /// A script for one connection.
    pub(crate) fn once(script: impl FnOnce(Peer) + Send + 'static) -> FakeGwm {
        FakeGwm::start(|listener| script(Peer::accept(listener)))
    }

    /// Waits for the script to end.
    pub(crate) fn end(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// One accepted connection, plain or with TLS.
pub(crate) struct Peer<S = TcpStream>(pub(crate) S);

impl Peer {
    pub(crate) fn accept(listener: &TcpListener) -> Peer {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap(); // a broken test ends
        Peer(stream)
    }
}

impl<S: Read + Write> Peer<S> {
    /// Reads one message.
    pub(crate) fn read(&mut self) -> Vec<u8> {
        let mut message = vec![0; 13];
        self.0.read_exact(&mut message).unwrap();
        let length = u32::from_be_bytes(message[5..9].try_into().unwrap()) as usize;
        message.resize(length, 0);
        self.0.read_exact(&mut message[13..]).unwrap();
        message
    }

    /// Reads one request, checks its type, and returns its id.
    pub(crate) fn expect(&mut self, kind: ComponentType) -> u32 {
        let message = self.read();
        let (header, decoded) = Message::decode(&message).unwrap();
        assert_eq!(decoded.component_type(), kind);
        header.id
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads one request of this type and answers it with a code.
    pub(crate) fn answer(&mut self, kind: ComponentType, code: ReturnCode) {
        let id = self.expect(kind);
        self.write(&reply(id, kind, code));
    }

    /// Waits until the client has closed; bytes that still come are ignored.
    pub(crate) fn until_closed(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

/// A reply to a request of type `kind`.
pub(crate) fn reply(id: u32, kind: ComponentType, code: ReturnCode) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer::reply(&mut bytes, id, kind.reply().unwrap(), code);
    bytes
}

/// Group name → (last byte of 10.0.0.x:80, flags, weight).
pub(crate) type Listed<'a> = &'a [(&'a str, &'a [(u8, u8, u16)])];

/// A Get Weights Reply of LB `LB1`.
pub(crate) fn weights_reply(id: u32, interval_seconds: u16, groups: Listed<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    list(Writer::get_weights_reply(&mut bytes, id, ReturnCode::SUCCESSFUL, interval_seconds), groups);
    bytes
}

/// A Send Weights to LB `LB1`.
pub(crate) fn push(groups: Listed<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    list(Writer::send_weights(&mut bytes), groups);
    bytes
}

fn list(mut writer: Writer<'_, WeightedMember<'_>>, groups: Listed<'_>) {
    for (name, members) in groups {
        writer.group(GroupData { lb_uid: b"LB1", name: name.as_bytes() });
        for (host, flags, weight) in *members {
            let member = MemberData { endpoint: endpoint(*host), label: b"" };
            let entry = WeightEntry { state: 0, flags: EntryFlags(*flags), weight: *weight };
            writer.entry(&WeightedMember { member, entry });
        }
    }
    writer.finish().unwrap();
}

/// 10.0.0.`host`, TCP port 80.
pub(crate) fn endpoint(host: u8) -> Endpoint {
    Endpoint::new([10, 0, 0, host].into(), 6, 80)
}
