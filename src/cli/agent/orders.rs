//! `gwm agent status`, `quiesce` and `resume`: to the agents of this user, by their sockets.

use std::{
    io::{self, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{Directory, LEAVE_TIMES, duration};
use crate::{
    agent::control::{self, Answer, Question, Shown},
    cli::target::Failure,
};

/// How often a command that waits asks again.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Flags of `gwm agent status`.
#[derive(clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    directory: Directory,
    /// Print one JSON object: {agents: [{process, services: [{service, state, reason, quiesced_since, members, connections,
    /// idle_connections, opaque_state, process, settled, gwms: [{gwm, connected, registered, memberships, waits}]}]}]}
    #[arg(long, env = "GWM_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    json: bool,
}

/// Flags of `gwm agent quiesce`.
#[derive(clap::Args)]
pub(super) struct QuiesceArgs {
    /// The service; without it all services of all agents
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Why, for those who ask
    #[arg(long, env = "GWM_REASON_TEXT", value_name = "TEXT", default_value = "")]
    reason: String,
    /// Wait at most so long until all GWMs have heard it, load balancers had time to hear of it, and the service has no
    /// connections but idle ones: 0s to 24h
    #[arg(long, env = "GWM_AGENT_WAIT", value_name = "DURATION", value_parser = duration(LEAVE_TIMES))]
    wait: Option<Duration>,
    #[command(flatten)]
    directory: Directory,
}

/// Flags of `gwm agent resume`.
#[derive(clap::Args)]
pub(super) struct ResumeArgs {
    /// The service; without it all services of all agents
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Wait at most so long until the service answers its check, and all GWMs have heard it: 0s to 24h
    #[arg(long, env = "GWM_AGENT_WAIT", value_name = "DURATION", value_parser = duration(LEAVE_TIMES))]
    wait: Option<Duration>,
    #[command(flatten)]
    directory: Directory,
}

fn ask(directory: &Path, question: &Question) -> Result<Vec<Answer>, Failure> {
    control::ask_all(directory, question).map_err(|error| Failure::Failed(format!("{}: {error}", directory.display())))
}

/// Asks, and fails if no agent has such a service.
fn order(directory: &Path, question: &Question, service: Option<&str>) -> Result<Vec<Shown>, Failure> {
    let answers = ask(directory, question)?;
    let services: Vec<Shown> = answers.into_iter().flat_map(|answer| answer.services).collect();
    match service {
        _ if !services.is_empty() => Ok(services),
        Some(name) => Err(Failure::Failed(format!("no agent in {} has a service {name}", directory.display()))),
        None => Err(no_agent(directory)),
    }
}

fn no_agent(directory: &Path) -> Failure {
    Failure::Failed(format!("no agent listens in {}: start one, or give the --run-dir of one", directory.display()))
}

/// Runs `gwm agent status`.
pub(super) fn status(args: StatusArgs) -> Result<(), Failure> {
    let directory = args.directory.path();
    let answers = ask(&directory, &Question::Status { service: None })?;
    let mut out = io::stdout().lock();
    if args.json {
        let json = serde_json::json!({ "agents": answers });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    if answers.is_empty() {
        return Err(no_agent(&directory));
    }
    for service in answers.iter().flat_map(|answer| &answer.services) {
        write!(out, "{}: {}", service.service, service.state)?;
        if !service.reason.is_empty() {
            write!(out, " ({})", service.reason)?;
        }
        if let Some(connections) = service.connections {
            write!(out, ", {connections} connection{}", if connections == 1 { "" } else { "s" })?;
        }
        if let Some(idle @ 1..) = service.idle_connections {
            write!(out, " ({idle} idle)")?;
        }
        writeln!(out, ", {}", service.members.join(", "))?;
        for gwm in &service.gwms {
            let session = if gwm.connected { "session" } else { "no session" };
            write!(out, "  GWM {}: {session}, {} of {} registered", gwm.gwm, gwm.registered, gwm.memberships)?;
            match &gwm.waits {
                Some(why) => writeln!(out, "; {why}")?,
                None => writeln!(out)?,
            }
        }
    }
    Ok(())
}

/// Runs `gwm agent quiesce`.
pub(super) fn quiesce(args: QuiesceArgs) -> Result<(), Failure> {
    let directory = args.directory.path();
    let question = Question::Quiesce { service: args.service.clone(), reason: args.reason };
    let mut services = order(&directory, &question, args.service.as_deref())?;
    if let Some(wait) = args.wait {
        let busy =
            |shown: &Shown| !shown.settled || shown.connections.unwrap_or(0) > shown.idle_connections.unwrap_or(0);
        await_all(&directory, &mut services, args.service.as_deref(), wait, busy, "not drained in time")?;
    }
    say(&services, "quiesced")
}

/// Asks again and again until no service is `busy`.
fn await_all(
    directory: &Path,
    services: &mut Vec<Shown>,
    service: Option<&str>,
    wait: Duration,
    busy: impl Fn(&Shown) -> bool,
    late: &str,
) -> Result<(), Failure> {
    let until = Instant::now() + wait;
    let question = Question::Status { service: service.map(str::to_owned) };
    let meant = |shown: &Shown| service.is_none_or(|name| *name == shown.service);
    while services.iter().any(&busy) {
        if Instant::now() >= until {
            let left: Vec<_> = services.iter().filter(|shown| busy(shown)).map(|shown| &shown.service[..]).collect();
            return Err(Failure::Failed(format!("{late}: {}", left.join(", "))));
        }
        thread::sleep(ASK_EVERY);
        let answers = ask(directory, &question)?;
        *services = answers.into_iter().flat_map(|answer| answer.services).filter(meant).collect();
    }
    Ok(())
}

/// Runs `gwm agent resume`.
pub(super) fn resume(args: ResumeArgs) -> Result<(), Failure> {
    let directory = args.directory.path();
    let question = Question::Resume { service: args.service.clone() };
    let mut services = order(&directory, &question, args.service.as_deref())?;
    if let Some(wait) = args.wait {
        let waits = |shown: &Shown| !shown.settled || shown.state != "up";
        await_all(&directory, &mut services, args.service.as_deref(), wait, waits, "not up in time")?;
    }
    say(&services, "resumed")
}

fn say(services: &[Shown], what: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    services.iter().try_for_each(|shown| writeln!(out, "{}: {what}", shown.service))?;
    Ok(())
}
