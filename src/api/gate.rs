//! What every request of ours passes before a service sees it: its deadline, a place among the
//! requests in flight, the length of its message; and on the way back the count of what became of it.
//!
//! Answers that tonic makes by itself (a message that does not decode) get our details here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};
use tracing::Instrument;

use super::call::{Call, Method, deadline};
use super::{error, etcd};
use crate::env::time::{self, Instant};
use crate::node::{Failure, Served, Telemetry};
use crate::proto::v1::ErrorCode;

/// How long after its deadline a request may still be answered by the service itself.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// Bytes before a gRPC message: a flag and its length.
const PREFIX_BYTES: usize = 5;

/// Admits requests.
pub(super) struct Gate {
    places: Arc<Semaphore>,
    places_max: usize,
    telemetry: Arc<Telemetry>,
}

impl Gate {
    pub(super) fn new(places_max: usize, telemetry: Arc<Telemetry>) -> Self {
        let places_max = places_max.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places_max)), places_max, telemetry }
    }

    fn place(&self) -> Result<Place, Failure> {
        let max = self.places_max;
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{max} requests are in flight on this node, as many as requests_in_flight_max allows: \
                 back off and send again, or ask another node"
            );
            let value = max as u64;
            error::limit(ErrorCode::Overloaded, "requests_in_flight_max", value, value.saturating_add(1), message)
        })?;
        let gauge = self.telemetry.requests_in_flight.clone();
        gauge.inc();
        Ok(Place { gauge, _permit: permit })
    }

    async fn admit(
        &self,
        method: &'static Method,
        arrival: Instant,
        mut request: Request,
        next: Next,
    ) -> Result<(Response, &'static str), Failure> {
        let deadline = deadline(method, request.headers(), arrival)?;
        let _place = if method.placed { Some(self.place()?) } else { None };
        let call = Arc::new(Call::new(method, deadline));
        request.extensions_mut().insert(Arc::clone(&call));
        let request = request.map(|body| measured(body, Arc::clone(&call)));
        let answered = time::timeout_at(deadline + ANSWER_GRACE, next.run(request)).await;
        verdict(&call, answered.map_err(|_| call.overdue())?)
    }
}

/// The middleware around our gRPC services.
pub(super) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let Some(method) = Method::find(request.uri().path()) else { return next.run(request).await };
    let arrival = time::now();
    let mut count = Count { telemetry: &gate.telemetry, method: method.label, arrival, outcome: "cancelled" };
    let span = tracing::debug_span!("request", method = method.label);
    let admitted = gate.admit(method, arrival, request, next).instrument(span.clone()).await;
    let _entered = span.enter();
    let response = match admitted {
        Ok((response, outcome)) => {
            count.outcome = outcome;
            response
        }
        Err(failure) => {
            count.outcome = error::label(failure.detail.code());
            tracing::debug!(%failure, "refused");
            let status = if method.etcd { etcd::error::status(&failure) } else { error::status(&failure) };
            status.into_http()
        }
    };
    tracing::debug!(outcome = count.outcome, "answered");
    response
}

/// What an answer means: the answer and its name in metrics, or the failure to send in its place.
fn verdict(call: &Call, response: Response) -> Result<(Response, &'static str), Failure> {
    if let Some(oversize) = call.oversize() {
        return Err(oversize);
    }
    if let Some(code) = call.failed() {
        return Ok((response, error::label(code)));
    }
    let refused = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok);
    match refused {
        None => Ok((response, "ok")),
        Some(status) if status.code() == Code::Unimplemented => Ok((response, "unimplemented")),
        Some(status) if call.entered() => Err(internal(call, &status)),
        Some(status) => {
            let message = format!("the request cannot be decoded: {}", status.message());
            Err(Failure::refused(ErrorCode::InvalidArgument, message))
        }
    }
}

/// The face and the transport disagree: nothing is known of a write.
fn internal(call: &Call, status: &Status) -> Failure {
    let message = format!("{} was executed but cannot be answered: {}", call.method().label, status.message());
    tracing::error!(message);
    let fail = if call.method().write { Failure::unknown } else { Failure::refused };
    fail(ErrorCode::Internal, message)
}

/// Passes a body on and tells the call how long its message says it is.
fn measured(body: Body, call: Arc<Call>) -> Body {
    let (mut prefix, mut filled) = ([0_u8; PREFIX_BYTES], 0);
    Body::new(body.map_frame(move |frame| {
        if let Some(data) = frame.data_ref().filter(|_| filled < PREFIX_BYTES) {
            for (slot, byte) in prefix.iter_mut().skip(filled).zip(data) {
                *slot = *byte;
                filled += 1;
            }
            if filled == PREFIX_BYTES {
                let [_, length @ ..] = prefix;
                call.declare(u64::from(u32::from_be_bytes(length)));
            }
        }
        frame
    }))
}

/// One of the node's places, given back when dropped.
struct Place {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Counts the request when it ends, also when its client went away.
struct Count<'a> {
    telemetry: &'a Telemetry,
    method: &'static str,
    arrival: Instant,
    outcome: &'static str,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        let took = time::now().saturating_duration_since(self.arrival);
        self.telemetry.served(&Served { method: self.method, outcome: self.outcome }, took);
    }
}
