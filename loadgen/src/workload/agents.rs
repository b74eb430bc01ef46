//! Members' agents, as HAProxy's agent-check has them: the server asks, they answer with a line.
//!
//! They say `drain` or `ready`, which the server passes on as it is: percentages it smooths.

use std::{
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    Result,
    model::Change,
    options::Shape,
    ports::{Visit, Visitor},
};

/// The answers of the agents; members of all farms with the same number answer the same.
pub(crate) struct Agents {
    shape: Shape,
    drained: Vec<AtomicBool>,
    /// The player's seats, and how many of them are ready for the next tick.
    seats: usize,
    ready: AtomicUsize,
}

impl Agents {
    pub(crate) fn new(shape: Shape, change: Change, seats: usize) -> Agents {
        let mut random = fastrand::Rng::with_seed(change.seed);
        let drained = (0..shape.farm_members()).map(|_| AtomicBool::new(random.bool())).collect();
        Agents { shape, drained, seats, ready: AtomicUsize::new(0) }
    }

    /// The drained members.
    pub(crate) fn drained(&self) -> impl Iterator<Item = bool> {
        self.drained.iter().map(|drained| drained.load(Ordering::Acquire))
    }

    /// A seat expects these members to change: when all do, they change.
    pub(crate) fn expected(&self, changed: &[u32]) {
        let ready = self.ready.fetch_add(1, Ordering::AcqRel) + 1;
        if ready.is_multiple_of(self.seats) {
            for &member in changed {
                self.drained[member as usize].fetch_not(Ordering::AcqRel);
            }
        }
    }
}

/// Answers for all agents at one port.
pub(crate) struct Answers(pub(crate) Arc<Agents>);

impl Visitor for Answers {
    fn visit(&mut self, visit: &Visit<'_>, stream: &mut TcpStream) -> Result<()> {
        let member = self.0.shape.find_local(visit.address);
        let member = member.ok_or_else(|| format!("{} was asked, which nobody has registered", visit.address))?;
        let drained = self.0.drained[member as usize].load(Ordering::Acquire);
        // One that has given up waiting asks again.
        let _ = stream.write_all(if drained { b"drain\n" } else { b"ready\n" });
        Ok(())
    }
}
