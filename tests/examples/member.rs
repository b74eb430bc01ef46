//! A server that speaks for itself: it joins a group of the example `load_balancer`, and leaves when its stdin ends.
//!
//! ```sh
//! cargo run --example member -- 127.0.0.1:3860 web 10.0.0.3:80
//! ```

use std::{env, error::Error, io, time::Duration};

use gwm::{
    client::{Client, spec},
    sasp::{GroupData, MemberData, MemberFlags, MemberState, Reason, SenderFlags},
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [gwm, group, member] = &arguments[..] else { return Err("usage: member GWM GROUP MEMBER".into()) };
    let mut client = Client::connect(gwm, Duration::from_secs(5))?;
    let group = GroupData { lb_uid: b"EXAMPLE", name: group.as_bytes() };
    let member = MemberData { endpoint: spec::endpoint(member)?, label: b"" };

    client.register(SenderFlags::NONE, [(group, [member])])?;
    println!("registered");
    io::copy(&mut io::stdin(), &mut io::sink())?;

    // No new work; what the server has goes on. A server waits here until its connections have ended.
    let quiesced = MemberState { member, state: 0, flags: MemberFlags::QUIESCE };
    client.set_member_state(SenderFlags::NONE, [(group, [quiesced])])?;
    println!("quiesced");

    client.deregister(SenderFlags::NONE, Reason::PURPOSEFUL, [(group, [member])])?;
    println!("deregistered");
    Ok(())
}
