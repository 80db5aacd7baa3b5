//! The metrics registry of a node, and what is counted of every client request.
//!
//! Other rooms add their own metrics with [`Telemetry::register`]. Names carry no prefix there: the
//! registry puts `quorate_` before them, and the encoding `_total` behind counters.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Bounds of the latency buckets: 100 µs, doubled 17 times, to 13 s.
const LATENCY_BUCKETS: (f64, f64, u16) = (0.000_1, 2.0, 18);

/// Which requests, and what became of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Served {
    /// Service and method, as `Kv.Put`.
    pub method: &'static str,
    /// `ok`, `cancelled`, or the error code in lower case, as `no_leader`.
    pub outcome: &'static str,
}

/// The metrics of one node.
pub struct Telemetry {
    registry: Mutex<Registry>,
    requests: Family<Served, Counter>,
    request_seconds: Family<Served, Histogram>,
    /// Requests that hold one of the node's places.
    pub requests_in_flight: Gauge,
    /// Open connections on the client port.
    pub connections: Gauge,
    /// Connections closed at once because too many were open.
    pub connections_refused: Counter,
}

impl Default for Telemetry {
    fn default() -> Self {
        let telemetry = Self {
            registry: Mutex::new(Registry::with_prefix("quorate")),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(latencies),
            requests_in_flight: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
        };
        telemetry.register(|registry| {
            registry.register("api_requests", "Client requests by method and outcome", telemetry.requests.clone());
            registry.register(
                "api_request_seconds",
                "Time from a client request's headers to its answer",
                telemetry.request_seconds.clone(),
            );
            let in_flight = telemetry.requests_in_flight.clone();
            registry.register("api_requests_in_flight", "Client requests being executed", in_flight);
            registry.register("api_connections", "Open client connections", telemetry.connections.clone());
            let refused = telemetry.connections_refused.clone();
            registry.register("api_connections_refused", "Connections closed because too many were open", refused);
        });
        telemetry
    }
}

fn latencies() -> Histogram {
    let (start, factor, count) = LATENCY_BUCKETS;
    Histogram::new(exponential_buckets(start, factor, count))
}

impl Telemetry {
    /// Adds metrics to the registry.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// Counts one request.
    pub fn served(&self, what: &Served, took: Duration) {
        self.requests.get_or_create(what).inc();
        self.request_seconds.get_or_create(what).observe(took.as_secs_f64());
    }

    /// All metrics in the OpenMetrics text format, closed by `# EOF`.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a string fails only when a metric's own encoding does; what was written stays.
        if text::encode(&mut out, &self.registry.lock()).is_err() {
            tracing::warn!("a metric could not be encoded");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;

    use super::{Served, Telemetry};

    #[test]
    fn requests_are_counted_by_method_and_outcome() {
        let telemetry = Telemetry::default();
        let ok = Served { method: "Kv.Put", outcome: "ok" };
        telemetry.served(&ok, Duration::from_millis(3));
        telemetry.served(&ok, Duration::from_millis(3));
        telemetry.served(&Served { outcome: "timeout", ..ok }, Duration::from_secs(1));
        let text = telemetry.encode();
        for line in [
            r#"quorate_api_requests_total{method="Kv.Put",outcome="ok"} 2"#,
            r#"quorate_api_requests_total{method="Kv.Put",outcome="timeout"} 1"#,
            r#"quorate_api_request_seconds_count{method="Kv.Put",outcome="ok"} 2"#,
            r#"quorate_api_request_seconds_bucket{le="0.0016",method="Kv.Put",outcome="ok"} 0"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn others_add_metrics() {
        let telemetry = Telemetry::default();
        let groups: Counter = Counter::default();
        telemetry.register(|registry| registry.register("node_groups", "Groups", groups.clone()));
        groups.inc();
        assert!(telemetry.encode().contains("quorate_node_groups_total 1"));
    }
}
