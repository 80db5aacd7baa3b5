use super::super::test_bed::Meta;
use super::*;
use crate::proto::internal::meta_command::Kind;

fn remove(meta: &mut Meta, node_id: u64) -> Result<u64, ErrorCode> {
    meta.command(Kind::RemoveNode(RemoveNode { node_id }))
}

fn standing_of(meta: &Meta, id: u64) -> Option<Standing> {
    meta.map().nodes.get(&NodeId(id)).map(|node| node.standing)
}

#[test]
fn a_node_joins_once_however_often_it_asks() {
    let mut meta = Meta::new(3);
    assert_eq!(meta.join("n4", 77, ""), Ok(4));
    let version = meta.map().version;
    assert_eq!(meta.join("n4", 77, ""), Ok(4), "its first answer was lost");
    assert_eq!(meta.map().version, version);
    assert_eq!(meta.join("n4", 78, ""), Err(ErrorCode::AlreadyExists), "another node of the same name");
    assert_eq!(meta.join("n1", 79, ""), Err(ErrorCode::AlreadyExists), "the name of a founding node");
    assert_eq!(meta.join("n5", 80, ""), Ok(5));
    assert_eq!(meta.map().next_node, NodeId(6));
}

#[test]
fn a_name_can_be_announced_and_is_taken_by_who_comes() {
    let mut meta = Meta::new(3);
    assert_eq!(meta.join("n4", 0, ""), Ok(4));
    assert_eq!(standing_of(&meta, 4), Some(Standing::Awaited));
    assert_eq!(meta.map().staying().count(), 3, "it gets no replicas yet");
    assert_eq!(meta.join("n4", 0, ""), Err(ErrorCode::AlreadyExists));
    assert_eq!(meta.join("n4", 9, ""), Ok(4));
    assert_eq!(standing_of(&meta, 4), Some(Standing::Member));
    assert_eq!(meta.join("n4", 10, ""), Err(ErrorCode::AlreadyExists));
    assert_eq!(meta.join("n5", 0, ""), Ok(5));
    assert!(remove(&mut meta, 5).is_ok());
    assert_eq!(standing_of(&meta, 5), None, "one that never came goes at once");
}

#[test]
fn nonsense_is_refused() {
    let mut meta = Meta::new(3);
    let long = "x".repeat(NODE_NAME_BYTES_MAX + 1);
    for name in ["", "with space", "a/b", long.as_str()] {
        assert_eq!(meta.join(name, 1, ""), Err(ErrorCode::InvalidArgument), "{name}");
    }
    let node = v1::Node { name: "n4".into(), peer_address: "nowhere".into(), ..Default::default() };
    let add = Kind::AddNode(AddNode { node: Some(node), token: 1, replace: String::new() });
    assert_eq!(meta.command(add), Err(ErrorCode::InvalidArgument));
    assert_eq!(meta.join("n4", 1, "n9"), Err(ErrorCode::NodeNotFound));
    assert_eq!(remove(&mut meta, 9), Err(ErrorCode::NodeNotFound));
    for id in 4..=NODES_MAX as u64 {
        assert_eq!(meta.join(&format!("n{id}"), id, ""), Ok(id));
    }
    assert_eq!(meta.join("more", 999, ""), Err(ErrorCode::LimitExceeded));
}

#[test]
fn a_node_takes_the_place_and_the_name_of_another() {
    let mut meta = Meta::new(3);
    assert_eq!(meta.join("n3", 5, "n3"), Ok(4));
    assert_eq!((standing_of(&meta, 3), standing_of(&meta, 4)), (Some(Standing::Leaving), Some(Standing::Member)));
    assert_eq!(meta.join("n3", 5, "n3"), Ok(4), "asked again, it replaces nobody else");
    assert_eq!(standing_of(&meta, 4), Some(Standing::Member));
    assert_eq!(meta.join("other", 6, "n2"), Ok(5));
    assert_eq!(standing_of(&meta, 2), Some(Standing::Leaving));
}

