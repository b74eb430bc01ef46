//! Streams of load reports (LRS): clients tell what they have seen of endpoints.

use super::*;
use crate::connect::xds::loads::{self, Reporter};

/// The one method.
pub(super) const PATH: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// The service.
pub(super) struct Reports(pub(super) Shared);

/// One stream with its peer.
struct Hearing {
    requests: Streaming<LoadStatsRequest>,
    shared: Shared,
    _place: OwnedSemaphorePermit,
    /// When the first request must have come; `None`: it has.
    first_by: Option<Instant>,
    reporter: Reporter,
}

impl StreamingService<LoadStatsRequest> for Reports {
    type Response = Bytes;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<tonic::Response<Responses>, Status>>;

    fn call(&mut self, requests: tonic::Request<Streaming<LoadStatsRequest>>) -> Self::Future {
        let Ok(place) = self.0.reports.clone().try_acquire_owned() else {
            return std::future::ready(Err(Status::resource_exhausted("too many streams")));
        };
        let hearing = Hearing {
            requests: requests.into_inner(),
            shared: self.0.clone(),
            _place: place,
            first_by: Some(Instant::now() + PATIENCE),
            reporter: self.0.loads.enter(),
        };
        let responses = futures_lite::stream::unfold(hearing, |mut hearing| async move {
            hearing.next().await.map(|response| (response, hearing))
        });
        std::future::ready(Ok(tonic::Response::new(Box::pin(responses))))
    }
}

impl Hearing {
    /// The one response comes after the first request; then the client reports.
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            let (first_by, stopping) = (self.first_by, &mut self.shared.stopping);
            let request = async { Event::Request(self.requests.next().await) };
            let end = async { Event::End(end(stopping, first_by).await) };
            match futures_lite::future::or(request, end).await {
                Event::End(status) => return Some(Err(status)),
                Event::Request(Some(Ok(request))) => {
                    let snapshot = self.shared.latest.borrow().clone();
                    if let Some(snapshot) = snapshot {
                        self.reporter.report(&request, &snapshot);
                    }
                    if self.first_by.take().is_some() {
                        return Some(Ok(loads::order().into()));
                    }
                }
                _ => return None,
            }
        }
    }
}
