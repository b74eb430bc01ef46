//! HTTP for admin sides: listeners, who may ask, TLS, answers, metrics as text. A [`Site`] has the paths and what they
//! answer.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`guard`] | which hosts and origins may ask |
//! | [`gate`] | who may ask: TLS, the token, the number of connections |
//! | `connections` | the connections: which one ends when there are too many |
//! | `guarded_io` | a peer that takes or sends nothing for too long ends its connection |
//! | [`sockets`] | the listeners, UNIX and TCP |
//! | [`server`] | the thread, accepting, HTTP |
//! | [`requests`] | whether a request may be answered, and its body |
//! | [`answers`] | answers, and why a request is refused |
//! | [`exposition`] | metrics as text |

pub mod answers;
mod connections;
pub mod exposition;
pub mod gate;
pub mod guard;
mod guarded_io;
pub mod requests;
pub mod server;
pub mod sockets;

use std::{future::Future, sync::Arc};

use axum::{body::Body, extract::Request, http};

pub use answers::{Problem, Response};
pub use connections::Connection;
pub use gate::Gate;

/// A path, and whether it is for POST (else for GET and HEAD).
pub type Row<Route> = (&'static str, Route, bool);

/// What is served: paths, and their answers.
pub trait Site: Send + Sync + Sized + 'static {
    /// A path.
    type Route: Copy + Send + Sync + 'static;

    /// Every path.
    const ROUTES: &'static [Row<Self::Route>];

    /// What a client is told that asks for another path.
    const UNKNOWN: &'static str;

    /// Who may ask.
    fn gate(&self) -> &Gate;

    /// Whether the path needs no token.
    fn is_open(route: Self::Route) -> bool;

    /// Whether links of other sites may lead to the path: it has no data.
    fn is_page(route: Self::Route) -> bool;

    /// Answers a request that may be answered.
    fn answer(
        self: &Arc<Self>,
        route: Self::Route,
        request: Request,
    ) -> impl Future<Output = Result<http::Response<Body>, Problem>> + Send;

    /// What runs on the thread beside the requests.
    fn run(self: Arc<Self>) -> impl Future<Output = ()> {
        std::future::pending()
    }
}
