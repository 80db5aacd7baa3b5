//! The lock service: who comes first holds it, the others wait in the order in which they came.

use etcd_client::{Client, GetOptions, LockOptions};
use tonic::Code;

use super::answers::{below, get, put, refusal, text};
use super::target::Target;
use crate::harness::eventually;

const LONG: i64 = 600;

async fn grant(client: &mut Client, ttl: i64) -> i64 {
    client.lease_grant(ttl, None).await.unwrap().id()
}

async fn lock(client: &mut Client, name: &str, lease: i64) -> String {
    let locked = client.lock(name, Some(LockOptions::new().with_lease(lease))).await.unwrap();
    assert!(locked.header().unwrap().revision() > 0);
    text(locked.key())
}

/// Waits until so many stand in line for a lock, its holder included.
async fn in_line(client: &Client, name: &str, count: i64) {
    eventually("line for the lock", || async {
        let waiting = below(&mut client.clone(), &format!("{name}/"), GetOptions::new()).await;
        (waiting.count() == count).then_some(())
    })
    .await;
}

/// Whoever holds a lock has a key below its name, which ends in the lease's id and hangs on the lease.
pub(crate) async fn key_of_a_lock(target: &Target) {
    let mut client = target.client().await;
    let name = "lock/key";
    let lease = grant(&mut client, LONG).await;
    let key = lock(&mut client, name, lease).await;
    assert_eq!(key, format!("{name}/{lease:x}"));
    let kv = get(&mut client, &key).await.unwrap();
    assert_eq!((kv.lease(), kv.value(), kv.version()), (lease, &b""[..], 1));
    // Who has it, has it again.
    assert_eq!(lock(&mut client, name, lease).await, key);
    let again = get(&mut client, &key).await.unwrap();
    assert_eq!((again.create_revision(), again.lease()), (kv.create_revision(), lease));
    // Quorate puts it once more: a call before that was given up then takes nothing away.
    assert!(again.mod_revision() >= kv.mod_revision());
    client.unlock(&*key).await.unwrap();
    assert!(get(&mut client, &key).await.is_none());
    // Its end, once more, is nothing; nor is it an error.
    client.unlock(&*key).await.unwrap();
    client.lease_revoke(lease).await.unwrap();
}

/// Without a lease, a lock has one of its own.
pub(crate) async fn lease_of_its_own(target: &Target) {
    let mut client = target.client().await;
    let locked = client.lock("lock/own", None).await.unwrap();
    let kv = get(&mut client, locked.key()).await.unwrap();
    assert!(kv.lease() != 0);
    assert_eq!(text(locked.key()), format!("lock/own/{:x}", kv.lease()));
    let left = client.lease_time_to_live(kv.lease(), None).await.unwrap();
    assert!(left.ttl() > 0);
    assert_eq!(left.granted_ttl(), 60);
    client.unlock(locked.key()).await.unwrap();
    client.lease_revoke(kv.lease()).await.unwrap();
}

/// Those who wait get the lock one by one, in the order in which they came.
pub(crate) async fn waits_in_line(target: &Target) {
    let mut client = target.client().await;
    let name = "lock/line";
    let first = grant(&mut client, LONG).await;
    let mut held = lock(&mut client, name, first).await;
    let (told, mut got) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = tokio::task::JoinSet::new();
    for number in 1..=3 {
        let mut waiter = target.client_of(number % target.endpoints.len()).await;
        let lease = grant(&mut waiter, LONG).await;
        let told = told.clone();
        waiting.spawn(async move {
            let key = lock(&mut waiter, name, lease).await;
            told.send((number, key)).unwrap();
        });
        in_line(&client, name, i64::try_from(number).unwrap() + 1).await;
    }
    for number in 1..=3 {
        assert!(got.try_recv().is_err(), "the lock is held");
        client.unlock(&*held).await.unwrap();
        let next = got.recv().await.unwrap();
        assert_eq!(next.0, number);
        held = next.1;
    }
    client.unlock(&*held).await.unwrap();
}

