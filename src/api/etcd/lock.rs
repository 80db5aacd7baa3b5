//! etcd's Lock service.

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
        let watchers = self.watchers.clone();
        self.run(request, |asked, request| async move {
            let held = contest::hold(asked, watchers.place()?, &request.name, request.lease, None).await?;
            Ok(pb::LockResponse { header: held.header, key: held.key })
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
