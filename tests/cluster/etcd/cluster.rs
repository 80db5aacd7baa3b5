//! The member list, and members that come and go.

use super::answers::revision;
use super::target::Target;
use super::wire;

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
