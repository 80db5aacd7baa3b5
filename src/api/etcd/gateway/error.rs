//! A gRPC status as the gateway of etcd 3.4 shows it.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use tonic::{Code, Status};

use super::json;

/// The answer to a call that failed.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    code: i32,
}

/// The end of a stream that failed.
#[derive(Serialize)]
struct Chunk<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    grpc_code: i32,
    http_code: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    http_status: &'static str,
}

pub(super) fn whole(status: &Status) -> Response {
    let body = Whole { error: status.message(), message: status.message(), code: status.code().into() };
    response(status, text(&body))
}

/// The answer of a stream that failed before its first message.
pub(super) fn in_stream(status: &Status) -> Response {
    response(status, chunk(status))
}

/// The last bytes of a stream that failed.
pub(super) fn chunk(status: &Status) -> Vec<u8> {
    let http = http_code(status.code());
    text(&Chunk {
        error: Inner {
            grpc_code: status.code().into(),
            http_code: http.as_u16(),
            message: status.message(),
            http_status: http.canonical_reason().unwrap_or_default(),
        },
    })
}

fn response(status: &Status, body: Vec<u8>) -> Response {
    (http_code(status.code()), [(header::CONTENT_TYPE, json::TYPE)], body).into_response()
}

fn text<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

/// As grpc-gateway has it from 1.9.5 on, which etcd requires.
fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
