//! Clocks and timers. The monotonic clock drives everything; the wall clock is only shown to people.
//!
//! Under simulation a [`TimeHook`] may skew what this thread's current node believes.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

pub use tokio::time::error::Elapsed;
pub use tokio::time::{Instant, Sleep, Timeout};

/// What a simulator may change about time. All calls come from the thread that set the hook.
pub trait TimeHook {
    /// The node's monotonic clock, given the true one.
    fn now(&self, real: Instant) -> Instant;
    /// How long the true clock runs while the node's clock runs for `wait`.
    fn real_duration(&self, wait: Duration) -> Duration;
    /// The node's wall clock.
    fn wall(&self) -> SystemTime;
}

thread_local! {
    static HOOK: RefCell<Option<Rc<dyn TimeHook>>> = const { RefCell::new(None) };
}

/// Installs or removes the hook of this thread. For simulators.
pub fn set_hook(hook: Option<Rc<dyn TimeHook>>) {
    HOOK.set(hook);
}

fn hook() -> Option<Rc<dyn TimeHook>> {
    HOOK.with_borrow(Clone::clone)
}

/// The monotonic clock.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn now() -> Instant {
    let real = Instant::now();
    hook().map_or(real, |hook| hook.now(real))
}

/// The wall clock: for people, never for decisions.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn wall() -> SystemTime {
    hook().map_or_else(SystemTime::now, |hook| hook.wall())
}

fn real_duration(wait: Duration) -> Duration {
    hook().map_or(wait, |hook| hook.real_duration(wait))
}

/// Waits for `wait` on the monotonic clock.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn sleep(wait: Duration) -> Sleep {
    tokio::time::sleep(real_duration(wait))
}

/// Waits until the monotonic clock shows `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    sleep(deadline.saturating_duration_since(now()))
}

/// Runs `future` for at most `limit`.
///
/// # Errors
/// [`Elapsed`] when the time is over first; the future is dropped.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    tokio::time::timeout(real_duration(limit), future)
}

/// Runs `future` until `deadline` at most.
///
/// # Errors
/// [`Elapsed`] when the deadline comes first; the future is dropped.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    timeout(deadline.saturating_duration_since(now()), future)
}
