//! `gwm quiesce`, `gwm resume` and `gwm weight`: an operator's words to a running daemon, each with a reason.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Flags, Place, candidates, place};
use crate::cli::target::{self, Failure};

/// The text below the flags in `--help`.
const HELP: &str = "\
The daemon answers by its admin side (gwm serve --admin-listen). gwm-admin(7) says how what operators say goes with what \
others say.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 done, but no member matches now: a wrong address, or a member that comes \
later.";

/// The exit status of what is done, and no member matches it now.
const NOBODY: u8 = 3;

/// Why, and who.
#[derive(clap::Args)]
struct Reason {
    /// Why: for the daemon's log, and for others who look
    #[arg(long, env = "GWM_REASON_TEXT", value_name = "TEXT")]
    reason: String,
    /// Who: for the daemon's log, and for others who look
    #[arg(long, env = "GWM_BY", value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    daemon: Flags,
}

/// Which members: what is left out matches all.
#[derive(clap::Args)]
struct Pattern {
    /// The member: IP:PORT (TCP), `[IPv6]:PORT/udp`, IP:PORT/NUMBER; or IP alone: all at this address
    #[arg(value_name = "MEMBER", value_parser = place, add = candidates::members())]
    member: Option<Place>,
    /// Members of groups with this name
    #[arg(long, env = "GWM_GROUP", value_name = "NAME", add = candidates::groups())]
    group: Option<String>,
    /// Members of this load balancer's groups
    #[arg(long, env = "GWM_LB", value_name = "UID", add = candidates::load_balancers())]
    lb: Option<String>,
    /// All members; needed if nothing else says which
    #[arg(long, env = "GWM_ALL", value_parser = clap::builder::FalseyValueParser::new())]
    all: bool,
}

/// A year: the longest that a word lasts before it ends by itself.
const YEAR: Duration = Duration::from_secs(365 * 86400);

/// Parses how long a word lasts: the daemon takes whole seconds.
fn lasts(text: &str) -> Result<Duration, String> {
    let how = "write 1s to 365d in whole seconds, such as 90s, 30m or 2h";
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; {how}"))?;
    match (Duration::from_secs(1)..=YEAR).contains(&time) && time.subsec_nanos() == 0 {
        true => Ok(time),
        false => Err(how.into()),
    }
}

/// Flags of `gwm quiesce`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct QuiesceArgs {
    #[command(flatten)]
    pattern: Pattern,
    /// End by itself after this time: 1s to 365d in whole seconds [default: when it is resumed]
    #[arg(long = "for", env = "GWM_FOR", value_name = "DURATION", value_parser = lasts)]
    lasts: Option<Duration>,
    #[command(flatten)]
    reason: Reason,
}

/// Flags of `gwm resume`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct ResumeArgs {
    #[command(flatten)]
    pattern: Pattern,
    #[command(flatten)]
    reason: Reason,
}

/// Flags of `gwm weight`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct WeightArgs {
    /// The member: IP:PORT (TCP), `[IPv6]:PORT/udp`, IP:PORT/NUMBER; or IP alone: all at this address
    #[arg(value_name = "MEMBER", value_parser = place, add = candidates::members())]
    member: Place,
    /// The weight: 0 to 65535, and at most the daemon's --weight-max
    #[arg(value_name = "WEIGHT", required_unless_present = "release", conflicts_with = "release")]
    weight: Option<u16>,
    /// Let checks and agents decide again
    #[arg(long, env = "GWM_RELEASE", value_parser = clap::builder::FalseyValueParser::new())]
    release: bool,
    /// End by itself after this time: 1s to 365d in whole seconds [default: when it is released]
    #[arg(long = "for", env = "GWM_FOR", value_name = "DURATION", conflicts_with = "release", value_parser = lasts)]
    lasts: Option<Duration>,
    #[command(flatten)]
    reason: Reason,
}

/// Runs `gwm quiesce`.
pub fn quiesce(args: QuiesceArgs) -> ExitCode {
    finish(args.pattern.body().and_then(|mut body| {
        last(&mut body, args.lasts);
        args.reason.say("members/quiesce", body)
    }))
}

/// Runs `gwm resume`.
pub fn resume(args: ResumeArgs) -> ExitCode {
    finish(args.pattern.body().and_then(|body| args.reason.say("members/resume", body)))
}

/// Runs `gwm weight`.
pub fn weight(args: WeightArgs) -> ExitCode {
    let mut body = json!({});
    add(&mut body, &args.member);
    let path = match args.weight {
        Some(weight) => {
            body["weight"] = weight.into();
            last(&mut body, args.lasts);
            "members/fix-weight"
        }
        None => "members/release-weight",
    };
    finish(args.reason.say(path, body))
}

/// The exit status of what was said, if a member matches.
fn finish(said: Result<bool, Failure>) -> ExitCode {
    match said {
        Ok(false) => ExitCode::from(NOBODY),
        done => target::finish(done.map(|_| ())),
    }
}

impl Pattern {
    fn body(&self) -> Result<Value, Failure> {
        let is_narrow = self.member.is_some() || self.group.is_some() || self.lb.is_some();
        if is_narrow == self.all {
            return Err(Failure::Usage("say which members: MEMBER, --group, --lb; or --all for every member".into()));
        }
        let mut body = json!({});
        if let Some(place) = &self.member {
            add(&mut body, place);
        }
        for (name, value) in [("group", &self.group), ("load_balancer", &self.lb)] {
            if let Some(value) = value {
                body[name] = value.as_str().into();
            }
        }
        Ok(body)
    }
}

fn add(body: &mut Value, place: &Place) {
    body["address"] = place.address.as_str().into();
    if let Some((port, protocol)) = &place.service {
        body["port"] = (*port).into();
        body["protocol"] = protocol.as_str().into();
    }
}

fn last(body: &mut Value, lasts: Option<Duration>) {
    if let Some(lasts) = lasts {
        body["expires_in_seconds"] = lasts.as_secs().into();
    }
}

impl Reason {
    /// Says it to the daemon, and prints what the daemon did; false if no member matches now.
    fn say(self, path: &str, mut body: Value) -> Result<bool, Failure> {
        body["reason"] = self.reason.into();
        if let Some(by) = self.by {
            body["by"] = by.into();
        }
        let done = self.daemon.daemon()?.post(path, &body)?;
        writeln!(io::stdout(), "{}", done["done"].as_str().unwrap_or_default())?;
        Ok(done["matches_now"] != false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_lasts_whole_seconds() {
        assert_eq!(lasts("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(lasts("365d"), Ok(YEAR));
        for wrong in ["1500ms", "366d", "0s", "500ms", "1s 1ns", "soon"] {
            let error = lasts(wrong).expect_err(wrong);
            assert!(error.contains("write 1s to 365d in whole seconds"), "{error}");
        }
    }
}
