use std::collections::BTreeSet;

use super::leased::{Owner, Record};

const ID: i64 = 7;

/// A lease of 10 s, granted at 1 s, with two keys; and a key without.
fn owner() -> Owner {
    let mut owner = Owner::default();
    owner.granted(ID, 10, 1_000, 1_200).unwrap();
    owner.wrote("a", Some("1"), ID).unwrap();
    owner.wrote("b", Some("2"), ID).unwrap();
    owner.wrote("c", Some("3"), 0).unwrap();
    owner
}

fn records(keys: &[(&str, &str, i64)]) -> Vec<Record> {
    keys.iter().map(|(key, value, lease)| ((*key).to_owned(), (*value).to_owned(), *lease)).collect()
}

fn broken(owner: &mut Owner, keys: &[(&str, &str, i64)], now_ms: u64) -> &'static str {
    owner.read(&records(keys), now_ms).unwrap_err().0
}

fn named(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn a_lease_ends_after_its_time_and_its_keys_with_it() {
    let mut owner = owner();
    let all = [("a", "1", ID), ("b", "2", ID), ("c", "3", 0)];
    assert_eq!(owner.read(&records(&all), 1_500), Ok(vec!["a".to_owned(), "b".to_owned()]));
    owner.renewed(ID, 10, 2_000).unwrap();
    assert_eq!(broken(&mut owner, &all[2..], 9_999), "no lease ends early");
    assert_eq!(owner.read(&records(&all[2..]), 10_000), Ok(Vec::new()));
    assert!(owner.lease(ID).unwrap().is_gone());
    assert_eq!(broken(&mut owner, &all, 11_000), "keys go together with their lease");
    assert_eq!(owner.wrote("a", Some("4"), ID).unwrap_err().0, "a lease that is gone stays gone");
    assert_eq!(owner.renewed(ID, 10, 12_000).unwrap_err().0, "a lease that is gone stays gone");
    assert_eq!(owner.exists(ID).unwrap_err().0, "a lease that is gone stays gone");
    owner.granted(ID, 5, 12_000, 12_100).unwrap();
    assert!(owner.renewed(ID, 5, 12_200).is_ok());
}

#[test]
fn keys_that_do_not_go_together_are_noticed() {
    assert_eq!(broken(&mut owner(), &[("b", "2", ID), ("c", "3", 0)], 20_000), "keys go together with their lease");
    assert_eq!(broken(&mut owner(), &[("a", "1", ID), ("b", "2", ID)], 20_000), "no acknowledged write is lost");
    let mut moved = owner();
    moved.wrote("a", Some("4"), 0).unwrap();
    assert_eq!(moved.read(&records(&[("a", "4", 0), ("c", "3", 0)]), 20_000), Ok(Vec::new()));
    assert_eq!(broken(&mut moved, &[("c", "3", 0)], 21_000), "no acknowledged write is lost");
    assert_eq!(broken(&mut owner(), &[("a", "1", 8), ("b", "2", ID), ("c", "3", 0)], 2_000), "reads are linearizable");
}

#[test]
fn what_is_told_of_a_lease_must_fit() {
    let mut owner = owner();
    owner.has(ID, 10, 9, &named(&["a", "b"])).unwrap();
    assert!(owner.has(ID, 10, 11, &named(&["a", "b"])).is_err(), "more than it was granted");
    assert!(owner.has(ID, 9, 9, &named(&["a", "b"])).is_err());
    assert!(owner.has(ID, 10, 9, &named(&["a"])).is_err());
    assert!(owner.has(ID, 10, 9, &named(&["a", "b", "c"])).is_err());
    assert_eq!(owner.granted(ID, 5, 8_000, 8_900).unwrap_err().0, "no lease ends early");
    assert_eq!(owner.gone(ID, 8_999).unwrap_err().0, "no lease ends early");
    owner.gone(ID, 9_000).unwrap();
    assert!(owner.has(ID, 10, 9, &named(&["a", "b"])).is_err(), "it is over");
}

#[test]
fn what_has_no_answer_leaves_room() {
    let mut owner = owner();
    owner.may_end(ID);
    assert_eq!(owner.read(&records(&[("c", "3", 0)]), 1_300), Ok(Vec::new()), "it may have been ended");
    owner.unsure("c", Some("4"), 0);
    assert_eq!(owner.read(&[], 1_400), Ok(Vec::new()));
    assert_eq!(owner.read(&records(&[("c", "4", 0)]), 1_500), Ok(Vec::new()), "it may stay");
    owner.granted(8, 10, 1_500, 1_600).unwrap();
    owner.unsure("d", Some("5"), 8);
    owner.has(8, 10, 10, &named(&["d"])).unwrap();
    assert_eq!(owner.read(&records(&[("d", "5", 8)]), 1_700), Ok(vec!["d".to_owned()]), "it must go");
}
