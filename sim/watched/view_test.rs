use super::watched::{Event, Keys, Kinds, Shown, View, What};

const ALL: Kinds = Kinds { puts: true, deletes: true };

fn put(key: &str, revision: u64) -> Event {
    let shown = Shown { value: format!("{key}{revision}"), created: 1, modified: revision, version: 2 };
    Event { key: key.to_owned(), revision, what: What::Put(shown), before: None }
}

fn delete(key: &str, revision: u64) -> Event {
    Event { key: key.to_owned(), revision, what: What::Delete, before: None }
}

fn view(from: u64) -> View {
    View::new("w".to_owned(), Keys { start: "a".to_owned(), end: "m".to_owned() }, ALL, false, from)
}

fn broken(view: &View, events: Vec<Event>) -> &'static str {
    view.clone().show(events, 99, false).unwrap_err().0
}

#[test]
fn what_is_shown_in_order_is_taken_in() {
    let mut view = view(3);
    assert_eq!(view.next(), 3);
    view.show(vec![put("a", 4), put("b", 4), delete("a", 6)], 9, false).unwrap();
    assert_eq!((view.next(), view.events.len()), (7, 3));
    view.bookmark(8).unwrap();
    assert_eq!(view.next(), 9);
    view.show(vec![put("b", 9)], 9, false).unwrap();
    assert_eq!(view.upto, 9);
}

#[test]
fn fragments_are_one_response_and_count_only_as_a_whole() {
    let mut view = view(3);
    view.show(vec![put("a", 4)], 9, true).unwrap();
    assert_eq!((view.next(), view.events.len()), (3, 0));
    view.show(vec![put("b", 4)], 9, false).unwrap();
    assert_eq!((view.next(), view.events.len()), (5, 2));
    view.show(vec![put("a", 5)], 9, true).unwrap();
    view.broke();
    view.show(vec![put("a", 5), put("b", 5)], 9, false).unwrap();
    assert_eq!(view.upto, 5);
}

#[test]
fn going_back_repeating_and_splitting_is_noticed() {
    let mut view = view(3);
    assert_eq!(broken(&view, vec![put("a", 2)]), "a watch repeats and splits nothing");
    assert_eq!(broken(&view, vec![put("a", 5), put("a", 4)]), "a watch is ordered");
    assert_eq!(broken(&view, vec![put("a", 5), put("b", 5), put("a", 5)]), "a watch repeats and splits nothing");
    view.show(vec![put("a", 5)], 9, false).unwrap();
    assert_eq!(broken(&view, vec![put("b", 5)]), "a watch repeats and splits nothing");
    view.bookmark(7).unwrap();
    assert_eq!(broken(&view, vec![put("b", 7)]), "a watch repeats and splits nothing");
    view.show(vec![put("a", 8)], 9, false).unwrap();
    assert_eq!(view.bookmark(7).unwrap_err().0, "a watch is ordered");
}

#[test]
fn what_was_not_asked_for_is_noticed() {
    let mut view = view(3);
    assert_eq!(broken(&view, vec![put("m", 4)]), "a watch shows what it asked for");
    let mut previous = put("a", 4);
    previous.before = Some(Shown { value: "x".to_owned(), created: 1, modified: 1, version: 1 });
    assert_eq!(broken(&view, vec![previous]), "a watch shows what it asked for");
    view.kinds.deletes = false;
    assert_eq!(broken(&view, vec![delete("a", 4)]), "a watch shows what it asked for");
    assert_eq!(view.show(vec![put("a", 4)], 3, false).unwrap_err().0, "an event is what was written");
}

#[test]
fn a_key_alone_is_a_range_of_one() {
    let one = Keys::from("a");
    assert!(one.hold("a") && !one.hold("aa") && !one.hold("b"));
}
