//! What a running daemon and the process that takes over from it say to each other: one JSON object a packet.
//!
//! | who | says | means |
//! | --- | --- | --- |
//! | new | [`Message::Hello`] | I want to take over |
//! | old | [`Message::Listeners`] | their descriptors come with this; the old process serves on |
//! | new | [`Message::Ready`] | everything that can fail is done |
//! | old | [`Message::State`] | nothing changes any more, and the state on disk is whole and closed |
//! | new | [`Message::Loaded`] | the state can be used |
//! | old | [`Message::Over`] | I serve no more: there is no way back |
//!
//! Until the last packet the end of either process, or [`Message::Refused`], leaves the old process serving.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits;

/// The version of this talk. A process that speaks another one does not take over.
pub const VERSION: u16 = 1;

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// The first packet.
    Hello {
        /// [`VERSION`].
        protocol: u16,
        /// The version of the program, for people.
        gwm: String,
    },
    /// Listeners, each with one descriptor.
    Listeners {
        /// The listeners, in the order of the descriptors.
        listeners: Vec<Listener>,
        /// Another packet of listeners follows.
        more: bool,
    },
    /// The new process can serve as soon as it has the state.
    Ready,
    /// The state on disk belongs to nobody.
    State,
    /// The new process has the state.
    Loaded,
    /// The state belongs to the new process.
    Over,
    /// The takeover has failed.
    Refused {
        /// The reason, for people.
        why: String,
    },
}

/// What a listening socket is for. SASP's addresses have a socket for each shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Listener {
    /// Load balancers and members.
    Sasp(SocketAddr),
    /// Agent-checks.
    AgentChecks(SocketAddr),
    /// The admin side, by TCP.
    Admin(SocketAddr),
    /// The admin side, by a UNIX socket.
    AdminSocket(PathBuf),
}

impl Listener {
    /// Whether this listener serves what is wanted. A wanted port 0 is any port.
    pub fn serves(&self, wanted: &Listener) -> bool {
        match (self, wanted) {
            (Listener::Sasp(own), Listener::Sasp(wanted))
            | (Listener::AgentChecks(own), Listener::AgentChecks(wanted))
            | (Listener::Admin(own), Listener::Admin(wanted)) => {
                own.ip() == wanted.ip() && (wanted.port() == 0 || own.port() == wanted.port())
            }
            (own, wanted) => own == wanted,
        }
    }
}

impl Message {
    /// Reads a packet. The error is for people.
    pub fn read(bytes: &[u8]) -> Result<Message, String> {
        if bytes.len() > limits::TAKEOVER_BYTES {
            return Err("a packet is too long".into());
        }
        let message = serde_json::from_slice(bytes).map_err(|error| format!("a packet is wrong: {error}"))?;
        match message {
            Message::Listeners { listeners, .. } if listeners.len() > limits::TAKEOVER_DESCRIPTORS => {
                Err("a packet has too many listeners".into())
            }
            message => Ok(message),
        }
    }

    /// The packet; `None` if it would be too long.
    pub fn write(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok().filter(|bytes| bytes.len() <= limits::TAKEOVER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn packets_are_read_as_they_were_written() {
        let listeners = vec![
            Listener::Sasp(address("127.0.0.1:3860")),
            Listener::AgentChecks(address("[::1]:8080")),
            Listener::Admin(address("127.0.0.1:9860")),
            Listener::AdminSocket("/run/gwm/admin.sock".into()),
        ];
        for message in [
            Message::Hello { protocol: VERSION, gwm: "0.1.0".into() },
            Message::Listeners { listeners, more: true },
            Message::Ready,
            Message::Refused { why: "a \"reason\"\n".into() },
        ] {
            assert_eq!(Message::read(&message.write().expect("a short packet")), Ok(message));
        }
        assert_eq!(Message::Ready.write().as_deref(), Some(&br#"{"kind":"ready"}"#[..]));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let many = vec![Listener::Sasp(address("127.0.0.1:1")); limits::TAKEOVER_DESCRIPTORS + 1];
        let many = Message::Listeners { listeners: many, more: false }.write().expect("it is not so long");
        for wrong in [
            &b""[..],
            b"{}",
            br#"{"kind":"other"}"#,
            br#"{"kind":"hello","protocol":1,"gwm":"1","more":1}"#,
            br#"{"kind":"hello","protocol":65536,"gwm":"1"}"#,
            &many,
            &vec![b' '; limits::TAKEOVER_BYTES + 1],
        ] {
            assert!(Message::read(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        assert_eq!(Message::Refused { why: "x".repeat(limits::TAKEOVER_BYTES) }.write(), None);
    }

    #[test]
    fn a_listener_serves_its_address_and_any_port_if_that_is_wanted() {
        let bound = Listener::Sasp(address("127.0.0.1:3860"));
        for (wanted, serves) in [
            (Listener::Sasp(address("127.0.0.1:3860")), true),
            (Listener::Sasp(address("127.0.0.1:0")), true),
            (Listener::Sasp(address("127.0.0.1:3861")), false),
            (Listener::Sasp(address("127.0.0.2:0")), false),
            (Listener::Admin(address("127.0.0.1:3860")), false),
            (Listener::AdminSocket("/x".into()), false),
        ] {
            assert_eq!(bound.serves(&wanted), serves, "{wanted:?}");
        }
        assert!(Listener::AdminSocket("/x".into()).serves(&Listener::AdminSocket("/x".into())));
    }
}
