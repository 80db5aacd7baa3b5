use super::fencing::{Before, Fencing, Guarded, Hold, Told};

fn before(value: &str, modified: u64, version: u64) -> Option<Before> {
    Some(Before { value: value.to_owned(), modified, version })
}

fn applied(fence: u64, value: &str, revision: u64, before: Option<Before>) -> Guarded {
    Guarded { fence, value: value.to_owned(), told: Told::Applied { revision, before } }
}

fn told(fence: u64, value: &str, told: Told) -> Guarded {
    Guarded { fence, value: value.to_owned(), told }
}

/// Two holders after each other, with two writes each, one of them without an answer.
fn story() -> Fencing {
    let holds = vec![Hold { client: 0, fence: 10, granted: 10 }, Hold { client: 1, fence: 11, granted: 20 }];
    let writes = vec![
        applied(10, "a", 12, None),
        told(10, "b", Told::Nothing),
        told(10, "late", Told::Refused),
        applied(11, "c", 21, before("b", 15, 2)),
        applied(11, "d", 25, before("c", 21, 3)),
    ];
    Fencing { holds, writes }
}

fn broken(story: &Fencing) -> &'static str {
    story.judge(before("d", 25, 4).as_ref()).unwrap_err().0
}

#[test]
fn holders_after_each_other_are_none() {
    assert_eq!(story().judge(before("d", 25, 4).as_ref()), Ok(6));
    assert_eq!(Fencing::default().judge(None), Ok(0));
}

#[test]
fn two_holders_are_noticed() {
    let mut both = story();
    both.writes.push(applied(10, "e", 23, before("c", 21, 3)));
    both.writes[4] = applied(11, "d", 25, before("e", 23, 4));
    assert_eq!(both.judge(before("d", 25, 5).as_ref()).unwrap_err().0, "a lock has one holder");
    let mut early = story();
    early.holds[1].granted = 14;
    assert_eq!(broken(&early), "a lock has one holder", "b came after the next holder was told");
    let mut twice = story();
    twice.holds.push(Hold { client: 2, fence: 11, granted: 20 });
    assert_eq!(broken(&twice), "a lock has one holder");
}

#[test]
fn lost_and_strange_writes_are_noticed() {
    assert_eq!(story().judge(before("c", 21, 3).as_ref()).unwrap_err().0, "no acknowledged write is lost");
    assert_eq!(story().judge(None).unwrap_err().0, "no acknowledged write is lost");
    assert_eq!(story().judge(before("x", 26, 5).as_ref()).unwrap_err().0, "nothing unwritten is present");
    assert_eq!(story().judge(before("d", 26, 4).as_ref()).unwrap_err().0, "a write has one revision");
    assert_eq!(story().judge(before("late", 26, 5).as_ref()).unwrap_err().0, "what is not applied never shows");
    let mut forgotten = story();
    forgotten.writes[4] = applied(11, "d", 25, before("a", 12, 1));
    assert_eq!(forgotten.judge(before("d", 25, 2).as_ref()).unwrap_err().0, "no acknowledged write is lost");
    let mut hidden = story();
    hidden.writes[4] = applied(11, "d", 25, before("c", 21, 3));
    hidden.writes[3] = applied(11, "c", 21, before("a", 12, 1));
    assert_eq!(broken(&hidden), "an answer has the record before");
    let mut unwritten = story();
    unwritten.writes.remove(1);
    unwritten.writes[2] = applied(11, "c", 21, before("a", 12, 2));
    assert_eq!(broken(&unwritten), "an answer has the record before");
}
