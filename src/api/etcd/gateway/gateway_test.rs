//! The gateway in front of services that do as the test tells them. The JSON is what etcd 3.4 says and takes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status, Streaming};
use tower_service::Service;

use super::paths::PATHS;
use super::router;
use crate::env::time;
use crate::proto::REFLECTION;
use crate::proto::etcd::etcdserverpb::kv_server::{Kv, KvServer};
use crate::proto::etcd::etcdserverpb::lease_server::{Lease, LeaseServer};
use crate::proto::etcd::etcdserverpb::watch_server::{Watch, WatchServer};
use crate::proto::etcd::etcdserverpb::{self as pb, compare, request_op, response_op, watch_request};
use crate::proto::etcd::mvccpb;
use crate::types::limits;

type Answer<T> = Result<tonic::Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Keeps what it is asked; the key of a request says how to answer.
#[derive(Default)]
struct Fake {
    ranges: Mutex<Vec<pb::RangeRequest>>,
    puts: Mutex<Vec<pb::PutRequest>>,
    txns: Mutex<Vec<pb::TxnRequest>>,
    metadata: Mutex<MetadataMap>,
    /// Told when the requests of a watch have ended.
    ended: Arc<Notify>,
}

fn header() -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: 7, raft_term: 2 })
}

fn record() -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: "a".into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: Bytes::from_static(b"\xff\xfe"),
        lease: 0,
    }
}

#[tonic::async_trait]
impl Kv for Fake {
    async fn range(&self, request: tonic::Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        *self.metadata.lock() = request.metadata().clone();
        let request = request.into_inner();
        let key = request.key.clone();
        self.ranges.lock().push(request);
        if let Some(code) = key.strip_prefix(b"fail ") {
            let code: i32 = std::str::from_utf8(code).expect("text").parse().expect("a number");
            return Err(Status::new(code.into(), "as asked"));
        }
        let kvs = if key == "a" { vec![record()] } else { Vec::new() };
        let count = i64::try_from(kvs.len()).expect("few");
        let mut answer = tonic::Response::new(pb::RangeResponse { header: header(), kvs, more: false, count });
        answer.metadata_mut().insert("quorate-shard", "g2".parse().expect("a value"));
        Ok(answer)
    }

    async fn put(&self, request: tonic::Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        let request = request.into_inner();
        let prev_kv = request.prev_kv.then(record);
        self.puts.lock().push(request);
        Ok(tonic::Response::new(pb::PutResponse { header: header(), prev_kv }))
    }

    async fn txn(&self, request: tonic::Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        self.txns.lock().push(request.into_inner());
        let put = pb::PutResponse { header: Some(pb::ResponseHeader::default()), prev_kv: None };
        let nested = pb::TxnResponse { header: None, succeeded: false, responses: Vec::new() };
        let responses = [response_op::Response::ResponsePut(put), response_op::Response::ResponseTxn(nested)];
        let responses = responses.map(|response| pb::ResponseOp { response: Some(response) }).into();
        Ok(tonic::Response::new(pb::TxnResponse { header: header(), succeeded: true, responses }))
    }

    async fn delete_range(&self, _: tonic::Request<pb::DeleteRangeRequest>) -> Answer<pb::DeleteRangeResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn compact(&self, _: tonic::Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        Ok(tonic::Response::new(pb::CompactionResponse::default()))
    }
}

#[tonic::async_trait]
impl Watch for Fake {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(&self, request: tonic::Request<Streaming<pb::WatchRequest>>) -> Answer<Self::WatchStream> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.request_union);
        let Some(watch_request::RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("no watch"));
        };
        let created = pb::WatchResponse { header: header(), created: true, ..Default::default() };
        let deleted = mvccpb::Event { r#type: 1, kv: Some(record()), prev_kv: None };
        let changed = pb::WatchResponse { watch_id: 1, events: vec![deleted], ..Default::default() };
        let broken = Status::unavailable("the node stops");
        match create.key.as_ref() {
            b"refused" => Err(Status::permission_denied("not yours")),
            b"broken" => Ok(tonic::Response::new(Box::pin(stream::iter([Ok(created), Err(broken)])))),
            b"failed" => Ok(tonic::Response::new(Box::pin(stream::iter([Err(broken)])))),
            _ => {
                // Ends with the requests, as a service may.
                let ended = Arc::clone(&self.ended);
                tokio::spawn(async move {
                    while let Ok(Some(_)) = requests.message().await {}
                    ended.notify_one();
                });
                let ended = Arc::clone(&self.ended);
                let until = stream::once(async move { ended.notified().await }).filter_map(|()| async { None });
                Ok(tonic::Response::new(Box::pin(stream::iter([Ok(created), Ok(changed)]).chain(until))))
            }
        }
    }
}

