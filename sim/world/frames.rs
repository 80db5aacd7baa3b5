//! What faults do to single frames between nodes: late ones and repeated ones, and connections that
//! break between two of them.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use quorate::env::net::{Fate, FrameKind};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What a rule does to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mischief {
    Late,
    Twice,
}

/// Frames of some receivers that are late, or come twice.
pub(crate) struct Rule {
    pub(crate) mischief: Mischief,
    /// Hosts that receive them.
    pub(crate) hosts: Vec<String>,
    /// How many of a hundred frames.
    pub(crate) percent: u64,
    /// How late the frame or its copy may be.
    pub(crate) longest: Duration,
    /// Where its choices come from.
    pub(crate) seed: u64,
}

/// All rules of a world; of those that fit a frame, the first that takes it decides.
#[derive(Default)]
pub(crate) struct Frames {
    state: Mutex<State>,
    /// By the receiver of the snapshots.
    breaks: Mutex<BTreeMap<String, Breaks>>,
}

/// Connections that break before some frames of a snapshot.
struct Breaks {
    percent: u64,
    chance: SmallRng,
    fired: u64,
}

#[derive(Default)]
struct State {
    last: u64,
    active: Vec<Active>,
}

struct Active {
    number: u64,
    rule: Rule,
    chance: SmallRng,
    /// Calls that are late: their receiver, and until when.
    held: Vec<(String, u64)>,
    fired: u64,
}

impl Frames {
    /// Adds a rule and returns its number.
    pub(crate) fn add(&self, rule: Rule) -> u64 {
        let mut state = self.state.lock();
        state.last += 1;
        let (number, chance) = (state.last, SmallRng::seed_from_u64(rule.seed));
        state.active.push(Active { number, rule, chance, held: Vec::new(), fired: 0 });
        number
    }

    /// Ends a rule. Returns how often it fired: frames that came twice, or calls that others overtook.
    pub(crate) fn remove(&self, number: u64) -> u64 {
        let mut state = self.state.lock();
        let at = state.active.iter().position(|active| active.number == number);
        at.map_or(0, |at| state.active.remove(at).fired)
    }

    /// Lets the connection break before so many of a hundred frames of snapshots to a host.
    pub(crate) fn break_snapshots(&self, host: &str, percent: u64, seed: u64) {
        let breaks = Breaks { percent, chance: SmallRng::seed_from_u64(seed), fired: 0 };
        self.breaks.lock().insert(host.to_owned(), breaks);
    }

    /// Ends that. Returns how many connections broke.
    pub(crate) fn mend_snapshots(&self, host: &str) -> u64 {
        self.breaks.lock().remove(host).map_or(0, |breaks| breaks.fired)
    }

    pub(super) fn breaks_snapshot(&self, host: &str) -> bool {
        let mut breaks = self.breaks.lock();
        let Some(breaks) = breaks.get_mut(host) else { return false };
        let is_hit = breaks.chance.next_u64() % 100 < breaks.percent;
        breaks.fired += u64::from(is_hit);
        is_hit
    }

    pub(super) fn fate(&self, host: &str, frame: FrameKind) -> Fate {
        let mut state = self.state.lock();
        if state.active.is_empty() {
            return Fate::Deliver;
        }
        let now_ms = crate::now_ms();
        let fate = state.active.iter_mut().find_map(|active| active.take(host, frame, now_ms));
        let fate = fate.unwrap_or(Fate::Deliver);
        if !matches!(fate, Fate::Late(_)) {
            state.active.iter_mut().for_each(|active| active.overtaken(host, now_ms));
        }
        fate
    }
}

impl Active {
    /// What becomes of a frame, if this rule takes it.
    fn take(&mut self, host: &str, frame: FrameKind, now_ms: u64) -> Option<Fate> {
        let is_ours = self.rule.hosts.iter().any(|ours| ours == host);
        if !is_ours || self.chance.next_u64() % 100 >= self.rule.percent {
            return None;
        }
        let longest_ms = u64::try_from(self.rule.longest.as_millis()).unwrap_or(u64::MAX);
        let wait_ms = 1 + self.chance.next_u64() % longest_ms.max(1);
        match self.rule.mischief {
            Mischief::Twice => {
                self.fired += 1;
                Some(Fate::Twice(Duration::from_millis(wait_ms)))
            }
            Mischief::Late => {
                if frame == FrameKind::Call {
                    self.held.push((host.to_owned(), now_ms + wait_ms));
                }
                Some(Fate::Late(Duration::from_millis(wait_ms)))
            }
        }
    }

    /// Another frame is acted on before the late calls of its receiver are.
    fn overtaken(&mut self, host: &str, now_ms: u64) {
        let fired = &mut self.fired;
        self.held.retain(|(receiver, until_ms)| {
            let is_overtaken = receiver == host && *until_ms > now_ms;
            *fired += u64::from(is_overtaken);
            !is_overtaken && *until_ms > now_ms
        });
    }
}
