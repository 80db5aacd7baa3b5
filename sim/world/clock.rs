//! The clocks of the nodes: a rate each for the monotonic one, an offset and a rate each for the wall,
//! and processes that stand still.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use quorate::env::time::{self, Instant, TimeHook};
use tokio::runtime::{Handle, Id};

/// How often a process that stands still is asked whether it goes on.
const STILL: Duration = Duration::from_millis(1);
/// The day on which every run begins, after 1970.
const EPOCH: Duration = Duration::from_secs(1_790_000_000);

/// One boot's monotonic clock: it showed `shown` when the true one showed `real`.
#[derive(Clone, Copy)]
struct Monotonic {
    real: Instant,
    shown: Instant,
    rate: f64,
}

/// A wall clock: it was wrong by `offset_ms` at `since_ms`, and gains `gain` milliseconds in each.
#[derive(Clone, Copy, Default)]
struct Wall {
    offset_ms: i64,
    since_ms: u64,
    gain: f64,
}

#[derive(Default)]
struct State {
    /// Which host a tokio runtime belongs to. A new boot has a new one.
    names: Vec<(Id, String)>,
    monotonic: BTreeMap<String, Monotonic>,
    rates: BTreeMap<String, f64>,
    walls: BTreeMap<String, Wall>,
    still: BTreeSet<String>,
    /// How often each host has asked for the time.
    readings: BTreeMap<String, u64>,
}

/// All clocks of a world.
#[derive(Default)]
pub(crate) struct Clocks {
    state: RefCell<State>,
}

impl Clocks {
    /// Clocks that are right, hooked into this thread.
    pub(super) fn install() -> Rc<Self> {
        let clocks = Rc::new(Self::default());
        time::set_hook(Some(Rc::new(Hook(clocks.clone()))));
        clocks
    }

    /// Says that the current runtime is a new boot of `host`. Its monotonic clock begins anew, at the
    /// rate of its machine.
    pub(super) fn register(&self, host: &str) {
        let mut state = self.state.borrow_mut();
        let id = Handle::current().id();
        state.names.retain(|(_, name)| name != host);
        state.names.push((id, host.to_owned()));
        state.monotonic.remove(host);
    }

    /// The registered host whose code runs now.
    pub(crate) fn current(&self) -> Option<String> {
        let id = Handle::try_current().ok()?.id();
        let state = self.state.borrow();
        state.names.iter().find(|(of, _)| *of == id).map(|(_, name)| name.clone())
    }

    /// Lets a monotonic clock run `rate` times as fast as it should, from its next reading on.
    pub(crate) fn set_rate(&self, host: &str, rate: f64) {
        self.state.borrow_mut().rates.insert(host.to_owned(), rate);
    }

    /// Sets a wall clock wrong by so much, from now on.
    pub(crate) fn set_wall_offset_ms(&self, host: &str, offset_ms: i64) {
        let mut state = self.state.borrow_mut();
        let wall = state.walls.entry(host.to_owned()).or_default();
        *wall = Wall { offset_ms, since_ms: crate::now_ms(), gain: wall.gain };
    }

    /// Lets a wall clock run `rate` times as fast as it should, from now on.
    pub(crate) fn set_wall_rate(&self, host: &str, rate: f64) {
        let now_ms = crate::now_ms();
        let mut state = self.state.borrow_mut();
        let wall = state.walls.entry(host.to_owned()).or_default();
        *wall = Wall { offset_ms: wall.wrong_by_ms(now_ms), since_ms: now_ms, gain: rate - 1.0 };
    }

    /// How often a process on `host` has asked for the time: it has run on its clocks, whatever they
    /// showed, when this has grown.
    pub(crate) fn readings(&self, host: &str) -> u64 {
        self.state.borrow().readings.get(host).copied().unwrap_or(0)
    }

    pub(super) fn pause(&self, host: &str) {
        self.state.borrow_mut().still.insert(host.to_owned());
    }

    /// Whether it stood still.
    pub(super) fn resume(&self, host: &str) -> bool {
        self.state.borrow_mut().still.remove(host)
    }

    fn monotonic(&self, real: Instant) -> Option<Monotonic> {
        let host = self.current()?;
        let mut state = self.state.borrow_mut();
        let rate = *state.rates.get(&host).unwrap_or(&1.0);
        *state.readings.entry(host.clone()).or_default() += 1;
        let clock = state.monotonic.entry(host).or_insert(Monotonic { real, shown: real, rate });
        if (clock.rate - rate).abs() > f64::EPSILON {
            *clock = Monotonic { real, shown: clock.at(real), rate };
        }
        Some(*clock)
    }
}

impl Monotonic {
    fn at(&self, real: Instant) -> Instant {
        self.shown + real.saturating_duration_since(self.real).mul_f64(self.rate)
    }
}

impl Wall {
    #[allow(clippy::cast_possible_truncation, reason = "a run lasts a day at most")]
    fn wrong_by_ms(&self, now_ms: u64) -> i64 {
        self.offset_ms + ((now_ms - self.since_ms) as f64 * self.gain) as i64
    }
}

struct Hook(Rc<Clocks>);

impl TimeHook for Hook {
    fn now(&self, real: Instant) -> Instant {
        self.0.monotonic(real).map_or(real, |clock| clock.at(real))
    }

    #[allow(clippy::disallowed_methods, reason = "the true clock under the hook")]
    fn real_duration(&self, wait: Duration) -> Duration {
        let rate = self.0.monotonic(Instant::now()).map_or(1.0, |clock| clock.rate);
        if (rate - 1.0).abs() > f64::EPSILON { wait.min(Duration::from_secs(1 << 32)).div_f64(rate) } else { wait }
    }

    fn wall(&self) -> SystemTime {
        let host = self.0.current();
        let now_ms = crate::now_ms();
        let state = self.0.state.borrow();
        let wrong_by_ms = host.and_then(|host| state.walls.get(&host)).map_or(0, |wall| wall.wrong_by_ms(now_ms));
        let true_time = SystemTime::UNIX_EPOCH + EPOCH + Duration::from_millis(now_ms);
        let wrong_by = Duration::from_millis(wrong_by_ms.unsigned_abs());
        if wrong_by_ms < 0 { true_time - wrong_by } else { true_time + wrong_by }
    }

    fn stands_still(&self) -> Option<Duration> {
        if self.0.state.borrow().still.is_empty() {
            return None;
        }
        let host = self.0.current()?;
        self.0.state.borrow().still.contains(&host).then_some(STILL)
    }
}
