//! What systemd hears of a unit with `Type=notify`: sd_notify(3). Without systemd nothing is sent.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// The way to systemd.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often systemd wants to hear that the process lives: half of its limit.
    pub watchdog: Option<Duration>,
    /// The last status line.
    status: String,
}

/// The variables that say where systemd listens; they are not for a child.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

impl Notifier {
    /// What the environment says.
    pub fn from_environment() -> Notifier {
        let text = |name| env::var(name).ok();
        let own = text("WATCHDOG_PID").is_none_or(|id| id == std::process::id().to_string());
        let limit = text("WATCHDOG_USEC").filter(|_| own).and_then(|limit| limit.parse().ok());
        Notifier::new(text("NOTIFY_SOCKET").as_deref(), limit)
    }

    /// Systemd listens at `address`, and wants to hear at least once in so many microseconds that the process lives.
    pub fn new(address: Option<&str>, limit_us: Option<u64>) -> Notifier {
        let address = address.and_then(|address| match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => address.starts_with('/').then(|| SocketAddr::from_pathname(address).ok()).flatten(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let watchdog =
            limit_us.filter(|limit| *limit > 0 && socket.is_some()).map(|limit| Duration::from_micros(limit / 2));
        Notifier { socket, watchdog, status: String::new() }
    }

    fn send(&self, text: &str) {
        if let Err(error) = self.try_to_send(text) {
            tracing::debug!("systemd does not hear: {error}");
        }
    }

    fn try_to_send(&self, text: &str) -> io::Result<()> {
        match &self.socket {
            Some((socket, address)) => socket.send_to_addr(text.as_bytes(), address).map(drop),
            None => Ok(()),
        }
    }

    /// The unit has started.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The unit reads its files again, until [`Notifier::ready`].
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let us = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// The unit stops, which may take so long.
    pub fn stopping(&self, at_most: Duration) {
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", at_most.as_micros()));
    }

    /// Another process is the unit's main one from now on. Only the main process may say so.
    pub fn main_process(&self, id: u32) -> io::Result<()> {
        self.try_to_send(&format!("MAINPID={id}"))
    }

    /// The process lives.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// The line that `systemctl status` shows; sent if it is another one than before.
    pub fn status(&mut self, line: String) {
        if self.status != line {
            self.send(&format!("STATUS={line}"));
            self.status = line;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_each_word_and_a_status_once() {
        let name = format!("gwm-notify-{}", std::process::id());
        let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut notifier = Notifier::new(Some(&format!("@{name}")), Some(3_000_000));
        assert_eq!(notifier.watchdog, Some(Duration::from_millis(1500)));
        notifier.ready();
        notifier.status("web: up".into());
        notifier.status("web: up".into());
        notifier.reloading();
        notifier.alive();
        notifier.stopping(Duration::from_secs(2));
        notifier.main_process(7).unwrap();
        let heard = || {
            let mut bytes = [0; 256];
            let length = systemd.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        assert_eq!([heard(), heard()], ["READY=1", "STATUS=web: up"]);
        assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(heard(), "WATCHDOG=1");
        assert_eq!(heard(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000");
        assert_eq!(heard(), "MAINPID=7");
        let without = Notifier::new(None, Some(3_000_000));
        without.ready();
        without.main_process(7).unwrap();
        assert_eq!(without.watchdog, None);
    }
}
