use super::enough_voters::EnoughVoters;
use super::test_events::{check, event, part};

#[test]
fn a_config_with_too_few_voters_is_noticed() {
    let voter = |id| event("voter", 1, 2, 9, id);
    let appended = || event("appended", 1, 2, 9, 77);
    let mut invariant = EnoughVoters::default();
    let joint = [voter(1), voter(2), voter(3), part(voter(2)), part(voter(3)), part(voter(4)), appended()];
    assert_eq!(check(&mut invariant, &joint), Ok(1));
    assert_eq!(check(&mut invariant, &[appended()]), Ok(0), "no entry of members");
    let first_out = [voter(1), voter(2), voter(3), part(voter(2)), part(voter(3)), appended()];
    assert!(check(&mut invariant, &first_out).is_err());
}
