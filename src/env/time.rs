//! Clocks and timers. The monotonic clock drives everything; the wall clock is only shown to people, and
//! held against the dates of certificates.
//!
//! Under simulation a [`TimeHook`] may skew what this thread's current node believes.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use pin_project_lite::pin_project;
pub use tokio::time::Instant;

/// What a simulator may change about time. All calls come from the thread that set the hook.
pub trait TimeHook {
    /// The node's monotonic clock, given the true one.
    fn now(&self, real: Instant) -> Instant;
    /// How long the true clock runs while the node's clock runs for `wait`.
    fn real_duration(&self, wait: Duration) -> Duration;
    /// The node's wall clock.
    fn wall(&self) -> SystemTime;
    /// How long the node's process still stands still: its timers fire when it goes on.
    fn stands_still(&self) -> Option<Duration>;
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

/// The wall clock: for people and the dates of certificates, never for other decisions.
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
    let until = hook().and_then(|hook| hook.now(Instant::now()).checked_add(wait));
    Sleep { timer: tokio::time::sleep(real_duration(wait)), until }
}

/// Waits until the monotonic clock shows `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    sleep(deadline.saturating_duration_since(now()))
}

/// Runs `future` for at most `limit`; [`Elapsed`] when the time is over first.
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(limit) }
}

/// Runs `future` until `deadline` at most; [`Elapsed`] when the deadline comes first.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    timeout(deadline.saturating_duration_since(now()), future)
}

/// The time was over first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is over")
    }
}

impl std::error::Error for Elapsed {}

pin_project! {
    /// Waits; see [`sleep`].
    #[derive(Debug)]
    pub struct Sleep {
        #[pin]
        timer: tokio::time::Sleep,
        // On the node's clock; only where a hook bends it.
        until: Option<Instant>,
    }
}

impl Future for Sleep {
    type Output = ();

    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let mut timer = this.timer;
        loop {
            ready!(timer.as_mut().poll(context));
            let Some(left) = still_to_wait(*this.until) else { return Poll::Ready(()) };
            timer.as_mut().reset(Instant::now() + left);
        }
    }
}

/// What is left of a wait whose timer has fired, under a hook: the process stands still, or its clock
/// has been slowed down since. A sleep never ends before the clock shows its end.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
fn still_to_wait(until: Option<Instant>) -> Option<Duration> {
    let hook = hook()?;
    if let Some(still) = hook.stands_still() {
        return Some(still);
    }
    let left = until?.saturating_duration_since(hook.now(Instant::now()));
    (!left.is_zero()).then(|| hook.real_duration(left))
}

pin_project! {
    /// Runs a future for a limited time; see [`timeout`].
    #[derive(Debug)]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        #[pin]
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        this.sleep.poll(context).map(|()| Err(Elapsed))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A clock that runs at half speed from a moment on.
    struct Slowing {
        since: Cell<Option<Instant>>,
    }

    impl TimeHook for Slowing {
        fn now(&self, real: Instant) -> Instant {
            self.since.get().map_or(real, |since| real - real.saturating_duration_since(since) / 2)
        }

        fn real_duration(&self, wait: Duration) -> Duration {
            if self.since.get().is_some() { wait * 2 } else { wait }
        }

        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }

        fn stands_still(&self) -> Option<Duration> {
            None
        }
    }

    #[allow(clippy::disallowed_methods, reason = "the true clock under the hook")]
    #[tokio::test(start_paused = true)]
    async fn a_sleep_does_not_end_early_when_the_clock_is_slowed_down_during_it() {
        let clock = Rc::new(Slowing { since: Cell::new(None) });
        set_hook(Some(clock.clone()));
        let (real, deadline) = (Instant::now(), now() + Duration::from_secs(10));
        let mut sleep = std::pin::pin!(sleep_until(deadline));
        assert_eq!(timeout(Duration::from_secs(4), sleep.as_mut()).await, Err(Elapsed));
        clock.since.set(Some(Instant::now()));
        sleep.await;
        assert!(now() >= deadline);
        assert_eq!(real.elapsed().as_secs(), 16, "six seconds were left, at half speed");
        set_hook(None);
    }
}
