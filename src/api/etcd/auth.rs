//! etcd's Auth service where authentication is off, and stays so.

use tonic::{Request, Status};

use super::error;
use super::face::{Answer, Etcd, Refused};
use crate::node::Service;
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::auth_server::Auth;

/// Users and roles are not kept: what would keep one says so.
fn no_users() -> Status {
    Status::unimplemented(
        "quorate: there are no users and roles: clients are told apart by their TLS certificates (kvd --tls-ca)",
    )
}

#[tonic::async_trait]
impl<S: Service> Auth for Etcd<S> {
    async fn auth_status(&self, request: Request<pb::AuthStatusRequest>) -> Answer<pb::AuthStatusResponse> {
        self.run(request, |asked, _| async move {
            let header = asked.local_header();
            Ok(pb::AuthStatusResponse { header, enabled: false, ..Default::default() })
        })
        .await
    }

    async fn auth_disable(&self, request: Request<pb::AuthDisableRequest>) -> Answer<pb::AuthDisableResponse> {
        self.run(request, |asked, _| async move { Ok(pb::AuthDisableResponse { header: asked.local_header() }) }).await
    }

    async fn user_list(&self, request: Request<pb::AuthUserListRequest>) -> Answer<pb::AuthUserListResponse> {
        self.run(request, |asked, _| async move {
            Ok(pb::AuthUserListResponse { header: asked.local_header(), users: Vec::new() })
        })
        .await
    }

    async fn role_list(&self, request: Request<pb::AuthRoleListRequest>) -> Answer<pb::AuthRoleListResponse> {
        self.run(request, |asked, _| async move {
            Ok(pb::AuthRoleListResponse { header: asked.local_header(), roles: Vec::new() })
        })
        .await
    }

    async fn auth_enable(&self, request: Request<pb::AuthEnableRequest>) -> Answer<pb::AuthEnableResponse> {
        self.refuse(request, no_users()).await
    }

    async fn authenticate(&self, request: Request<pb::AuthenticateRequest>) -> Answer<pb::AuthenticateResponse> {
        self.refuse(request, error::AUTH_NOT_ENABLED).await
    }

    async fn user_add(&self, request: Request<pb::AuthUserAddRequest>) -> Answer<pb::AuthUserAddResponse> {
        self.refuse(request, no_users()).await
    }

    async fn user_get(&self, request: Request<pb::AuthUserGetRequest>) -> Answer<pb::AuthUserGetResponse> {
        self.refuse(request, error::USER_NOT_FOUND).await
    }

    async fn user_delete(&self, request: Request<pb::AuthUserDeleteRequest>) -> Answer<pb::AuthUserDeleteResponse> {
        self.refuse(request, error::USER_NOT_FOUND).await
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Answer<pb::AuthUserChangePasswordResponse> {
        self.refuse(request, error::USER_NOT_FOUND).await
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Answer<pb::AuthUserGrantRoleResponse> {
        self.refuse(request, error::USER_NOT_FOUND).await
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Answer<pb::AuthUserRevokeRoleResponse> {
        self.refuse(request, error::USER_NOT_FOUND).await
    }

    async fn role_add(&self, request: Request<pb::AuthRoleAddRequest>) -> Answer<pb::AuthRoleAddResponse> {
        self.refuse(request, no_users()).await
    }

    async fn role_get(&self, request: Request<pb::AuthRoleGetRequest>) -> Answer<pb::AuthRoleGetResponse> {
        self.refuse(request, error::ROLE_NOT_FOUND).await
    }

    async fn role_delete(&self, request: Request<pb::AuthRoleDeleteRequest>) -> Answer<pb::AuthRoleDeleteResponse> {
        self.refuse(request, error::ROLE_NOT_FOUND).await
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Answer<pb::AuthRoleGrantPermissionResponse> {
        self.refuse(request, error::ROLE_NOT_FOUND).await
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Answer<pb::AuthRoleRevokePermissionResponse> {
        self.refuse(request, error::ROLE_NOT_FOUND).await
    }
}

impl<S: Service> Etcd<S> {
    async fn refuse<Q: Send, R: prost::Message>(&self, request: Request<Q>, why: impl Into<Refused>) -> Answer<R> {
        let why = why.into();
        self.run(request, |_, _| async move { Err(why) }).await
    }
}
