use super::*;

const OURS: Ours = Ours { node: NodeId(1), cluster_id: Some(ClusterId([9; 16])), founding_hash: 77 };

fn theirs() -> Introduction {
    Introduction {
        name: "n2".into(),
        node: NodeId(2),
        boot: 5,
        nonce: 50,
        cluster_id: Some(ClusterId([9; 16])),
        founding_hash: 77,
        position: 100,
        earlier: vec![40, 30, 20, 10],
    }
}

fn code(result: Result<(), Refusal>) -> Option<Code> {
    result.err().map(|refusal| refusal.code)
}

#[test]
fn introductions() {
    let seen = Seen { boot: 5, nonce: 50, position: 100 };
    type Change = fn(&mut Introduction);
    let table: [(&str, Change, Option<Seen>, Option<Code>); 14] = [
        ("first ever seen", |_| {}, None, None),
        ("the same process again", |_| {}, Some(seen), None),
        ("the same process, heard of later before", |same| same.position = 99, Some(seen), None),
        (
            "a start after one that tells nothing of those before",
            |new| (new.boot, new.nonce, new.earlier) = (6, 60, vec![]),
            Some(seen),
            None,
        ),
        ("an older start", |old| (old.boot, old.nonce) = (4, 40), Some(seen), Some(Code::StaleIncarnation)),
        ("a wiped disk", |new| (new.boot, new.position) = (1, 0), Some(seen), Some(Code::StaleIncarnation)),
        ("a copy of the disk", |copy| copy.nonce = 51, Some(seen), Some(Code::StaleIncarnation)),
        (
            "an older copy, started again",
            |old| (old.boot, old.nonce, old.position, old.earlier) = (6, 60, 99, vec![50, 40, 30, 20, 10]),
            Some(seen),
            Some(Code::StaleIncarnation),
        ),
        (
            "the next start, which names this one",
            |new| (new.boot, new.nonce, new.earlier) = (7, 70, vec![60, 50]),
            Some(seen),
            None,
        ),
        (
            "a wiped disk that was started often",
            |new| (new.boot, new.nonce, new.earlier) = (6, 61, vec![51, 41, 31, 21, 11]),
            Some(Seen { position: 0, ..seen }),
            Some(Code::StaleIncarnation),
        ),
        (
            "an older copy that was started often",
            |new| (new.boot, new.nonce, new.earlier) = (7, 71, vec![61, 51, 40, 30, 20, 10]),
            Some(Seen { position: 0, ..seen }),
            Some(Code::StaleIncarnation),
        ),
        ("ourselves", |own| own.node = NodeId(1), None, Some(Code::WrongNode)),
        ("another cluster", |other| other.cluster_id = Some(ClusterId([8; 16])), None, Some(Code::WrongCluster)),
        (
            "another founding",
            |other| (other.cluster_id, other.founding_hash) = (None, 78),
            None,
            Some(Code::WrongCluster),
        ),
    ];
    for (name, change, seen, expected) in table {
        let mut theirs = theirs();
        change(&mut theirs);
        assert_eq!(code(admit(&OURS, seen.as_ref(), &theirs)), expected, "{name}");
    }
}

#[test]
fn the_founding_hash_stands_for_a_cluster_id_that_one_side_does_not_know() {
    let unfounded = Ours { cluster_id: None, ..OURS };
    assert_eq!(code(admit(&unfounded, None, &theirs())), None);
    assert_eq!(code(admit(&OURS, None, &Introduction { cluster_id: None, ..theirs() })), None);
    let neither = Introduction { cluster_id: None, founding_hash: 0, ..theirs() };
    assert_eq!(code(admit(&Ours { founding_hash: 0, ..unfounded }, None, &neither)), Some(Code::WrongCluster));
}

#[test]
fn a_stale_node_is_told_what_to_do() {
    let seen = Seen { boot: 9, nonce: 1, position: 0 };
    let refusal = admit(&OURS, Some(&seen), &theirs()).unwrap_err();
    assert!(refusal.message.contains("kvd --join HOST:PORT --replace n2"), "{}", refusal.message);
}

#[test]
fn incomplete_introductions_are_refused() {
    let read = |change: &dyn Fn(&mut wire::HelloRequest)| {
        let mut hello = theirs().to_request(NodeId(1));
        change(&mut hello);
        Introduction::from_request(hello)
    };
    assert_eq!(read(&|_| {}), Ok(theirs()));
    assert!(read(&|hello| hello.protocol = 2).is_err());
    assert!(read(&|hello| hello.from = None).is_err());
    assert!(read(&|hello| hello.from.as_mut().unwrap().node_id = 0).is_err());
    assert!(read(&|hello| hello.from.as_mut().unwrap().boot = 0).is_err());
    assert!(read(&|hello| hello.cluster_id = Bytes::from_static(b"short")).is_err());
    assert!(read(&|hello| hello.name = "n".repeat(300)).is_err());
    assert_eq!(Introduction::from_response(theirs().to_response()), Ok(theirs()));
}

