//! `06 session → StoredSession`.

use bytes::Bytes;

use super::{Bounds, Table};
use crate::proto::internal::v1::StoredSession;
use crate::storage::engine::{Direction, EngineError, View};

pub(crate) fn key(session: u64) -> Bytes {
    Table::Session.numbered(session)
}

pub(crate) fn get(view: &dyn View, session: u64) -> Result<Option<StoredSession>, EngineError> {
    Table::Session.get(view, &key(session))
}

/// All sessions, ascending.
pub(crate) fn all(view: &dyn View) -> impl Iterator<Item = Result<(u64, StoredSession), EngineError>> + '_ {
    Bounds::whole(Table::Session).scan(view, Direction::Forward).map(|pair| {
        let (key, value) = pair?;
        let (session, _) = Table::Session.strip_number(&key)?;
        Ok((session, Table::Session.decode(&key, value)?))
    })
}
