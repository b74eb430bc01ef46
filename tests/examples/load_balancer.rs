//! A load balancer: it registers a group, and prints what share of the work each member gets, whenever that changes.
//!
//! With a daemon (`gwm serve`), and the example `member` as a member that comes and goes:
//!
//! ```sh
//! cargo run --example load_balancer -- 127.0.0.1:3860 web=10.0.0.1:80,10.0.0.2:80
//! ```

use std::{env, error::Error, time::Duration};

use gwm::{
    client::{
        Client, Weights,
        session::{Session, Wishes},
        spec,
    },
    sasp::{Escaped, Health, LbFlags},
};

/// How long the GWM may take for a reply.
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [gwm, group] = &arguments[..] else { return Err("usage: load_balancer GWM GROUP=MEMBER,...".into()) };
    let wishes = Wishes {
        uid: spec::lb_uid("EXAMPLE")?,
        groups: vec![spec::group(group)?],
        health: Health::BEST,
        // The GWM sends changes by itself, and members may register themselves.
        flags: LbFlags::PUSH | LbFlags::TRUST,
    };
    let mut session = Session::open(Client::connect(gwm, TIMEOUT)?, TIMEOUT, &wishes)?;
    loop {
        show(session.weights());
        // False if nothing has changed for so long; an error if the connection has ended.
        while !session.next_push(Duration::from_secs(60))? {}
    }
}

fn show(weights: &Weights) {
    for group in weights.groups() {
        let shares = group.shares();
        for (at, member) in group.members().iter().enumerate() {
            let share = match &shares {
                Some(shares) => format!("{:.0} %", shares[at] * 100.0),
                // The GWM is confident of no member: a load balancer uses its own means.
                None => "as usual".into(),
            };
            println!("{} {} {share}", Escaped(group.name()), member.endpoint);
        }
    }
}