#[test]
fn a_node_may_be_announced_by_its_address_alone() {
    let mut meta = Meta::new(3);
    assert_eq!(join_at(&mut meta, "", 0, "", "four:2380", ""), Ok(4));
    assert_eq!(join_at(&mut meta, "", 0, "", "five:2380", ""), Ok(5), "another without a name");
    assert_eq!(join_at(&mut meta, "", 0, "", "four:2380", ""), Err(ErrorCode::AlreadyExists));
    assert_eq!(join_at(&mut meta, "", 7, "", "six:2380", ""), Err(ErrorCode::InvalidArgument), "it joins");
    assert_eq!(join_at(&mut meta, "n4", 1, "", "four:2380", "four:2379"), Ok(4), "that is the one");
    assert_eq!((standing_of(&meta, 4), &*meta.map().nodes[&NodeId(4)].name), (Some(Standing::Member), "n4"));
    assert!(remove(&mut meta, 5).is_ok());
    assert_eq!(standing_of(&meta, 5), None, "it never had anything");
}

#[test]
fn a_node_is_forgotten_when_it_holds_nothing() {
    let mut meta = Meta::new(4);
    let forget = |meta: &mut Meta, node_id| meta.command(Kind::ForgetNode(ForgetNode { node_id }));
    assert_eq!(forget(&mut meta, 4), Err(ErrorCode::InvalidArgument), "it does not leave");
    assert!(remove(&mut meta, 4).is_ok());
    let version = meta.map().version;
    assert_eq!(remove(&mut meta, 4), Ok(version), "it leaves already");
    assert!(forget(&mut meta, 4).is_ok());
    assert!(meta.map().has_left(NodeId(4)) && !meta.map().has_left(NodeId(5)));
    assert!(remove(&mut meta, 3).is_ok());
    assert_eq!(forget(&mut meta, 3), Err(ErrorCode::InvalidArgument), "it has a replica of the default keyspace");
    assert!(remove(&mut meta, 2).is_ok());
    assert_eq!(remove(&mut meta, 1), Err(ErrorCode::InvalidArgument), "the last node stays");
}

#[test]
fn what_a_node_says_of_itself_does_not_bring_it_back() {
    let mut meta = Meta::new(3);
    assert!(remove(&mut meta, 3).is_ok());
    let node = v1::Node { id: 3, name: "n3".into(), client_address: "new:1".into(), ..Default::default() };
    assert!(meta.command(Kind::UpdateNode(UpdateNode { node: Some(node) })).is_ok());
    assert_eq!(standing_of(&meta, 3), Some(Standing::Leaving));
    assert_eq!(meta.map().nodes[&NodeId(3)].client_address, "new:1");
}

/// A node joins, or is announced, with these addresses.
fn join_at(meta: &mut Meta, name: &str, token: u64, replace: &str, peer: &str, client: &str) -> Result<u64, ErrorCode> {
    let (peer_address, client_address) = (peer.to_owned(), client.to_owned());
    let node = v1::Node { name: name.into(), peer_address, client_address, ..Default::default() };
    meta.apply(Kind::AddNode(AddNode { node: Some(node), token, replace: replace.into() })).map(|(_, id)| id)
}

#[test]
fn an_address_belongs_to_one_member() {
    let mut meta = Meta::new(3);
    assert_eq!(join_at(&mut meta, "n4", 1, "", "four:2380", "four:2379"), Ok(4));
    for (peer, client) in
        [("four:2380", "five:2379"), ("five:2380", "four:2379"), ("four:2379", "five:2379"), ("five:2380", "four:2380")]
    {
        let refused = Err(ErrorCode::AlreadyExists);
        assert_eq!(join_at(&mut meta, "n5", 2, "", peer, client), refused, "{peer} {client}");
        assert_eq!(join_at(&mut meta, "n5", 2, "n3", peer, client), refused, "another one's place is no excuse");
    }
    assert_eq!(join_at(&mut meta, "n5", 0, "", "four:2380", ""), Err(ErrorCode::AlreadyExists), "announced");
    assert_eq!(join_at(&mut meta, "n4", 1, "", "four:2380", "four:2379"), Ok(4), "its first answer was lost");
    // Who was announced comes from where it was said to be; nobody else does.
    assert_eq!(join_at(&mut meta, "n5", 0, "", "five:2380", ""), Ok(5));
    assert_eq!(join_at(&mut meta, "n6", 3, "", "five:2380", "six:2379"), Err(ErrorCode::AlreadyExists));
    assert_eq!(join_at(&mut meta, "n5", 4, "", "five:2380", "five:2379"), Ok(5));
    // Who takes a place may stand where the other stood, also when that one is replaced in turn.
    assert_eq!(join_at(&mut meta, "n4", 5, "n4", "four:2380", "four:2379"), Ok(6));
    assert_eq!(join_at(&mut meta, "n7", 6, "n4", "four:2380", "four:2379"), Ok(7));
}
