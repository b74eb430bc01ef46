//! Looks for connections that are overdue, and the end of a shard that stops.

use std::{future::Future, pin::Pin, task::Poll, time::Duration};

use glommio::timer::Timer;

use super::context::Context;
use crate::runtime::machine::executor;

/// Asks for a look at timeouts now and then; returns when all connections have ended, or have to.
pub(super) async fn watch_timeouts(context: &Context) {
    let limits = &context.limits;
    let shortest =
        [limits.stall_timeout, limits.first_message_timeout, limits.message_timeout, limits.handshake_timeout]
            .into_iter()
            .min()
            .expect("there are some");
    let tick = (shortest / 4).clamp(Duration::from_millis(10), executor::HEARTBEAT);
    loop {
        let now = context.now();
        let stop_by = context.stop_by();
        let pause = stop_by.map_or(tick, |by| tick.min(Duration::from_nanos(by.0.saturating_sub(now.0))));
        let mut timer = Timer::new(pause);
        std::future::poll_fn(|cx| match context.ended.poll(cx, || context.has_drained()) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => Pin::new(&mut timer).poll(cx).map(|_| ()),
        })
        .await;
        if context.has_drained() {
            return;
        }
        if context.now() >= now + pause + executor::HEARTBEAT {
            // This process stood still, not its peers: what they sent and took meanwhile is handled first.
            executor::sleep(executor::HEARTBEAT).await;
        }
        let now = context.now();
        if stop_by.is_some_and(|by| now >= by) {
            let open = context.open_connections();
            tracing::warn!(shard = context.index, "stopping with {open} connections that did not end in time");
            return;
        }
        context.ask_for_sweep(now);
        context.log_suppressed(now);
    }
}
