use super::*;

fn membership(voters: &[u64]) -> Membership {
    let members: BTreeMap<u64, Place> =
        voters.iter().map(|&voter| (voter, Place { node: NodeId(voter + 10) })).collect();
    Membership::new(vec![voters.iter().copied().collect()], members).unwrap()
}

fn entry(term: u64, index: u64) -> wire::Entry {
    wire::Entry {
        log_id: Some(wire::LogId { term, index }),
        payload: Some(wire::entry::Payload::Command(Bytes::from_static(b"x"))),
    }
}

fn request(entries: Vec<wire::Entry>) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(wire::Vote { term: 3, replica_id: 1, committed: true }),
        previous: Some(wire::LogId { term: 2, index: 7 }),
        entries,
        committed: None,
    }
}

#[test]
fn payloads_come_back_from_the_log() {
    for payload in [
        EntryPayload::Blank,
        EntryPayload::Normal(Command(Bytes::from_static(b"put"))),
        EntryPayload::Membership(membership(&[1, 2])),
    ] {
        let entry = entry_from_log(4, 9, payload_to_bytes(&payload)).unwrap();
        assert_eq!((entry.log_id, entry.payload == payload), (log_id(4, 9), true));
    }
    assert!(entry_from_log(4, 9, Bytes::new()).is_err(), "an entry without payload");
    assert!(entry_from_log(4, 9, Bytes::from_static(&[0xff; 3])).is_err());
}

#[test]
fn a_command_is_not_copied_out_of_the_log() {
    let data = payload_to_bytes(&EntryPayload::Normal(Command(Bytes::from(vec![7; 100]))));
    let entry = entry_from_log(1, 1, data.clone()).unwrap();
    let EntryPayload::Normal(Command(command)) = entry.payload else { panic!("no command") };
    assert!(data.as_ptr_range().contains(&command.as_ptr()));
}

#[test]
fn append_requests_round_trip() {
    let read = append_from_wire(request(vec![entry(2, 8), entry(3, 9)])).unwrap();
    assert_eq!(append_to_wire(&read), request(vec![entry(2, 8), entry(3, 9)]));
}

#[test]
fn append_requests_that_openraft_would_assert_on_are_refused() {
    let bad = |change: &dyn Fn(&mut wire::AppendRequest)| {
        let mut request = request(vec![entry(2, 8), entry(3, 9)]);
        change(&mut request);
        append_from_wire(request).is_err()
    };
    assert!(bad(&|request| request.vote = None));
    assert!(bad(&|request| request.vote.as_mut().unwrap().committed = false));
    assert!(bad(&|request| request.vote.as_mut().unwrap().term = 2), "an entry of a later term");
    assert!(bad(&|request| request.previous = None), "the first entry is not the first of all");
    assert!(bad(&|request| request.entries.swap(0, 1)));
    assert!(bad(&|request| request.entries[1] = entry(3, 10)), "a hole");
    assert!(bad(&|request| request.entries[1] = entry(1, 9)), "a term that falls");
    assert!(bad(&|request| request.entries[1].log_id = None));
    assert!(bad(&|request| request.entries[1].payload = None));
    assert!(bad(&|request| {
        let command = Bytes::from(vec![0; COMMAND_BYTES_MAX + 1]);
        request.entries[1].payload = Some(wire::entry::Payload::Command(command));
    }));
    assert!(bad(&|request| request.committed = Some(wire::LogId { term: 9, index: 1 })));
    assert!(bad(&|request| {
        request.entries[1].payload = Some(wire::entry::Payload::Membership(wire::Membership::default()));
    }));
}

#[test]
fn replies_to_what_was_not_asked_are_refused() {
    use wire::append_reply::Result as Reply;
    let asked = Asked::of(&append_from_wire(request(vec![entry(2, 8)])).unwrap());
    let read = |reply| asked.read(wire::AppendReply { result: reply, log_position: 0 });
    let at = |term, index| wire::LogId { term, index };
    let accepted = |id| Some(Reply::Accepted(wire::AppendAccepted { matched: id }));
    assert_eq!(read(accepted(Some(at(2, 8)))), Ok(Ok(Ok(Some(log_id(2, 8))))));
    assert!(read(accepted(Some(at(2, 9)))).is_err());
    assert!(read(Some(Reply::Conflict(at(2, 7)))).is_ok());
    assert!(read(Some(Reply::Conflict(at(2, 6)))).is_err());
    assert!(read(None).is_err());

    let heartbeat = append_from_wire(wire::AppendRequest { previous: None, ..request(vec![]) }).unwrap();
    let conflict = wire::AppendReply { result: Some(Reply::Conflict(at(0, 0))), log_position: 0 };
    assert!(Asked::of(&heartbeat).read(conflict).is_err(), "nothing cannot conflict");
}

#[test]
fn memberships_and_votes_round_trip() {
    let stored = StoredMembership::new(Some(log_id(1, 2)), membership(&[4, 5, 6]));
    assert_eq!(stored_membership_from_wire(stored_membership_to_wire(&stored)), Ok(stored));
    let empty = StoredMembership::default();
    assert_eq!(stored_membership_from_wire(stored_membership_to_wire(&empty)), Ok(empty));
    let voter_without_place =
        wire::Membership { configs: vec![wire::membership::Config { voters: vec![1] }], members: Vec::new() };
    assert!(membership_from_wire(voter_without_place).is_err());
    for vote in [Vote::new(3, 1), Vote::new_committed(4, 2)] {
        assert_eq!(vote_from_bytes(&vote_to_bytes(&vote)), Ok(vote));
    }
}

#[test]
fn a_snapshot_no_leader_can_have_is_refused() {
    let vote = Some(wire::Vote { term: 3, replica_id: 1, committed: true });
    let stored = StoredMembership::new(Some(log_id(1, 0)), membership(&[1]));
    let stored = || Some(stored_membership_to_wire(&stored));
    let last = |term| Some(wire::LogId { term, index: 9 });
    assert!(snapshot_from_wire(vote, last(3), stored()).is_ok());
    assert!(snapshot_from_wire(vote, last(4), stored()).is_err());
    assert!(snapshot_from_wire(vote, None, stored()).is_err());
    assert!(snapshot_from_wire(None, last(3), stored()).is_err());
    assert!(snapshot_from_wire(vote, last(3), Some(wire::StoredMembership::default())).is_err());
    let late = StoredMembership::new(Some(log_id(1, 10)), membership(&[1]));
    assert!(snapshot_from_wire(vote, last(3), Some(stored_membership_to_wire(&late))).is_err());
}
