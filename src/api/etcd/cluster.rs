//! etcd's Cluster service: who the members are, and who is to become one. They join in Quorate's own way.

use tonic::{Request, Status};

use super::error;
use super::face::{Answer, Asked, Etcd, Refused};
use crate::node::{Failure, Service};
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::cluster_server::Cluster;
use crate::proto::v1::{self, ErrorCode};
use crate::types::NodeId;

#[tonic::async_trait]
impl<S: Service> Cluster for Etcd<S> {
    async fn member_add(&self, request: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        self.run(request, |asked, request| async move {
            let peer_address = peer_address(&request.peer_ur_ls)?;
            // Its name is its own to say; it has no vote until it has come and caught up, whatever was asked for.
            let add = v1::AddMemberRequest { name: String::new(), peer_address };
            let added = asked.service.add_member(add, asked.deadline).await;
            let added = added.map_err(|failure| told(failure, ErrorCode::AlreadyExists, error::URLS_EXIST))?;
            let id = added.member.map_or(0, |member| member.id);
            let members = members(&asked);
            let member = members.iter().find(|member| member.id == id).cloned();
            Ok(pb::MemberAddResponse { header: asked.member_header(), member, members })
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
            let peer_address = peer_address(&request.peer_ur_ls)?;
            let relocated = asked.service.relocate_member(NodeId(request.id), peer_address, asked.deadline).await;
            relocated.map_err(|failure| told(failure, ErrorCode::AlreadyExists, error::URLS_EXIST))?;
            Ok(pb::MemberUpdateResponse { header: asked.member_header(), members: members(&asked) })
        })
        .await
    }

    async fn member_list(&self, request: Request<pb::MemberListRequest>) -> Answer<pb::MemberListResponse> {
        self.run(request, |asked, _| async move {
            let members = members(&asked);
            if members.is_empty() {
                let reason = asked.service.readiness().reason;
                let message = format!("quorate: there is no list of members yet: {reason}");
                return Err(Refused::Said(Status::unavailable(message)));
            }
            Ok(pb::MemberListResponse { header: asked.member_header(), members })
        })
        .await
    }

    async fn member_promote(&self, request: Request<pb::MemberPromoteRequest>) -> Answer<pb::MemberPromoteResponse> {
        self.run(request, |asked, request| async move {
            known(&asked, request.id)?;
            // Members get their votes by themselves once they have caught up.
            let is_learner = members(&asked).iter().any(|member| member.id == request.id && member.is_learner);
            Err(if is_learner { error::LEARNER_NOT_READY } else { error::NOT_LEARNER }.into())
        })
        .await
    }
}

/// The one address that a member has.
fn peer_address(urls: &[String]) -> Result<String, Refused> {
    if urls.is_empty() || !urls.iter().all(|url| is_url(url)) {
        return Err(error::BAD_URLS.into());
    }
    match urls {
        [url] => Ok(url.split_once("://").map_or(url.as_str(), |(_, address)| address).to_owned()),
        _ => Err(Refused::Said(Status::invalid_argument("quorate: a member has one peer address: give one URL"))),
    }
}

/// A failure, in etcd's words where it is the one that etcd has words for.
fn told(failure: Failure, code: ErrorCode, words: error::Known) -> Refused {
    if failure.detail.code() == code { words.into() } else { failure.into() }
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
    let (_, own) = asked.service.identity();
    let client_urls = |node: &v1::Node| match &asked.entered {
        _ if node.client_address.is_empty() => Vec::new(),
        None => url(&node.client_address, clients),
        Some(entered) if node.id == own => url(&entered.address, clients),
        // The others' ordinary ports stand for another keyspace: clients that follow the list must not go there.
        Some(_) => Vec::new(),
    };
    let members = asked.service.members().members.into_iter().map(|node| pb::Member {
        id: node.id,
        peer_ur_ls: url(&node.peer_address, peers),
        client_ur_ls: client_urls(&node),
        is_learner: node.standing() == v1::NodeStanding::Awaited,
        name: node.name,
    });
    members.collect()
}
