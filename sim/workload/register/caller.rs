//! One client of the history: with a session, or without one.

use quorate::client::{
    BatchOperation, Client, PutOptions, Result, Session, ShardOutcome, TransactionResult, Txn, Written,
};

/// Writes exactly once with a session, at most once without.
pub(super) struct Caller {
    pub(super) id: u64,
    pub(super) client: Client,
    session: Option<Session>,
}

/// Calls the session if there is one.
macro_rules! through {
    ($caller:ident.$method:ident($($argument:expr),*)) => {
        match &$caller.session {
            Some(session) => session.$method($($argument),*).await,
            None => $caller.client.$method($($argument),*).await,
        }
    };
}

impl Caller {
    pub(super) fn new(id: u64, client: Client, has_session: bool) -> Self {
        let session = has_session.then(|| client.session());
        Self { id, client, session }
    }

    /// Another client on the same connections. It may go on with the session: what became of the
    /// write before must not matter to it.
    pub(super) fn successor(self, id: u64, keeps_session: bool) -> Self {
        let has_session = self.session.is_some();
        match self.session {
            Some(session) if keeps_session => Self { id, session: Some(session), client: self.client },
            _ => Self::new(id, self.client, has_session),
        }
    }

    pub(super) async fn put(&self, key: &str, value: String, options: &PutOptions) -> Result<Written> {
        through!(self.put_with(key.to_owned(), value, options))
    }

    pub(super) async fn delete(&self, key: &str) -> Result<bool> {
        through!(self.delete(key.to_owned()))
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<TransactionResult> {
        through!(self.txn(txn))
    }

    pub(super) async fn batch(&self, operations: &[BatchOperation]) -> Result<Vec<ShardOutcome>> {
        through!(self.batch(operations))
    }

    pub(super) async fn close(self) {
        if let Some(session) = self.session {
            session.close().await;
        }
    }
}
