//! The clocks of the nodes: a rate each for the monotonic one, an offset each for the wall, and
//! processes that stand still.

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

#[derive(Default)]
struct State {
    /// Which host a tokio runtime belongs to. A new boot has a new one.
    hosts: BTreeMap<String, Id>,
    names: Vec<(Id, String)>,
    monotonic: BTreeMap<String, Monotonic>,
    rates: BTreeMap<String, f64>,
    wall_offset_ms: BTreeMap<String, i64>,
    still: BTreeSet<String>,
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

    /// Says that the current runtime is a new boot of `host`.
    pub(super) fn register(&self, host: &str) {
        let mut state = self.state.borrow_mut();
        let id = Handle::current().id();
        state.names.retain(|(_, name)| name != host);
        state.names.push((id, host.to_owned()));
        state.hosts.insert(host.to_owned(), id);
        state.monotonic.remove(host);
    }

    /// The registered host whose code runs now.
    pub(crate) fn current(&self) -> Option<String> {
        let id = Handle::try_current().ok()?.id();
        let state = self.state.borrow();
        state.names.iter().find(|(of, _)| *of == id).map(|(_, name)| name.clone())
    }

    /// Lets a monotonic clock run `rate` times as fast as it should, from now on.
    pub(crate) fn set_rate(&self, host: &str, rate: f64) {
        self.state.borrow_mut().rates.insert(host.to_owned(), rate);
    }

    /// Sets a wall clock wrong by so much.
    pub(crate) fn set_wall_offset_ms(&self, host: &str, offset_ms: i64) {
        self.state.borrow_mut().wall_offset_ms.insert(host.to_owned(), offset_ms);
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
        let state = self.0.state.borrow();
        let offset_ms = host.and_then(|host| state.wall_offset_ms.get(&host).copied()).unwrap_or(0);
        let true_ms = EPOCH.as_millis() as i64 + super::super::now_ms() as i64;
        SystemTime::UNIX_EPOCH + Duration::from_millis((true_ms + offset_ms).unsigned_abs())
    }

    fn stands_still(&self) -> Option<Duration> {
        if self.0.state.borrow().still.is_empty() {
            return None;
        }
        let host = self.0.current()?;
        self.0.state.borrow().still.contains(&host).then_some(STILL)
    }
}
