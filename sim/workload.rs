//! What clients do while the world misbehaves, and what must be true of it afterwards.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use quorate::client::{Client, ClientConfig, Condition, Op, Outcome, Relation, Txn};
use quorate::env::disk::MemoryDisk;

use super::world;

/// What one client knows of its writes.
#[derive(Default)]
pub(crate) struct Knowledge {
    /// Keys whose put was acknowledged.
    pub(crate) acknowledged: BTreeSet<String>,
    /// Keys whose put may have happened.
    pub(crate) unknown: BTreeSet<String>,
    /// Increments acknowledged, and those that may have happened.
    pub(crate) increments: u64,
    pub(crate) unknown_increments: u64,
}

pub(crate) type Shared = Rc<RefCell<Knowledge>>;

async fn connect(endpoints: Vec<String>) -> turmoil::Result<Client> {
    let config = ClientConfig::new(endpoints).timeout(Duration::from_secs(10));
    Ok(Client::connect(&world::env(MemoryDisk::new()), config).await?)
}

/// Puts unique keys and counts, under a session, until `until` of simulated time.
pub(crate) async fn write(name: String, endpoints: Vec<String>, until: Duration, knowledge: Shared) -> turmoil::Result {
    let client = connect(endpoints).await?;
    let session = client.session();
    let counter = format!("counter/{name}");
    let mut round = 0;
    while turmoil::sim_elapsed().unwrap_or_default() < until {
        round += 1;
        let key = format!("unique/{name}/{round:05}");
        let put = session.put(key.clone(), format!("{name} wrote {round}")).await;
        tracing::info!(key, outcome = ?put.as_ref().map_err(|error| error.outcome), "put");
        match put {
            Ok(_) => drop(knowledge.borrow_mut().acknowledged.insert(key)),
            Err(error) if error.outcome == Outcome::NotApplied => {}
            Err(_) => drop(knowledge.borrow_mut().unknown.insert(key)),
        }
        increment(&client, &session, &counter, &knowledge).await?;
    }
    Ok(())
}

/// Adds one to a counter that only this client writes. A repeated application would fail its compare.
async fn increment(
    client: &Client,
    session: &quorate::client::Session,
    counter: &str,
    knowledge: &Shared,
) -> turmoil::Result {
    let Ok(record) = client.get(counter.to_owned()).await else { return Ok(()) };
    let version = record.as_ref().map_or(0, |record| record.version);
    let known = knowledge.borrow().increments;
    let most = known + knowledge.borrow().unknown_increments;
    assert!((known..=most).contains(&version), "{counter} is {version}, not in {known}..={most}");
    let txn = Txn::new()
        .when(Condition::version(counter.to_owned(), Relation::Equal, version))
        .then(Op::put(counter.to_owned(), (version + 1).to_string()));
    let result = session.txn(txn).await;
    tracing::info!(counter, version, outcome = ?result.as_ref().map(|result| result.succeeded), "increment");
    let mut knowledge = knowledge.borrow_mut();
    match result {
        Ok(result) if result.succeeded => knowledge.increments += 1,
        // Only an earlier increment of unknown outcome can have come between.
        Ok(_) => assert!(knowledge.unknown_increments > 0, "{counter}: somebody else wrote it"),
        Err(error) if error.outcome == Outcome::NotApplied => {}
        Err(_) => knowledge.unknown_increments += 1,
    }
    Ok(())
}

/// Reads everything back and holds it against what the writer knows.
pub(crate) async fn check(name: String, endpoints: Vec<String>, knowledge: Shared) -> turmoil::Result {
    let client = connect(endpoints).await?;
    let mut present = BTreeSet::new();
    let mut scan = client.scan(quorate::client::Keys::prefix(format!("unique/{name}/")), Default::default());
    while let Some(record) = scan.next().await? {
        present.insert(String::from_utf8(record.key.to_vec())?);
    }
    let record = client.get(format!("counter/{name}")).await?;
    let version = record.map_or(0, |record| record.version);
    let knowledge = knowledge.borrow();
    let lost: Vec<_> = knowledge.acknowledged.difference(&present).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let written: BTreeSet<_> = knowledge.acknowledged.union(&knowledge.unknown).cloned().collect();
    let unwritten: Vec<_> = present.difference(&written).collect();
    assert!(unwritten.is_empty(), "present and never written: {unwritten:?}");
    let (least, most) = (knowledge.increments, knowledge.increments + knowledge.unknown_increments);
    assert!((least..=most).contains(&version), "counter of {name} is {version}, not in {least}..={most}");
    Ok(())
}
