//! What cases read out of answers, and the short ways in which they ask.

use etcd_client::{Client, Error, GetOptions, GetResponse, KeyValue, ResponseHeader};
use tonic::Code;

use crate::harness::STUCK;

/// A key or a value as text; what is no UTF-8 shows as such.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The keys without the case's prefix, in the order of the answer.
pub(crate) fn names(kvs: &[KeyValue], prefix: &str) -> Vec<String> {
    kvs.iter().map(|kv| text(kv.key()).strip_prefix(prefix).expect("a key of this case").to_owned()).collect()
}

/// The same, run together: `abc` for the keys `a`, `b` and `c`.
pub(crate) fn word(kvs: &[KeyValue], prefix: &str) -> String {
    names(kvs, prefix).concat()
}

/// The revision of a header, which every answer has.
pub(crate) fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision()
}

/// Puts a key; returns the revision that made it.
pub(crate) async fn put(client: &mut Client, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> i64 {
    let put = client.put(key.as_ref(), value.as_ref(), None).await.unwrap();
    revision(put.header())
}

/// Puts keys of one letter below a prefix, each with its letter for a value. Returns their revisions.
pub(crate) async fn put_letters(client: &mut Client, prefix: &str, letters: &str) -> Vec<i64> {
    let mut revisions = Vec::new();
    for letter in letters.chars() {
        revisions.push(put(client, format!("{prefix}{letter}"), letter.to_string()).await);
    }
    revisions
}

/// Reads one key.
pub(crate) async fn get(client: &mut Client, key: impl AsRef<[u8]>) -> Option<KeyValue> {
    client.get(key.as_ref(), None).await.unwrap().kvs().first().cloned()
}

/// Reads all keys below a prefix, with more options.
pub(crate) async fn below(client: &mut Client, prefix: &str, options: GetOptions) -> GetResponse {
    client.get(prefix, Some(options.with_prefix())).await.unwrap()
}

/// The code and the message of a refusal.
pub(crate) fn refusal<T>(result: Result<T, Error>) -> (Code, String) {
    match result {
        Ok(_) => (Code::Ok, String::new()),
        Err(Error::GRpcStatus(status)) => (status.code(), status.message().to_owned()),
        Err(other) => panic!("no status: {other}"),
    }
}

/// Calls until it is refused.
pub(crate) async fn refused_at_last<T, F: Future<Output = Result<T, Error>>>(
    mut call: impl FnMut() -> F,
) -> (Code, String) {
    let since = std::time::Instant::now();
    loop {
        let refused = refusal(call().await);
        if refused.0 != Code::Ok {
            return refused;
        }
        assert!(since.elapsed() < STUCK, "it is still not refused");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
