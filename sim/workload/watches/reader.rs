//! Reads of old revisions while compaction goes on: the right answer, or that it is compacted.

use std::rc::Rc;

use super::{CALL, PREFIX, Setup, Watches};
use crate::chance::Chance;
use crate::watched::Keys;
use crate::workload::etcd::{Failed, prefix, revision_of, snapshot};

/// Reads that are kept to be judged in the end.
const KEPT_MAX: usize = 1_000;

impl Watches {
    pub(super) async fn read_on(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("{} read {number}", self.name));
        let mut etcd = self.etcd(&setup, &format!("read {number}"));
        if !self.ready(&setup).await {
            return;
        }
        for _ in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            let (keys, revision) = self.draw_read(&chance);
            let (newest, compacted) = (self.newest.get(), self.compacted.get());
            match etcd.range(CALL, &keys, revision).await {
                Ok(answer) => {
                    let shown = revision_of(answer.header.as_ref());
                    if revision > 0 && revision < compacted {
                        let detail = format!("{revision} was read after all before {compacted} were compacted");
                        setup.seen.violation("what is compacted is refused", detail);
                    }
                    if shown < newest {
                        setup
                            .seen
                            .violation("reads are linearizable", format!("{shown}, but {newest} was acknowledged"));
                    }
                    if self.snapshots.borrow().len() < KEPT_MAX {
                        self.snapshots.borrow_mut().push(snapshot(&keys, revision, &answer));
                    }
                }
                Err(Failed::Not(status)) if status.message().contains("compacted") => {
                    self.refused.borrow_mut().push(revision);
                }
                Err(Failed::Not(status)) if status.message().contains("future") => {
                    let detail = format!("{revision}, but {newest} was acknowledged");
                    setup.seen.violation("a read at a revision shows it", detail);
                }
                Err(Failed::Not(_) | Failed::Open) => {}
            }
            if chance.percent(10) {
                etcd.leave();
            }
            setup.think(&chance).await;
        }
    }

    /// Reads all there is now, when all is well.
    pub(super) async fn read_present(&self, setup: &Setup) -> Result<(), String> {
        let answer = self.etcd(setup, "read back").read_back(CALL, &prefix(PREFIX)).await?;
        self.snapshots.borrow_mut().push(snapshot(&prefix(PREFIX), 0, &answer));
        Ok(())
    }

    fn draw_read(&self, chance: &Chance) -> (Keys, u64) {
        let newest = self.newest.get();
        let revision = match chance.below(10) {
            0..3 => 0,
            3..8 => newest.saturating_sub(chance.below(150)).max(1),
            // Likely the oldest that is left, or one beside it.
            8 if self.compacted.get() > 1 => (self.compacted.get() + chance.below(3) - 1).min(newest),
            _ => chance.between(1, newest + 1),
        };
        let keys = match chance.below(4) {
            0 => prefix(PREFIX),
            1 => prefix(&format!("{PREFIX}a/")),
            2 => prefix(&format!("{PREFIX}b/")),
            _ => Keys::from(format!("{PREFIX}a/{}", chance.below(4)).as_str()),
        };
        (keys, revision)
    }
}
