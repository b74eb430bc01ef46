//! Every rule of the protocol page's sections 3 to 6 by itself, in literal requests and answers. The
//! interleavings of the rules are in `coordinator_model.rs`.

#[path = "coordinator_rules/codes.rs"]
mod codes;
#[path = "coordinator_rules/delta.rs"]
mod delta;
#[path = "coordinator_rules/flows.rs"]
mod flows;
#[path = "coordinator_rules/monitoring.rs"]
mod monitoring;
#[path = "coordinator_model/outbox.rs"]
mod outbox;
#[path = "coordinator_rules/push.rs"]
mod push;
#[path = "coordinator_rules/rig.rs"]
mod rig;
#[path = "coordinator_rules/rights.rs"]
mod rights;
#[path = "coordinator_rules/sessions.rs"]
mod sessions;
#[path = "coordinator_rules/tables.rs"]
mod tables;
#[path = "coordinator_model/wire.rs"]
mod wire;
