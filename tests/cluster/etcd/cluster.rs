//! The member list, and members that come and go.

use std::time::Duration;

use etcd_client::MemberAddOptions;
use tonic::Code;

use super::answers::{refusal, revision};
use super::target::Target;
use super::wire;
use crate::harness::eventually;

/// Every node lists all of them, with names and addresses; none is a learner.
pub(crate) async fn member_list(target: &Target) {
    let mut lists = Vec::new();
    for node in 0..target.endpoints.len() {
        let answer = target.client_of(node).await.member_list().await.unwrap();
        assert_eq!(answer.members().len(), target.endpoints.len());
        let mut list: Vec<_> = answer
            .members()
            .iter()
            .map(|member| {
                assert!(member.id() != 0 && !member.is_learner());
                assert_eq!((member.peer_urls().len(), member.client_urls().len()), (1, 1));
                assert!(member.peer_urls()[0].starts_with("http://"));
                (member.id(), member.name().to_owned(), member.client_urls()[0].clone())
            })
            .collect();
        list.sort();
        lists.push(list);
    }
    lists.dedup();
    assert_eq!(lists.len(), 1, "all tell the same");
    let mut urls: Vec<_> = lists[0].iter().map(|(_, _, url)| url.clone()).collect();
    urls.sort();
    let mut expected: Vec<_> = target.endpoints.iter().map(|endpoint| format!("http://{endpoint}")).collect();
    expected.sort();
    assert_eq!(urls, expected);
    let mut names: Vec<_> = lists[0].iter().map(|(_, name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["n1", "n2", "n3"]);
}

/// A member that is announced is listed without a name until it comes, can be moved, and goes again.
pub(crate) async fn announced_member(target: &Target) {
    let mut client = target.client_of(target.leader().await).await;
    let urls = ["http://127.0.0.1:1".to_owned()];
    // etcd wants its members connected for a while, and drops a change that comes before the last one is applied.
    let added = eventually("added member", || async {
        let options = MemberAddOptions::new().with_is_learner();
        let mut client = client.clone();
        tokio::time::timeout(Duration::from_secs(8), client.member_add(urls.clone(), Some(options))).await.ok()?.ok()
    })
    .await;
    let member = added.member().unwrap();
    assert_eq!((member.name(), member.peer_urls(), member.client_urls().len()), ("", &urls[..], 0));
    assert!(member.id() != 0 && member.is_learner());
    assert_eq!(added.member_list().len(), target.endpoints.len() + 1);
    let lister = client.clone();
    let found = async |id: u64| {
        let list = lister.clone().member_list().await.unwrap();
        list.members().iter().find(|member| member.id() == id).map(|member| member.peer_urls().to_vec())
    };
    assert_eq!(found(member.id()).await.as_deref(), Some(&urls[..]));
    let refused = client.clone().member_promote(member.id()).await;
    let words = "etcdserver: can only promote a learner member which is in sync with leader";
    assert_eq!(refusal(refused), (Code::FailedPrecondition, words.to_owned()));
    let moved = ["http://127.0.0.1:2".to_owned()];
    client.member_update(member.id(), moved.clone()).await.unwrap();
    assert_eq!(found(member.id()).await.as_deref(), Some(&moved[..]));
    client.member_remove(member.id()).await.unwrap();
    assert_eq!(found(member.id()).await, None);
    let refused = client.member_remove(member.id()).await;
    assert_eq!(refusal(refused), (Code::NotFound, "etcdserver: member not found".to_owned()));
}

/// The header of a member list names cluster and member, but no revision: members are not keys.
pub(crate) async fn header_of_the_member_list(target: &Target) {
    let mut client = target.client_of(0).await;
    let status = client.status().await.unwrap();
    let list = client.member_list().await.unwrap();
    let (ours, theirs) = (list.header().unwrap(), status.header().unwrap());
    assert_eq!((ours.cluster_id(), ours.member_id()), (theirs.cluster_id(), theirs.member_id()));
    assert!(theirs.revision() > 0);
    assert_eq!(revision(list.header()), 0);
}

/// The list has the same members when only what this node knows is asked for, and when the leader is.
pub(crate) async fn linearizable_member_list(target: &Target) {
    for linearizable in [false, true] {
        let request = wire::MemberListRequest { linearizable };
        let answer: wire::MemberListResponse =
            wire::call(target, 1, "/etcdserverpb.Cluster/MemberList", request).await.unwrap();
        assert_eq!(answer.members.len(), target.endpoints.len());
    }
}
