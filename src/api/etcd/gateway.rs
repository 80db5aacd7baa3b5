//! etcd's HTTP/JSON gateway: `POST /v3/…` with a JSON object becomes one call on the gRPC services of this
//! process, and its answer JSON again.
//!
//! Knows paths, texts and how a call travels. What a call means, who may make it and how long it may take
//! is up to the services. Everything here follows etcd 3.4 with what 3.5 added, down to the shape of errors.

mod codec;
mod error;
#[cfg(test)]
mod gateway_test;
mod headers;
mod json;
mod paths;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use http::{StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tokio::sync::{Semaphore, oneshot};
use tonic::client::Grpc;
use tonic::{Status, Streaming};

use self::codec::Messages;
use self::paths::{PATHS, Path};
use crate::env::time;
use crate::proto::REFLECTION;
use crate::types::limits;

/// Why there can be no gateway.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    /// The descriptors that were compiled in cannot be read.
    #[error("the descriptors of the API cannot be read: {0}")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// A path leads nowhere.
    #[error("the API has no method {0}")]
    Method(&'static str),
}

/// The gateway's paths, to be merged into a router; they call `services`, which serves each gRPC service
/// under `/package.Service/Method`.
///
/// A call takes over its request's extensions, and of its headers those named in [`headers`].
///
/// # Errors
/// When the descriptors and the paths do not fit.
pub(crate) fn router(services: &Router) -> Result<Router, GatewayError> {
    let pool = DescriptorPool::decode(REFLECTION)?;
    let bodies = Arc::new(Semaphore::new(limits::REQUESTS_IN_FLIGHT_MAX));
    let mut router = Router::new();
    for path in &PATHS {
        let method = method(&pool, path.method).ok_or(GatewayError::Method(path.method))?;
        let door = Arc::new(Door { path, method, services: services.clone(), bodies: Arc::clone(&bodies) });
        router = router.route(path.http, post(move |request| Arc::clone(&door).serve(request)));
    }
    Ok(router)
}

/// The method under `/package.Service/Method`.
fn method(pool: &DescriptorPool, path: &str) -> Option<MethodDescriptor> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    pool.get_service_by_name(service)?.methods().find(|found| found.name() == method)
}

/// One path and what is behind it.
struct Door {
    path: &'static Path,
    method: MethodDescriptor,
    services: Router,
    /// A place for each body that is being read, whatever the path.
    bodies: Arc<Semaphore>,
}

impl Door {
    async fn serve(self: Arc<Self>, request: Request) -> Response {
        self.call(request).await.unwrap_or_else(|status| error::whole(&status))
    }

    async fn call(&self, request: Request) -> Result<Response, Status> {
        let (head, body) = request.into_parts();
        let metadata = headers::inward(&head.headers)?;
        let text = self.read(body).await?;
        if self.method.is_server_streaming() {
            let messages = self.messages(&text)?;
            drop(text);
            return Ok(self.stream(tonic::Request::from_parts(metadata, head.extensions, messages)).await);
        }
        let message = json::read(&self.method.input(), &text)?;
        drop(text);
        let request = tonic::Request::from_parts(metadata, head.extensions, message);
        let answer = self.client().unary(request, self.path.grpc(), self.codec()).await?;
        let body = json::write(answer.get_ref())?;
        Ok((headers::outward(answer.metadata()), [(header::CONTENT_TYPE, json::TYPE)], body).into_response())
    }

    /// What a streaming method is sent: one message, or as many as the text has where the client may stream.
    fn messages(&self, text: &[u8]) -> Result<Vec<DynamicMessage>, Status> {
        let input = self.method.input();
        if self.method.is_client_streaming() {
            return json::read_all(&input, text);
        }
        json::read(&input, text).map(|message| vec![message])
    }

    async fn read(&self, body: Body) -> Result<Bytes, Status> {
        let _place =
            self.bodies.try_acquire().map_err(|_| Status::resource_exhausted("etcdserver: too many requests"))?;
        let body = Limited::new(body, limits::GATEWAY_BODY_BYTES_MAX).collect();
        let read = time::timeout(limits::REQUEST_TIMEOUT_DEFAULT, body).await;
        let read = read.map_err(|_| Status::deadline_exceeded("the request did not arrive in time"))?;
        read.map(http_body_util::Collected::to_bytes).map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Status::invalid_argument("etcdserver: request is too large");
            }
            Status::cancelled("the request ended early")
        })
    }

    /// Answers with a line for each message. The head waits for the first of them, as the status of a call
    /// that fails before it belongs there.
    async fn stream(&self, request: tonic::Request<Vec<DynamicMessage>>) -> Response {
        let (open, closed) = oneshot::channel::<()>();
        let open = self.path.held.then_some(open);
        let closed = stream::once(closed).filter_map(|_| future::ready(None));
        let request = request.map(|messages| stream::iter(messages).chain(closed));
        let answer = match self.client().streaming(request, self.path.grpc(), self.codec()).await {
            Ok(answer) => answer,
            Err(status) => return error::in_stream(&status),
        };
        let headers = headers::outward(answer.metadata());
        let mut lines = Lines { messages: answer.into_inner(), _open: open };
        let (first, rest) = match lines.next().await {
            Some(Err(status)) => return error::in_stream(&status),
            Some(Ok(line)) => (Some(line), Some(lines)),
            None => (None, None),
        };
        let body = stream::iter(first).chain(stream::unfold(rest, following)).map(Ok::<_, Infallible>);
        (StatusCode::OK, headers, [(header::CONTENT_TYPE, json::TYPE)], Body::from_stream(body)).into_response()
    }

    fn client(&self) -> Grpc<Router> {
        Grpc::new(self.services.clone())
            .max_encoding_message_size(limits::REQUEST_BYTES_MAX)
            .max_decoding_message_size(limits::RESPONSE_BYTES_MAX)
    }

    fn codec(&self) -> Messages {
        Messages::new(self.method.output())
    }
}

/// What a stream of messages is to the client.
struct Lines {
    messages: Streaming<DynamicMessage>,
    /// Ends the requests of the call when the client goes away.
    _open: Option<oneshot::Sender<()>>,
}

impl Lines {
    async fn next(&mut self) -> Option<Result<Vec<u8>, Status>> {
        let message = self.messages.message().await.transpose()?;
        Some(message.and_then(|message| json::line(&message)))
    }
}

/// The next line, and where the one after it comes from: nowhere after an error.
async fn following(lines: Option<Lines>) -> Option<(Vec<u8>, Option<Lines>)> {
    let mut lines = lines?;
    match lines.next().await? {
        Ok(line) => Some((line, Some(lines))),
        Err(status) => Some((error::chunk(&status), None)),
    }
}
