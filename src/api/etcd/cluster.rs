//! etcd's Cluster service: who the members are. They join and leave in Quorate's own way.

use tonic::{Request, Status};

use super::error;
use super::face::{Answer, Asked, Etcd, Refused};
use crate::node::Service;
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::cluster_server::Cluster;
use crate::proto::v1;

#[tonic::async_trait]
impl<S: Service> Cluster for Etcd<S> {
    async fn member_add(&self, request: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        self.run(request, |asked, request| async move {
            if request.peer_ur_ls.is_empty() || !request.peer_ur_ls.iter().all(|url| is_url(url)) {
                return Err(error::BAD_URLS.into());
            }
            let is_known = |url: &String| members(&asked).iter().any(|member| member.peer_ur_ls.contains(url));
            if request.peer_ur_ls.iter().any(is_known) {
                return Err(error::URLS_EXIST.into());
            }
            Err(otherwise("a member joins by itself: kvd --join PEER_ADDRESS --name NAME"))
        })
        .await
    }

    async fn member_remove(&self, request: Request<pb::MemberRemoveRequest>) -> Answer<pb::MemberRemoveResponse> {
        self.run(request, |asked, request| async move {
            known(&asked, request.id)?;
            let remove = v1::RemoveMemberRequest { node_id: request.id };
            asked.service.remove_member(remove, asked.deadline).await?;
            let mut left = members(&asked);
            left.retain(|member| member.id != request.id);
            Ok(pb::MemberRemoveResponse { header: asked.member_header(), members: left })
        })
        .await
    }

    async fn member_update(&self, request: Request<pb::MemberUpdateRequest>) -> Answer<pb::MemberUpdateResponse> {
        self.run(request, |asked, request| async move {
            known(&asked, request.id)?;
            Err(otherwise("a member's addresses are its own settings: restart it with another --peer-advertise"))
        })
        .await
    }

    async fn member_list(&self, request: Request<pb::MemberListRequest>) -> Answer<pb::MemberListResponse> {
        self.run(request, |asked, _| async move {
            Ok(pb::MemberListResponse { header: asked.member_header(), members: members(&asked) })
        })
        .await
    }

    async fn member_promote(&self, request: Request<pb::MemberPromoteRequest>) -> Answer<pb::MemberPromoteResponse> {
        self.run(request, |asked, request| async move {
            known(&asked, request.id)?;
            // Members get their votes by themselves once they have caught up.
            Err(error::NOT_LEARNER.into())
        })
        .await
    }
}

/// Scheme, host and port, and nothing else.
fn is_url(url: &str) -> bool {
    let Some(address) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else { return false };
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    !host.is_empty() && !address.contains('/') && port.parse::<u16>().is_ok()
}

fn known<S: Service>(asked: &Asked<S>, id: u64) -> Result<(), Refused> {
    let is_known = members(asked).iter().any(|member| member.id == id);
    if is_known { Ok(()) } else { Err(error::MEMBER_NOT_FOUND.into()) }
}

fn members<S: Service>(asked: &Asked<S>) -> Vec<pb::Member> {
    let (clients, peers) = asked.service.speaks_tls();
    let url = |address: &str, tls: bool| vec![format!("{}://{address}", if tls { "https" } else { "http" })];
    let members = asked.service.members().members.into_iter().map(|node| pb::Member {
        id: node.id,
        peer_ur_ls: url(&node.peer_address, peers),
        client_ur_ls: url(&node.client_address, clients),
        name: node.name,
        is_learner: false,
    });
    members.collect()
}

fn otherwise(what: &str) -> Refused {
    Refused::Said(Status::unimplemented(format!("quorate: {what}")))
}
