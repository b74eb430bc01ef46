//! `gwm-loadgen`: plays load balancers and members against `gwm serve`, checks every byte, and measures.

mod actor;
mod admin;
mod agent_checks;
mod child;
mod crowd;
mod files;
mod flood;
mod floor;
mod model;
mod options;
mod peers;
mod player;
mod plot;
mod ports;
mod process;
mod report;
mod run;
mod subject;
mod tls;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use workload::Side;

/// An error in words for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

/// Plays thousands of load balancers and members against a GWM over real sockets, checks every byte that it is sent,
/// and measures. Exit status: 0, 1 for anything wrong, 2 for wrong flags.
#[derive(Parser)]
#[command(name = "gwm-loadgen", version)]
struct Arguments {
    #[command(subcommand)]
    workload: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Weights change in a part of the members, tick by tick, and every load balancer is pushed what changed
    Fanout(workload::fanout::Fanout),

    /// Members change one at a time, at a rate: from a change to its receipt by the load balancer
    Propagate(workload::propagate::Propagate),
    /// Load balancers ask and are answered
    Poll(workload::poll::Poll),
    /// Every load balancer connects and registers at once
    Register(workload::register::Register),
    /// Every load balancer loses its connection, and all come back at once
    Reconnect(workload::reconnect::Reconnect),
    /// A new process takes over from the server; every load balancer is told to go, and comes back
    Takeover(workload::takeover::Takeover),
    /// Load balancers have a list of GWMs, and go to another one when theirs is gone; nothing acknowledged may be lost
    Failover(workload::failover::Failover),
    /// A GWM joins a fleet that knows very many memberships: from its start to all of them
    Sync(workload::sync::Sync),
    /// A stranger floods the server with connections while load balancers ask and are answered, and newcomers come
    Handshakes(workload::handshakes::Handshakes),
    /// Members and load balancers come, go and crash; every load balancer holds the right weights all the time
    Churn(workload::churn::Churn),
    /// All of these at the same time, for soak runs
    Mixed(workload::mixed::Mixed),
    /// The server watches members whose ports open and close; every load balancer is told which are up
    Watch(workload::watch::Watch),
    /// Load balancers stop reading while all weights change again and again: memory
    Stalled(workload::stalled::Stalled),
    /// Load balancers only stay: memory of connections and memberships
    Idle(workload::idle::Idle),
    /// An agent keeps one service registered, and nothing happens: memory and CPU of the agent
    Agent(workload::agent::Agent),
    /// A connector follows the GWM and commands a played load balancer: from a change of weights to their use
    Connect(workload::connect::Connect),
    /// The machine's limit alone: a workload's bytes from bare loops
    #[command(subcommand)]
    Floor(Floor),

    /// The same work by other servers: nats-server and redis-server, if they are installed
    Peers(peers::Peers),
    /// Draws results as SVG
    Plot(plot::Plot),

    /// The floor's own process
    #[command(name = floor::COMMAND, hide = true)]
    FloorProcess {
        /// Its core.
        #[arg(long)]
        cpu: usize,
    },
}

#[derive(Subcommand)]
enum Floor {
    /// Every tick's messages from a bare loop of non-blocking sends
    Fanout(workload::fanout::Fanout),
    /// A push in answer to every request, from a bare epoll loop
    Propagate(workload::propagate::Propagate),
    /// A reply to every request, from a bare epoll loop
    Poll(workload::poll::Poll),
    /// A reply to each one's registration, from a bare epoll loop, and a push to all
    Register(workload::register::Register),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().workload {
        Command::Fanout(fanout) => workload::run(&fanout, &fanout.common, Side::Server),
        Command::Propagate(propagate) => workload::run(&propagate, &propagate.common, Side::Server),
        Command::Poll(poll) => workload::run(&poll, &poll.common, Side::Server),
        Command::Register(register) => workload::run(&register, &register.common, Side::Server),
        Command::Reconnect(reconnect) => workload::run(&reconnect, &reconnect.common, Side::Server),
        Command::Takeover(takeover) => workload::run(&takeover, &takeover.common, Side::Server),
        Command::Failover(failover) => workload::run(&failover, &failover.common, Side::Server),
        Command::Sync(sync) => workload::run(&sync, &sync.common, Side::Server),
        Command::Handshakes(handshakes) => workload::run(&handshakes, &handshakes.common, Side::Server),
        Command::Churn(churn) => workload::run(&churn, &churn.common, Side::Server),
        Command::Mixed(mixed) => workload::run(&mixed, &mixed.common, Side::Server),
        Command::Watch(watch) => workload::run(&watch, &watch.common, Side::Server),
        Command::Stalled(stalled) => workload::run(&stalled, &stalled.common, Side::Server),
        Command::Idle(idle) => workload::run(&idle, &idle.common, Side::Server),
        Command::Agent(agent) => workload::run(&agent, &agent.common, Side::Server),
        Command::Connect(connect) => workload::run(&connect, &connect.common, Side::Server),
        Command::Floor(Floor::Fanout(fanout)) => workload::run(&fanout, &fanout.common, Side::Floor),
        Command::Floor(Floor::Propagate(propagate)) => workload::run(&propagate, &propagate.common, Side::Floor),
        Command::Floor(Floor::Poll(poll)) => workload::run(&poll, &poll.common, Side::Floor),
        Command::Floor(Floor::Register(register)) => workload::run(&register, &register.common, Side::Floor),
        Command::Peers(peers) => peers::run(&peers),
        Command::Plot(plot) => plot::run(&plot),
        Command::FloorProcess { cpu } => options::pin(cpu).and_then(|()| floor::run()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gwm-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}