fn envelope() -> wire::Envelope {
    wire::Envelope {
        cluster_id: Bytes::from_static(&[9; 16]),
        from: Some(wire::Incarnation { node_id: 2, boot: 5, nonce: 50 }),
        to_node_id: 1,
        group_id: 3,
        from_replica: 12,
        to_replica: 11,
        shard_epoch: 4,
    }
}

#[test]
fn envelopes() {
    let group = TargetGroup { replica: ReplicaId(11), epoch: Epoch(4), sender_home: Some(NodeId(2)) };
    type Change = fn(&mut wire::Envelope, &mut Ours, &mut Option<Session>, &mut Option<TargetGroup>);
    let table: [(&str, Change, Option<Code>); 18] = [
        ("fits", |_, _, _, _| {}, None),
        ("epoch not said", |envelope, _, _, _| envelope.shard_epoch = 0, None),
        ("epoch ahead of ours", |envelope, _, _, _| envelope.shard_epoch = 5, None),
        ("epoch behind ours", |envelope, _, _, _| envelope.shard_epoch = 3, Some(Code::StaleEpoch)),
        ("sender's home not known", |_, _, _, group| group.as_mut().unwrap().sender_home = None, None),
        (
            "sender lives elsewhere",
            |_, _, _, group| group.as_mut().unwrap().sender_home = Some(NodeId(3)),
            Some(Code::WrongReplica),
        ),
        ("no such group", |_, _, _, group| *group = None, Some(Code::UnknownGroup)),
        ("another replica", |envelope, _, _, _| envelope.to_replica = 10, Some(Code::WrongReplica)),
        ("no sending replica", |envelope, _, _, _| envelope.from_replica = 0, Some(Code::WrongReplica)),
        ("another node", |envelope, _, _, _| envelope.to_node_id = 3, Some(Code::WrongNode)),
        ("no sender", |envelope, _, _, _| envelope.from = None, Some(Code::Malformed)),
        ("no introduction", |_, _, session, _| *session = None, Some(Code::UnknownIncarnation)),
        (
            "an earlier process of the sender",
            |_, _, session, _| session.as_mut().unwrap().boot = 6,
            Some(Code::StaleIncarnation),
        ),
        (
            "a later process of the sender",
            |_, _, session, _| session.as_mut().unwrap().boot = 4,
            Some(Code::UnknownIncarnation),
        ),
        (
            "another disk of the sender",
            |_, _, session, _| session.as_mut().unwrap().nonce = 51,
            Some(Code::UnknownIncarnation),
        ),
        (
            "another cluster",
            |envelope, _, _, _| envelope.cluster_id = Bytes::from_static(&[8; 16]),
            Some(Code::WrongCluster),
        ),
        (
            "the founding hash, which is ours",
            |envelope, _, _, _| envelope.cluster_id = Bytes::copy_from_slice(&77u64.to_le_bytes()),
            None,
        ),
        ("no cluster", |envelope, _, _, _| envelope.cluster_id = Bytes::new(), Some(Code::Malformed)),
    ];
    for (name, change, expected) in table {
        let (mut envelope, mut ours, mut group) = (envelope(), OURS, Some(group));
        let mut session = Some(theirs().session());
        change(&mut envelope, &mut ours, &mut session, &mut group);
        let result = check_envelope(&ours, session.as_ref(), Target::Group(group), Some(&envelope));
        assert_eq!(code(result), expected, "{name}");
    }
    let result = check_envelope(&OURS, Some(&theirs().session()), Target::Node, None);
    assert_eq!(code(result), Some(Code::Malformed));
}

#[test]
fn a_cluster_id_we_do_not_know_must_be_the_introduced_one() {
    let unfounded = Ours { cluster_id: None, ..OURS };
    let check = |envelope: &wire::Envelope| {
        code(check_envelope(&unfounded, Some(&theirs().session()), Target::Node, Some(envelope)))
    };
    assert_eq!(check(&envelope()), None);
    let other = wire::Envelope { cluster_id: Bytes::from_static(&[8; 16]), ..envelope() };
    assert_eq!(check(&other), Some(Code::WrongCluster));
}
