//! The election service: campaign, proclaim, leader, observe and resign.

use etcd_client::{CampaignResponse, Client, GetOptions, LeaderKey, LeaderResponse, ProclaimOptions, ResignOptions};
use tonic::Code;

use super::answers::{below, get, refusal, text};
use super::target::Target;
use crate::harness::eventually;

const LONG: i64 = 600;

async fn grant(client: &mut Client) -> i64 {
    client.lease_grant(LONG, None).await.unwrap().id()
}

fn led_by(mut campaign: CampaignResponse) -> LeaderKey {
    campaign.take_leader().expect("whoever won leads")
}

async fn resign(client: &mut Client, leader: &LeaderKey) {
    client.resign(Some(ResignOptions::new().with_leader(leader.clone()))).await.unwrap();
}

fn value(answer: &LeaderResponse) -> String {
    text(answer.kv().expect("somebody leads").value())
}

/// Waits until so many campaign, the leader included.
async fn in_line(client: &Client, name: &str, count: i64) {
    eventually("campaigns", || async {
        let waiting = below(&mut client.clone(), &format!("{name}/"), GetOptions::new()).await;
        (waiting.count() == count).then_some(())
    })
    .await;
}

/// Who wins has a key below the election's name, with the proclaimed value, that hangs on the lease.
pub(crate) async fn campaign_and_proclaim(target: &Target) {
    let mut client = target.client().await;
    let name = "election/one";
    let lease = grant(&mut client).await;
    let leader = led_by(client.campaign(name, "first", lease).await.unwrap());
    assert_eq!((leader.name(), text(leader.key())), (name.as_bytes(), format!("{name}/{lease:x}")));
    let kv = get(&mut client, leader.key()).await.unwrap();
    assert_eq!((kv.value(), kv.lease(), kv.create_revision()), (&b"first"[..], lease, leader.rev()));
    assert_eq!(leader.lease(), lease);

    client.proclaim("second", Some(ProclaimOptions::new().with_leader(leader.clone()))).await.unwrap();
    let shown = client.leader(name).await.unwrap();
    assert_eq!(value(&shown), "second");
    let kv = shown.kv().unwrap();
    assert_eq!((kv.key(), kv.create_revision(), kv.version()), (leader.key(), leader.rev(), 2));
    // To campaign again is to go on leading, with another value.
    let again = led_by(client.campaign(name, "third", lease).await.unwrap());
    assert_eq!((again.key(), again.rev()), (leader.key(), leader.rev()));
    assert_eq!(value(&client.leader(name).await.unwrap()), "third");
    resign(&mut client, &leader).await;
    assert!(get(&mut client, leader.key()).await.is_none());
}

/// An election nobody leads has no leader; whoever led and has resigned may proclaim nothing.
pub(crate) async fn nobody_leads(target: &Target) {
    let mut client = target.client().await;
    let name = "election/nobody";
    let no_leader = (Code::Unknown, "election: no leader".to_owned());
    assert_eq!(refusal(client.leader(name).await), no_leader);
    let lease = grant(&mut client).await;
    let leader = led_by(client.campaign(name, "x", lease).await.unwrap());
    resign(&mut client, &leader).await;
    assert_eq!(refusal(client.leader(name).await), no_leader);
    let late = client.proclaim("y", Some(ProclaimOptions::new().with_leader(leader.clone()))).await;
    assert_eq!(refusal(late), (Code::Unknown, "election: not leader".to_owned()));
    // To resign twice is no error.
    resign(&mut client, &leader).await;
    let no_lease = client.campaign(name, "x", 4_711_321).await;
    assert_eq!(refusal(no_lease), (Code::Unknown, "etcdserver: requested lease not found".to_owned()));
}

/// Those who campaign while somebody leads follow one by one, in the order in which they came.
pub(crate) async fn successors_in_line(target: &Target) {
    let mut client = target.client().await;
    let name = "election/line";
    let lease = grant(&mut client).await;
    let mut leader = led_by(client.campaign(name, "0", lease).await.unwrap());
    let (told, mut won) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = tokio::task::JoinSet::new();
    for number in 1..=3 {
        let mut candidate = target.client_of(number % target.endpoints.len()).await;
        let told = told.clone();
        waiting.spawn(async move {
            let lease = grant(&mut candidate).await;
            told.send(led_by(candidate.campaign(name, number.to_string(), lease).await.unwrap())).unwrap();
        });
        in_line(&client, name, i64::try_from(number).unwrap() + 1).await;
    }
    for number in 1..=3 {
        assert!(won.try_recv().is_err(), "somebody leads");
        if number == 2 {
            client.lease_revoke(leader.lease()).await.unwrap();
        } else {
            resign(&mut client, &leader).await;
        }
        leader = won.recv().await.unwrap();
        assert_eq!(value(&client.leader(name).await.unwrap()), number.to_string());
    }
    resign(&mut client, &leader).await;
}

/// Who observes is shown the leader that there is, what it proclaims, and those after it.
pub(crate) async fn observes(target: &Target) {
    let mut client = target.client_of(0).await;
    let name = "election/observed";
    let (one, other) = (grant(&mut client).await, grant(&mut client).await);
    let leader = led_by(client.campaign(name, "one", one).await.unwrap());
    let mut observed = client.observe(name).await.unwrap();
    assert_eq!(value(&observed.message().await.unwrap().unwrap()), "one");
    client.proclaim("one again", Some(ProclaimOptions::new().with_leader(leader.clone()))).await.unwrap();
    let shown = observed.message().await.unwrap().unwrap();
    assert_eq!(value(&shown), "one again");
    assert_eq!(shown.kv().unwrap().key(), leader.key());

    resign(&mut client, &leader).await;
    let second = led_by(client.campaign(name, "two", other).await.unwrap());
    let shown = observed.message().await.unwrap().unwrap();
    assert_eq!(value(&shown), "two");
    assert_eq!(shown.kv().unwrap().key(), second.key());
    resign(&mut client, &second).await;
}

/// Who observes before anybody leads is shown the first who does.
pub(crate) async fn observes_before_the_first(target: &Target) {
    let mut client = target.client_of(0).await;
    let name = "election/early";
    let mut observer = client.clone();
    let observing = tokio::spawn(async move {
        let mut observed = observer.observe(name).await.unwrap();
        value(&observed.message().await.unwrap().unwrap())
    });
    let lease = grant(&mut client).await;
    let leader = led_by(client.campaign(name, "first", lease).await.unwrap());
    assert_eq!(observing.await.unwrap(), "first");
    resign(&mut client, &leader).await;
}
