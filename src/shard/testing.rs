//! A shard over an ordered map, and short forms of commands, for the tests of this room.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::ShardMachine;
use crate::proto::internal::v1::command_result::Kind as ResultKind;
use crate::proto::internal::v1::shard_command::Kind;
use crate::proto::internal::v1::shard_read::{self, Kind as ReadKind};
use crate::proto::internal::v1::shard_read_result::{self, Kind as ReadResultKind};
use crate::proto::internal::v1::{CommandResult, Refusal, ShardCommand, ShardRead};
use crate::proto::v1::operation::Kind as OperationKind;
use crate::proto::v1::{
    Compare, DeleteRange, ErrorCode, Operation, Put, Record, SessionStamp, Transaction, TransactionResult, compare,
};
use crate::raft::apply::{Apply, LogPosition};
use crate::storage::engine::{Direction, EngineError, KeyRange, PairResult, StoreId, View, WriteSet};

/// An ordered map as a view.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Pairs(pub(crate) BTreeMap<Bytes, Bytes>);

impl View for Pairs {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan<'a>(&'a self, range: KeyRange<'_>, direction: Direction) -> Box<dyn Iterator<Item = PairResult> + 'a> {
        let pairs = self.0.range::<[u8], _>(range).map(|(key, value)| Ok((key.clone(), value.clone())));
        match direction {
            Direction::Forward => Box::new(pairs),
            Direction::Reverse => Box::new(pairs.rev()),
        }
    }
}

/// A machine and its state.
#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) pairs: Pairs,
    pub(crate) machine: ShardMachine,
    index: u64,
}

impl Shard {
    /// Applies commands as one run: one batch.
    pub(crate) fn run(&mut self, commands: &[ShardCommand]) -> Vec<CommandResult> {
        let mut state = WriteSet::new(&self.pairs);
        let mut results = Vec::new();
        for command in commands {
            self.index += 1;
            let at = LogPosition { term: 1, index: self.index };
            let answer = self.machine.apply(&mut state, at, &command.encode_to_vec().into()).unwrap();
            results.push(CommandResult::decode(answer).unwrap());
        }
        for (_, key, value) in state.into_batch(StoreId(1)).writes {
            match value {
                Some(value) => drop(self.pairs.0.insert(key, value)),
                None => drop(self.pairs.0.remove(&key)),
            }
        }
        self.machine.applied(&self.pairs, LogPosition { term: 1, index: self.index });
        results
    }

    pub(crate) fn one(&mut self, command: ShardCommand) -> CommandResult {
        self.run(&[command]).remove(0)
    }

    pub(crate) fn ok(&mut self, command: ShardCommand) -> TransactionResult {
        match self.one(command).kind {
            Some(ResultKind::Transaction(result)) => result,
            other => panic!("expected a transaction's result, got {other:?}"),
        }
    }

    pub(crate) fn refused(&mut self, command: ShardCommand) -> Refusal {
        match self.one(command).kind {
            Some(ResultKind::Refusal(refusal)) => refusal,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    pub(crate) fn open_session(&mut self) -> u64 {
        match self.one(command(Kind::OpenSession(Default::default()))).kind {
            Some(ResultKind::SessionId(id)) => id,
            other => panic!("expected a session, got {other:?}"),
        }
    }

    pub(crate) fn read(&self, kind: ReadKind) -> Result<ReadResultKind, ErrorCode> {
        let result = super::read::execute(&self.pairs, &ShardRead { kind: Some(kind) }).unwrap();
        let kind = result.kind.unwrap();
        if let ReadResultKind::Refusal(refusal) = kind {
            return Err(refusal.detail.unwrap().code());
        }
        Ok(kind)
    }

    pub(crate) fn get(&self, key: &[u8], revision: u64) -> Result<Option<Record>, ErrorCode> {
        let answer = self.read(ReadKind::Get(shard_read::Get { key: Bytes::copy_from_slice(key), revision }))?;
        let ReadResultKind::Get(result) = answer else { panic!("expected a record, got {answer:?}") };
        Ok(result.record)
    }

    pub(crate) fn scan(&self, scan: shard_read::Scan) -> Result<shard_read_result::Scan, ErrorCode> {
        let answer = self.read(ReadKind::Scan(scan))?;
        let ReadResultKind::Scan(result) = answer else { panic!("expected a page, got {answer:?}") };
        Ok(result)
    }

    pub(crate) fn count(&self, start: &[u8], end: &[u8], revision: u64) -> Result<u64, ErrorCode> {
        let (start, end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        let answer = self.read(ReadKind::Count(shard_read::Count { start, end, revision }))?;
        let ReadResultKind::Count(result) = answer else { panic!("expected a count, got {answer:?}") };
        Ok(result.count)
    }

    /// Pairs in the table that `first` names.
    pub(crate) fn pairs_of(&self, first: u8) -> usize {
        self.pairs.0.keys().filter(|key| key[0] == first).count()
    }
}

pub(crate) fn command(kind: Kind) -> ShardCommand {
    ShardCommand { kind: Some(kind), session: None, epoch: 1 }
}

pub(crate) fn txn(success: Vec<Operation>) -> ShardCommand {
    command(Kind::Transaction(Transaction { success, ..Transaction::default() }))
}

pub(crate) fn stamped(command: ShardCommand, session_id: u64, sequence: u64, lowest: u64) -> ShardCommand {
    let stamp = SessionStamp { session_id, sequence, lowest_unacknowledged: lowest };
    ShardCommand { session: Some(stamp), ..command }
}

pub(crate) fn operation(kind: OperationKind) -> Operation {
    Operation { kind: Some(kind) }
}

pub(crate) fn put(key: &[u8], value: &[u8]) -> Operation {
    put_ttl(key, value, 0)
}

pub(crate) fn put_ttl(key: &[u8], value: &[u8], ttl_ms: u64) -> Operation {
    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    operation(OperationKind::Put(Put { key, value, ttl_ms, ..Put::default() }))
}

pub(crate) fn delete(key: &[u8], range_end: &[u8]) -> Operation {
    let (key, range_end) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(range_end));
    operation(OperationKind::Delete(DeleteRange { key, range_end, previous: false }))
}

pub(crate) fn compare(key: &[u8], relation: compare::Relation, operand: compare::Operand) -> Compare {
    Compare {
        key: Bytes::copy_from_slice(key),
        relation: relation.into(),
        operand: Some(operand),
        range_end: Bytes::new(),
    }
}
