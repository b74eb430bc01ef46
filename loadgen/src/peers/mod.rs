//! `peers`: what people would use instead of a GWM, doing the same in the same run: nats-server and redis-server.
//!
//! *Fan-out*: every load balancer subscribes to a subject (NATS) or channel (Redis) of its own, and each tick one
//! publisher hands the server one message for each of them, byte for byte as the GWM pushes. *Requests*: a
//! GET of a value as long as the GWM's Get Weights Reply, and a SET of one as long as a Set Member State.
//!
//! The comparison favours the peers: a publisher must also know what changed, which subscribers the change concerns and
//! which message each of them gets. Here this is the GWM's work, there nobody does it.
//!
//! The servers are started only if they are installed, each on a free loopback port, with a configuration of its own:
//! nothing on disk, no limits that would be met, Redis without replies to PUBLISH.

mod dialect;
mod exchange;
mod fanout;
mod host;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    Result,
    options::Common,
    report::{FLOOR, Report, SERVER, Sample},
    workload::{Progress, Side},
};
use host::Peer;

/// Flags of `peers`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Peers {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand, Clone, Debug)]
enum Work {
    /// Every load balancer is sent its weights, tick by tick
    Fanout(fanout::PeerFanout),

    /// Get Weights, beside Redis GET of a value of the reply's size
    Poll(exchange::Poll),

    /// Set Member State of one member, beside Redis SET of a value of the request's size
    State(exchange::State),
}

/// Work that a GWM and its peers can do.
trait Contest {
    /// Its name.
    const NAME: &'static str;
    /// The servers that can do it.
    const PEERS: &'static [Peer];

    fn title(&self) -> String;
    fn parameters(&self) -> Value;
    fn common(&self) -> &Common;
    /// One run of the GWM or the floor.
    fn own(&self, side: Side, progress: &Progress) -> Result<Sample>;
    /// One run of a peer.
    fn peer(&self, peer: Peer, progress: &Progress) -> Result<Sample>;
}

/// Runs the command.
pub(crate) fn run(peers: &Peers) -> Result<()> {
    match &peers.work {
        Work::Fanout(work) => contest(work, &work.peers),
        Work::Poll(work) => contest(work, &[]),
        Work::State(work) => contest(work, &[]),
    }
}

/// Runs the GWM, the peers and, if asked for, the floor in turn, as often as the flags say.
fn contest<C: Contest>(work: &C, wanted: &[Peer]) -> Result<()> {
    if work.common().server.tls.tls {
        return Err("peers are compared without TLS".into());
    }
    let mut peers = Vec::new();
    for &peer in C::PEERS {
        match peer.find() {
            Some(_) if wanted.is_empty() || wanted.contains(&peer) => peers.push(peer),
            None if wanted.contains(&peer) => return Err(peer.missing()),
            None if wanted.is_empty() => eprintln!("gwm-loadgen: left out: {}", peer.missing()),
            _ => {}
        }
    }
    if peers.is_empty() {
        return Err("no peer is installed: there is nothing to compare with".into());
    }
    let mut parameters = work.parameters();
    for peer in &peers {
        parameters[peer.program()] = json!(peer.version()?);
    }
    let mut report = Report { workload: C::NAME, title: work.title(), parameters, base: SERVER, runs: Vec::new() };
    let common = work.common();
    for pair in 1..=common.pairs {
        let progress = |name: &str| Progress::new(common, format!("{} {name} {pair}/{}", C::NAME, common.pairs));
        report.runs.push((SERVER, work.own(Side::Server, &progress(SERVER))?));
        for &peer in &peers {
            let name = peer.program();
            let sample = work.peer(peer, &progress(name)).map_err(|error| format!("{name}: {error}"))?;
            report.runs.push((name, sample));
        }
        if common.floor {
            report.runs.push((FLOOR, work.own(Side::Floor, &progress(FLOOR))?));
        }
    }
    report.write(common)
}
