//! The server's side of TLS with the daemon's own settings and without sockets: the cost of each flight of a handshake in
//! which both ends show certificates (ECDSA, P-256), and of encrypting a push.

use std::{
    io::{IoSlice, Result, Write},
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use gwm::tls::{self, Files, Server};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, client::Resumption, pki_types::ServerName,
};

use crate::{
    authority::{Authority, Folder},
    codec,
};

/// Both ends of TLS 1.3.
static ENDS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let (authority, folder) = (Authority::new("bench"), Folder::new());
    let (certificate, key) = folder.identity("server", &authority.server());
    let ca = folder.write("ca.pem", authority.pem());
    let min_version = tls::Version::Tls13;
    let files = Files {
        certificate: certificate.into(),
        key: key.into(),
        client_ca: Some(ca.into()),
        min_version,
        allow_expired: false,
    };
    let trusted = tls::trusted(Some(authority.pem().as_bytes())).expect("our own certificate");
    let client = tls::client(trusted, Some(authority.client("lb1").der())).expect("our own certificates");
    (Server::read(files, SystemTime::now()).expect("our own files").config, client)
});

/// A client that remembers its last session, or has none to resume.
fn client(resumes: bool) -> Arc<ClientConfig> {
    let mut client = ClientConfig::clone(&ENDS.1);
    client.resumption = Resumption::disabled();
    if resumes {
        client.resumption = Resumption::in_memory_sessions(1);
        let mut handshake = Handshake::begin(Arc::new(client.clone()));
        handshake.answer();
        handshake.finish();
        handshake.hear(); // the ticket
    }
    Arc::new(client)
}

/// A handshake, flight by flight.
struct Handshake {
    client: ClientConnection,
    server: ServerConnection,
    /// The client's last bytes.
    up: Vec<u8>,
    /// The server's last bytes.
    down: Vec<u8>,
}

impl Handshake {
    /// The client says its first.
    fn begin(client: Arc<ClientConfig>) -> Handshake {
        let name = ServerName::try_from("localhost").expect("it is a name");
        let mut client = ClientConnection::new(client, name).expect("it has a configuration");
        let mut up = Vec::new();
        client.write_tls(&mut up).expect("memory takes all");
        let server = ServerConnection::new(ENDS.0.clone()).expect("it has a configuration");
        Handshake { client, server, up, down: Vec::with_capacity(8192) }
    }

    /// The server takes the client's bytes and answers.
    fn serve(&mut self) {
        let mut up = &self.up[..];
        while !up.is_empty() {
            self.server.read_tls(&mut up).expect("there is room");
            self.server.process_new_packets().expect("a good client");
        }
        self.down.clear();
        while self.server.wants_write() {
            self.server.write_tls(&mut self.down).expect("memory takes all");
        }
    }

    /// The server answers the client's first flight, and the client that.
    fn answer(&mut self) {
        self.serve();
        self.hear();
        self.up.clear();
        self.client.write_tls(&mut self.up).expect("memory takes all");
    }

    /// The server takes the client's second flight.
    fn finish(&mut self) {
        self.serve();
        assert!(!self.server.is_handshaking());
    }

    fn hear(&mut self) {
        let mut down = &self.down[..];
        while !down.is_empty() {
            self.client.read_tls(&mut down).expect("there is room");
            self.client.process_new_packets().expect("a good server");
        }
    }
}

/// From the client's first message to the server's answer, with a new session or with one that is resumed.
#[divan::bench(args = [false, true])]
fn first_flight(bencher: Bencher<'_, '_>, resumes: bool) {
    bencher.counter(ItemsCount::new(1u32)).with_inputs(|| Handshake::begin(client(resumes))).bench_local_values(
        |mut handshake| {
            handshake.serve();
            handshake
        },
    );
}

/// From the client's second message to the handshake's end and the next ticket.
#[divan::bench(args = [false, true])]
fn second_flight(bencher: Bencher<'_, '_>, resumes: bool) {
    let begun = || {
        let mut handshake = Handshake::begin(client(resumes));
        handshake.answer();
        handshake
    };
    bencher.counter(ItemsCount::new(1u32)).with_inputs(begun).bench_local_values(|mut handshake| {
        handshake.finish();
        handshake
    });
}

/// Where encrypted bytes go: a socket that takes everything and costs nothing.
struct Sink(usize);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0 += black_box(bytes).len();
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> Result<usize> {
        let length = black_box(slices).iter().map(|slice| slice.len()).sum();
        self.0 += length;
        Ok(length)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A push of so many members, encrypted.
#[divan::bench(args = [1, 100, 1_000])]
fn push(bencher: Bencher<'_, '_>, members: u32) {
    let mut handshake = Handshake::begin(client(false));
    handshake.answer();
    handshake.finish();
    let (mut server, message) = (handshake.server, codec::message("send_weights", members));
    let mut sink = Sink(0);
    bencher.counter(BytesCount::new(message.len())).bench_local(|| {
        let mut rest = &message[..];
        while !rest.is_empty() {
            rest = &rest[server.writer().write(rest).expect("memory takes it")..];
            while server.wants_write() {
                server.write_tls(&mut sink).expect("the sink takes all");
            }
        }
    });
    assert!(sink.0 > message.len(), "it was encrypted");
}
