//! The new daemon's side: it gets listeners, then the state.

use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

use super::channel::Channel;
use crate::{
    runtime::Error,
    takeover::{Listener, Message, VERSION},
};

/// How long the running daemon may take for a step: the longest is that its disk takes the last changes.
const PATIENCE: Duration = Duration::from_secs(15);

/// Most listeners of a daemon, one for each address and shard.
const LISTENERS: usize = 1 << 16;

/// A takeover that is under way. If it is dropped, the running daemon serves on.
pub(in crate::runtime) struct Taking {
    channel: Channel,
    listeners: Vec<(Listener, OwnedFd)>,
    id: i32,
}

fn failed(why: String) -> Error {
    Error::Takeover { why }
}

impl Taking {
    /// Gets the listeners of the daemon that has this state; `None` if there is none.
    pub(in crate::runtime) fn begin(directory: &Path) -> Result<Option<Taking>, Error> {
        let path = super::socket_file(directory);
        let channel = match Channel::connect(&path) {
            Ok(channel) => channel,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(format!("{}: {error}", path.display()))),
        };
        let peer = channel.peer().map_err(|error| failed(format!("nobody knows who serves: {error}")))?;
        let mut taking = Taking { channel, listeners: Vec::new(), id: peer.pid.as_raw_nonzero().get() };
        taking.greet().map_err(failed)?;
        Ok(Some(taking))
    }

    fn greet(&mut self) -> Result<(), String> {
        let hello = Message::Hello { protocol: VERSION, gwm: env!("CARGO_PKG_VERSION").into() };
        self.channel.send(&hello, &[])?;
        loop {
            let (message, descriptors) = self.channel.receive(PATIENCE)?;
            let Message::Listeners { listeners, more } = message else {
                return Err(format!("the other process says {message:?} instead of its listeners"));
            };
            if listeners.len() != descriptors.len() || self.listeners.len() + listeners.len() > LISTENERS {
                return Err(format!("{} listeners come with {} descriptors", listeners.len(), descriptors.len()));
            }
            self.listeners.extend(listeners.into_iter().zip(descriptors));
            if !more {
                return Ok(());
            }
        }
    }

    /// The id of the running daemon's process.
    pub(in crate::runtime) fn id(&self) -> i32 {
        self.id
    }

    /// The sockets of a listener that is wanted; none if the running daemon does not have it.
    pub(in crate::runtime) fn take(&mut self, wanted: &Listener) -> Vec<OwnedFd> {
        let Some(found) = self.listeners.iter().find(|(listener, _)| listener.serves(wanted)) else {
            return Vec::new();
        };
        let found = found.0.clone();
        self.listeners.extract_if(.., |(listener, _)| *listener == found).map(|(_, descriptor)| descriptor).collect()
    }

    /// The names of the listeners that nothing here wants.
    pub(in crate::runtime) fn unwanted(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().map(|(listener, _)| listener)
    }

    /// Waits until the state on disk is whole, and belongs to nobody. All that can fail must be done.
    pub(in crate::runtime) fn wait_for_state(&self) -> Result<(), Error> {
        self.channel
            .send(&Message::Ready, &[])
            .and_then(|()| self.channel.expect(&Message::State, PATIENCE))
            .map_err(failed)
    }

    /// Makes the state this process's, for good.
    pub(in crate::runtime) fn finish(&self) -> Result<(), Error> {
        self.channel
            .send(&Message::Loaded, &[])
            .and_then(|()| self.channel.expect(&Message::Over, PATIENCE))
            .map_err(failed)
    }

    /// Tells the running daemon why this process does not serve.
    pub(in crate::runtime) fn refuse(&self, why: &Error) {
        let _ = self.channel.send(&Message::Refused { why: why.to_string() }, &[]);
    }
}
