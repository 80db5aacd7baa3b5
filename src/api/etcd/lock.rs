//! etcd's Lock service.

use std::sync::Arc;

use bytes::Bytes;
use tonic::Request;

use super::contest;
use super::face::{Answer, Etcd};
use crate::node::Service;
use crate::proto::etcd::v3lockpb as pb;
use crate::proto::etcd::v3lockpb::lock_server::Lock;
use crate::proto::v1;

#[tonic::async_trait]
impl<S: Service> Lock for Etcd<S> {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Answer<pb::LockResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            let asked = Arc::new(asked);
            let own = contest::enter(&asked, &request.name, request.lease, Bytes::new()).await?;
            let header = contest::wait_for_turn(&asked, &request.name, &own).await?;
            Ok(pb::LockResponse { header, key: own.key })
        })
        .await
    }

    async fn unlock(&self, request: Request<pb::UnlockRequest>) -> Answer<pb::UnlockResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            let delete = v1::DeleteRequest { target: asked.target(), key: request.key, ..Default::default() };
            let deleted = asked.service.delete(delete, asked.deadline).await?;
            Ok(pb::UnlockResponse { header: asked.header_of(deleted.header.as_ref()) })
        })
        .await
    }
}