/// Locks of different names have nothing to do with each other, though one is a prefix of the other.
pub(crate) async fn names_are_apart(target: &Target) {
    let mut client = target.client().await;
    let lease = grant(&mut client, LONG).await;
    let mut keys = Vec::new();
    for name in ["lock/apart", "lock/apart2", "lock/apar"] {
        keys.push(lock(&mut client, name, lease).await);
    }
    assert_eq!(keys.len(), 3);
    client.lease_revoke(lease).await.unwrap();
}

/// A holder whose lease ends holds nothing: the next in line does.
pub(crate) async fn passes_on_when_a_lease_ends(target: &Target) {
    let mut client = target.client().await;
    for (name, ttl) in [("lock/revoked", LONG), ("lock/expired", 1)] {
        let lease = grant(&mut client, ttl).await;
        let held = lock(&mut client, name, lease).await;
        let mut waiter = client.clone();
        let waiting = tokio::spawn(async move {
            let lease = grant(&mut waiter, LONG).await;
            lock(&mut waiter, name, lease).await
        });
        if ttl == LONG {
            in_line(&client, name, 2).await;
            client.lease_revoke(lease).await.unwrap();
        }
        let next = waiting.await.unwrap();
        assert_ne!(next, held);
        assert!(get(&mut client, &held).await.is_none());
        client.unlock(next).await.unwrap();
    }
}

/// Who waits and loses its lease stands in line no longer.
pub(crate) async fn lease_ends_while_waiting(target: &Target) {
    let mut client = target.client().await;
    let name = "lock/lost";
    let lease = grant(&mut client, LONG).await;
    let held = lock(&mut client, name, lease).await;
    let lost = grant(&mut client, LONG).await;
    let mut waiter = client.clone();
    let waiting = tokio::spawn(async move {
        let options = LockOptions::new().with_lease(lost);
        waiter.lock(name, Some(options)).await
    });
    in_line(&client, name, 2).await;
    client.lease_revoke(lost).await.unwrap();
    in_line(&client, name, 1).await;
    // It is answered when its turn comes. etcd 3.4 says that it has the lock, later ones that it cannot.
    client.unlock(held).await.unwrap();
    let answer = refusal(waiting.await.unwrap());
    assert!(answer.0 == Code::Ok || answer == (Code::Unknown, "mutex: session is expired".to_owned()), "{answer:?}");
    in_line(&client, name, 0).await;
    let next = grant(&mut client, LONG).await;
    lock(&mut client, name, next).await;
    client.lease_revoke(next).await.unwrap();
}

/// A waiter that gives up leaves the line.
pub(crate) async fn gives_up(target: &Target) {
    let mut client = target.client().await;
    let name = "lock/gives-up";
    let lease = grant(&mut client, LONG).await;
    let held = lock(&mut client, name, lease).await;
    let mut waiter = client.clone();
    let waiting = tokio::spawn(async move {
        let lease = grant(&mut waiter, LONG).await;
        lock(&mut waiter, name, lease).await
    });
    in_line(&client, name, 2).await;
    waiting.abort();
    in_line(&client, name, 1).await;
    assert!(get(&mut client, &held).await.is_some());
    client.unlock(held).await.unwrap();
}

/// A lock of a lease that is not there is refused; unlocking deletes whatever key is named.
pub(crate) async fn refusals(target: &Target) {
    let mut client = target.client().await;
    let refused = refusal(client.lock("lock/none", Some(LockOptions::new().with_lease(4_711_123))).await);
    assert_eq!(refused, (Code::Unknown, "etcdserver: requested lease not found".to_owned()));
    put(&mut client, "lock/any-key", "x").await;
    client.unlock("lock/any-key").await.unwrap();
    assert!(get(&mut client, "lock/any-key").await.is_none());
}