#[tonic::async_trait]
impl Lease for Fake {
    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: tonic::Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let answers = request
            .into_inner()
            .map(|request| request.map(|request| pb::LeaseKeepAliveResponse { header: None, id: request.id, ttl: 5 }));
        Ok(tonic::Response::new(Box::pin(answers)))
    }

    async fn lease_grant(&self, _: tonic::Request<pb::LeaseGrantRequest>) -> Answer<pb::LeaseGrantResponse> {
        Ok(tonic::Response::new(pb::LeaseGrantResponse { id: i64::MIN, ttl: -1, ..Default::default() }))
    }

    async fn lease_revoke(&self, _: tonic::Request<pb::LeaseRevokeRequest>) -> Answer<pb::LeaseRevokeResponse> {
        Err(Status::not_found("etcdserver: requested lease not found"))
    }

    async fn lease_time_to_live(
        &self,
        _: tonic::Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        let keys = vec!["a".into(), Bytes::new()];
        Ok(tonic::Response::new(pb::LeaseTimeToLiveResponse { keys, granted_ttl: 9, ..Default::default() }))
    }

    async fn lease_leases(&self, _: tonic::Request<pb::LeaseLeasesRequest>) -> Answer<pb::LeaseLeasesResponse> {
        let leases = vec![pb::LeaseStatus { id: 0 }, pb::LeaseStatus { id: 7 }];
        Ok(tonic::Response::new(pb::LeaseLeasesResponse { header: None, leases }))
    }
}

struct Bed {
    fake: Arc<Fake>,
    gateway: Router,
}

impl Bed {
    fn new() -> Self {
        let fake = Arc::new(Fake::default());
        let services = Router::new()
            .route_service("/etcdserverpb.KV/{*method}", KvServer::from_arc(Arc::clone(&fake)))
            .route_service("/etcdserverpb.Watch/{*method}", WatchServer::from_arc(Arc::clone(&fake)))
            .route_service("/etcdserverpb.Lease/{*method}", LeaseServer::from_arc(Arc::clone(&fake)));
        Self { fake, gateway: router(&services).expect("descriptors") }
    }

    async fn send(&self, request: Request) -> Response {
        self.gateway.clone().call(request).await.expect("infallible")
    }

    async fn open(&self, path: &str, body: impl Into<Body>) -> Response {
        let request = Request::post(path).body(body.into()).expect("a request");
        self.send(request).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let response = self.open(path, body).await;
        let (status, kind) = (response.status(), response.headers().get("content-type").cloned());
        assert_eq!(kind.expect("a content type"), "application/json");
        (status, text(response).await)
    }

    async fn json(&self, path: &str, body: Value) -> Value {
        let (status, text) = self.post(path, body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn range(&self) -> pb::RangeRequest {
        self.fake.ranges.lock().pop().expect("a range")
    }
}

async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.into()).expect("text")
}

const HEADER: &str = r#"{"cluster_id":"18446744073709551615","member_id":"1","revision":"7","raft_term":"2"}"#;

