//! The member's side: `gwm agent` keeps the services of a host registered with GWMs, and lets them leave without a lost
//! request.
//!
//! A service is what one local check is about: some endpoints, in some groups of some load balancers. [`service`] has what
//! is known of each one; threads write what they find out there, and its [`Bell`](service::Bell) wakes those who act on it.
//! What to ask a GWM, and when, is decided by [`membership`] and [`machine`], which do no I/O.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `children` | processes that the agent started |
//! | `check` | whether a service answers on this host |
//! | `opaque` | the opaque state of SASP |
//! | `settings` | what the user wants of each service |
//! | `service` | what is known of each service |
//! | `services` | all services, and what a reload of the file changes |
//! | `watch` | the thread that checks one service |
//! | `membership` | one place in one group at one GWM: what to ask next |
//! | `machine` | all memberships at one GWM, and when to connect |
//! | `claims` | what agents of this host have registered |
//! | `quiesced` | what a person has quiesced |
//! | `link` | the thread that speaks with one GWM |
//! | `connections` | how many connections a service has |
//! | `drain`, `leave` | when a service that leaves may be deregistered |
//! | `pulse` | whether the threads go on |
//! | `pages` | pages of the binary that only the start has used |
//! | `control` | the socket for `gwm agent status`, `quiesce`, `resume` |
//! | [`load`] | how each service is: CPU, memory, pressure, requests |
//! | [`answers`] | what is told to those who ask |
//! | `config` | flags and files → `settings` |
//! | `supervisor` | the main thread: start, signals, the service that was started, the end |

pub mod answers;
pub mod check;
pub mod children;
pub mod claims;
pub mod config;
pub mod connections;
pub mod control;
mod drain;
mod leave;
mod link;
pub mod load;
pub mod machine;
pub mod membership;
pub mod opaque;
pub mod pages;
pub mod pulse;
pub mod quiesced;
pub mod service;
pub mod services;
pub mod settings;
pub mod supervisor;
mod watch;