#[tokio::test]
async fn answers_have_original_names_strings_for_wide_integers_and_no_defaults() {
    let bed = Bed::new();
    let (status, body) = bed.post("/v3/kv/range", r#"{"key":"YQ=="}"#).await;
    let kv = r#"{"key":"YQ==","create_revision":"2","mod_revision":"3","version":"2","value":"//4="}"#;
    assert_eq!((status, body), (StatusCode::OK, format!(r#"{{"header":{HEADER},"kvs":[{kv}],"count":"1"}}"#)));
    let (_, body) = bed.post("/v3/kv/range", r#"{"key":"Yg=="}"#).await;
    assert_eq!(body, format!(r#"{{"header":{HEADER}}}"#));
    let (_, body) = bed.post("/v3/kv/put", r#"{"key":"YQ==","prev_kv":true}"#).await;
    assert_eq!(body, format!(r#"{{"header":{HEADER},"prev_kv":{kv}}}"#));
    let (_, body) = bed.post("/v3/kv/compaction", r#"{"revision":"1"}"#).await;
    assert_eq!(body, "{}");
    let (_, body) = bed.post("/v3/lease/grant", r#"{"TTL":"1"}"#).await;
    assert_eq!(body, r#"{"ID":"-9223372036854775808","TTL":"-1"}"#);
    let (_, body) = bed.post("/v3/kv/lease/timetolive", r#"{"ID":"1","keys":true}"#).await;
    assert_eq!(body, r#"{"grantedTTL":"9","keys":["YQ==",""]}"#);
    let (_, body) = bed.post("/v3/lease/leases", "").await;
    assert_eq!(body, r#"{"leases":[{},{"ID":"7"}]}"#);
}

#[tokio::test]
async fn both_spellings_both_alphabets_and_either_form_of_numbers_are_read() {
    let bed = Bed::new();
    let wanted = pb::RangeRequest {
        key: Bytes::from_static(b"\xfb\xff"),
        range_end: Bytes::from_static(b"\0"),
        limit: i64::MAX,
        sort_order: 2,
        sort_target: 3,
        keys_only: true,
        ..Default::default()
    };
    for body in [
        json!({"key": "+/8=", "range_end": "AA==", "limit": "9223372036854775807", "sort_order": "DESCEND",
            "sort_target": "MOD", "keys_only": true}),
        json!({"key": "-_8", "rangeEnd": "AA", "limit": i64::MAX, "sortOrder": 2, "sortTarget": 3, "keysOnly": true}),
        json!({"key": "+/8=\n", "range_end": "AA==\r\n", "limit": i64::MAX, "sort_order": "DESCEND", "sort_target": 3,
            "keys_only": true, "count_only": null, "revision": "0", "unknown": {"deep": [[1, "x"]]}}),
    ] {
        bed.json("/v3/kv/range", body.clone()).await;
        assert_eq!(bed.range(), wanted, "{body}");
    }
    bed.json("/v3/kv/range", json!({"key": "YQ==", "sort_order": 77})).await;
    assert_eq!(bed.range().sort_order, 77, "the service judges numbers");
    for empty in ["", " \n", "null", "{}"] {
        assert_eq!(bed.post("/v3/kv/range", empty).await.0, StatusCode::OK);
        assert_eq!(bed.range(), pb::RangeRequest::default(), "{empty:?}");
    }
}

#[tokio::test]
async fn a_transaction_goes_there_and_back() {
    let bed = Bed::new();
    let answer = bed
        .json(
            "/v3/kv/txn",
            json!({
                "compare": [{"key": "YQ==", "target": "VALUE", "result": "NOT_EQUAL", "value": "", "x": 1}],
                "success": [{"requestPut": {"key": "YQ==", "ignore_lease": true, "x": 1}}],
                "failure": [{"request_txn": {"success": [{"request_range": {"key": "Yg=="}}]}}, {}],
            }),
        )
        .await;
    let header: Value = serde_json::from_str(HEADER).expect("JSON");
    let responses = json!([{"response_put": {"header": {}}}, {"response_txn": {}}]);
    assert_eq!(answer, json!({"header": header, "succeeded": true, "responses": responses}));

    let range = pb::RangeRequest { key: "b".into(), ..Default::default() };
    let range = pb::RequestOp { request: Some(request_op::Request::RequestRange(range)) };
    let nested = pb::TxnRequest { success: vec![range], ..Default::default() };
    let put = pb::PutRequest { key: "a".into(), ignore_lease: true, ..Default::default() };
    let compare = pb::Compare {
        result: 3,
        target: 3,
        key: "a".into(),
        target_union: Some(compare::TargetUnion::Value(Bytes::new())),
        range_end: Bytes::new(),
    };
    let wanted = pb::TxnRequest {
        compare: vec![compare],
        success: vec![pb::RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
        failure: vec![
            pb::RequestOp { request: Some(request_op::Request::RequestTxn(nested)) },
            pb::RequestOp { request: None },
        ],
    };
    assert_eq!(bed.fake.txns.lock().pop().expect("a transaction"), wanted);
}

#[tokio::test]
async fn a_failed_call_keeps_its_code_and_has_the_http_code_of_grpc_gateway() {
    let bed = Bed::new();
    let codes = [408, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
    for (code, http) in (1..).zip(codes) {
        let key = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("fail {code}"));
        let (status, body) = bed.post("/v3/kv/range", json!({"key": key}).to_string()).await;
        assert_eq!(status.as_u16(), http, "{:?}", Code::from(code));
        assert_eq!(body, format!(r#"{{"error":"as asked","message":"as asked","code":{code}}}"#));
    }
    let (status, body) = bed.post("/v3/cluster/member/list", "{}").await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "no such service: {body}");
}

#[tokio::test]
async fn what_is_malformed_is_refused_before_any_service_sees_it() {
    let bed = Bed::new();
    let deep = |open: &str, close: &str| format!(r#"{{"x":{}{}}}"#, open.repeat(10_000), close.repeat(10_000));
    let (arrays, objects, cut) = (deep("[", "]"), deep(r#"{"x":"#, "}"), "[".repeat(1_000_000));
    let unknown = format!(r#"{{"sort_order":"{}"}}"#, "é".repeat(500_000));
    for body in [
        r#"{"key":"#,
        r#"{"key":"Y"}"#,
        r#"{"key":"Y Q=="}"#,
        r#"{"key":"+_8="}"#,
        r#"{"key":5}"#,
        r#"{"key":{}}"#,
        r#"{"key":["YQ=="]}"#,
        r#"{"limit":1.5}"#,
        r#"{"limit":"x"}"#,
        r#"{"limit":99999999999999999999}"#,
        r#"{"limit":true}"#,
        r#"{"serializable":"true"}"#,
        r#"{"sort_order":"UP"}"#,
        r#"{"sort_order":"2"}"#,
        r#"{"sort_order":3000000000}"#,
        r#"{"key":"YQ=="} x"#,
        r#"{"key":"YQ=="}{}"#,
        "{a:1}",
        "[]",
        "5",
        "\"x\"",
        "\u{feff}{}",
        "\0",
        &arrays,
        &objects,
        &cut,
        &unknown,
    ] {
        let start: String = body.chars().take(40).collect();
        let (status, text) = bed.post("/v3/kv/range", body.to_owned()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{start}");
        let error: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(error["code"], 3, "{start}");
        assert_eq!(error["error"], error["message"]);
        let message = error["message"].as_str().expect("text");
        assert!(!message.is_empty() && message.len() <= limits::ERROR_MESSAGE_BYTES_MAX, "{start}: {message}");
    }
    for body in [r#"{"success":[5]}"#, r#"{"success":{}}"#, r#"{"success":[{"request_put":{},"request_range":{}}]}"#] {
        assert_eq!(bed.post("/v3/kv/txn", body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    let invalid = bed.post("/v3/kv/range", &b"{\"key\":\"\xff\"}"[..]).await;
    assert_eq!(invalid.0, StatusCode::BAD_REQUEST, "not UTF-8");
    for path in ["/v3/watch", "/v3/lease/keepalive", "/v3/election/observe", "/v3/maintenance/snapshot"] {
        let (status, text) = bed.post(path, "{").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(text.ends_with(r#","code":3}"#), "{text}");
    }
    let many = r#"{"ID":1}"#.repeat(1_000);
    assert_eq!(bed.post("/v3/lease/keepalive", many).await.0, StatusCode::BAD_REQUEST);
    assert!(bed.fake.ranges.lock().is_empty() && bed.fake.txns.lock().is_empty());
}

#[tokio::test]
async fn a_body_has_a_largest_size() {
    let bed = Bed::new();
    let body = |length: usize| format!(r#"{{"key":"YQ==","value":"{}"}}"#, "A".repeat(length - 25));
    let (status, text) = bed.post("/v3/kv/put", body(limits::GATEWAY_BODY_BYTES_MAX + 4)).await;
    let message = "etcdserver: request is too large";
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(text, format!(r#"{{"error":"{message}","message":"{message}","code":3}}"#));
    assert!(bed.fake.puts.lock().is_empty());

    let value = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, vec![7; limits::VALUE_BYTES_MAX]);
    bed.json("/v3/kv/put", json!({"key": "YQ==", "value": value})).await;
    assert_eq!(bed.fake.puts.lock().pop().expect("a put").value.len(), limits::VALUE_BYTES_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let bed = Bed::new();
    let (status, text) = bed.post("/v3/kv/range", Body::from_stream(stream::pending::<Result<Bytes, Status>>())).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert!(text.ends_with(r#","code":4}"#), "{text}");
}

#[tokio::test]
async fn a_watch_sends_a_line_for_each_message_until_its_client_leaves() {
    let bed = Bed::new();
    let create = json!({"create_request": {"key": "YQ=="}}).to_string();
    let response = bed.open("/v3/watch", create).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut lines = response.into_body().into_data_stream();
    let created = format!("{{\"result\":{{\"header\":{HEADER},\"created\":true}}}}\n");
    assert_eq!(lines.next().await.expect("a line").expect("data"), created);
    let kv = r#"{"key":"YQ==","create_revision":"2","mod_revision":"3","version":"2","value":"//4="}"#;
    let changed = format!("{{\"result\":{{\"watch_id\":\"1\",\"events\":[{{\"type\":\"DELETE\",\"kv\":{kv}}}]}}}}\n");
    assert_eq!(lines.next().await.expect("a line").expect("data"), changed);
    let more = time::timeout(Duration::from_millis(50), lines.next()).await;
    assert!(more.is_err(), "the watch goes on although its body has ended");
    drop(lines);
    let ended = time::timeout(Duration::from_secs(5), bed.fake.ended.notified()).await;
    assert!(ended.is_ok(), "the service hears that the client has left");
}

#[tokio::test]
async fn a_stream_that_fails_says_so_in_its_last_chunk() {
    let bed = Bed::new();
    let error = |code: i32, http: u16, message: &str, status: &str| {
        format!(
            r#"{{"error":{{"grpc_code":{code},"http_code":{http},"message":"{message}","http_status":"{status}"}}}}"#
        )
    };
    let stops = error(14, 503, "the node stops", "Service Unavailable");
    let of = |key: &str| {
        let key = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, key);
        json!({"createRequest": {"key": key}}).to_string()
    };
    let created = format!("{{\"result\":{{\"header\":{HEADER},\"created\":true}}}}\n");
    assert_eq!(bed.post("/v3/watch", of("broken")).await, (StatusCode::OK, created + &stops));
    assert_eq!(bed.post("/v3/watch", of("failed")).await, (StatusCode::SERVICE_UNAVAILABLE, stops));
    let refused = error(7, 403, "not yours", "Forbidden");
    assert_eq!(bed.post("/v3/watch", of("refused")).await, (StatusCode::FORBIDDEN, refused));
}

#[tokio::test]
async fn keep_alives_end_with_the_body() {
    let bed = Bed::new();
    let (status, body) = bed.post("/v3/lease/keepalive", r#"{"ID":1} {"ID":"2"}"#).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, "{\"result\":{\"ID\":\"1\",\"TTL\":\"5\"}}\n{\"result\":{\"ID\":\"2\",\"TTL\":\"5\"}}\n");
    assert_eq!(bed.post("/v3/lease/keepalive", "").await, (StatusCode::OK, String::new()));
}

#[tokio::test]
async fn metadata_is_passed_on_and_comes_back() {
    let bed = Bed::new();
    let request = Request::post("/v3/kv/range")
        .header("Quorate-Keyspace", "orders")
        .header("Authorization", "token")
        .header("Grpc-Timeout", "3S")
        .header("Grpc-Metadata-X-Trace", "7")
        .header("Grpc-Metadata-X-Bin", "+/8")
        .header("Grpc-Metadata-Grpc-Status", "0")
        .header("Grpc-Metadata-Content-Type", "text/plain")
        .header("Cookie", "secret")
        .body(Body::from(r#"{"key":"YQ=="}"#))
        .expect("a request");
    let response = bed.send(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-metadata-quorate-shard"], "g2");
    assert!(!response.headers().contains_key("grpc-metadata-grpc-status"));
    let seen = bed.fake.metadata.lock().clone();
    assert_eq!(seen.get_bin("x-bin").expect("metadata").to_bytes().expect("base64"), &b"\xfb\xff"[..]);
    let seen: HeaderMap = seen.into_headers();
    for (name, value) in
        [("quorate-keyspace", "orders"), ("authorization", "token"), ("grpc-timeout", "3S"), ("x-trace", "7")]
    {
        assert_eq!(seen[name], value);
    }
    for name in ["cookie", "grpc-status", "grpc-metadata-x-trace"] {
        assert!(!seen.contains_key(name), "{name}");
    }
    assert_ne!(seen.get("content-type").map(http::HeaderValue::as_bytes), Some(&b"text/plain"[..]));

    let request = Request::post("/v3/kv/range").header("Grpc-Metadata-X-Bin", "!").body(Body::empty());
    let response = bed.send(request.expect("a request")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn only_posts_to_known_paths_are_served() {
    let bed = Bed::new();
    let get = Request::builder().method(Method::GET).uri("/v3/kv/range").body(Body::empty()).expect("a request");
    assert_eq!(bed.send(get).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(bed.open("/v3/kv/nothing", "{}").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(bed.open("/v3/kv/range/", "{}").await.status(), StatusCode::NOT_FOUND);
}

#[test]
fn every_method_has_a_path() {
    let pool = DescriptorPool::decode(REFLECTION).expect("descriptors");
    let packages = ["etcdserverpb", "v3lockpb", "v3electionpb"];
    let services = pool.services().filter(|service| packages.contains(&service.package_name()));
    let methods = services.flat_map(|service| {
        service.methods().map(|method| format!("/{}/{}", service.full_name(), method.name())).collect::<Vec<_>>()
    });
    let methods: Vec<_> = methods.collect();
    assert_eq!(methods.len(), 48);
    for method in methods {
        assert!(PATHS.iter().any(|path| path.grpc() == method), "{method}");
    }
}
