//! Randomness: the operating system's, or a simulator's seeded source.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::ThreadRng;
use rand::{RngExt, TryRng};

/// A simulator's source of 64 random bits.
pub type ChanceHook = Rc<dyn Fn() -> u64>;

thread_local! {
    static HOOK: RefCell<Option<ChanceHook>> = const { RefCell::new(None) };
}

/// Installs or removes the source of this thread. For simulators.
pub fn set_hook(hook: Option<ChanceHook>) {
    HOOK.set(hook);
}

/// The random source of the current thread.
#[derive(Clone, Debug, Default)]
pub struct Chance {
    real: Option<ThreadRng>,
}

/// The random source: seeded under simulation, else seeded by the operating system.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn rng() -> Chance {
    let simulated = HOOK.with_borrow(Option::is_some);
    Chance { real: (!simulated).then(rand::rng) }
}

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        #[allow(clippy::cast_possible_truncation, reason = "the low half of 64 random bits is random")]
        self.try_next_u64().map(|bits| bits as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        if let Some(real) = &mut self.real {
            return real.try_next_u64();
        }
        let hook = HOOK.with_borrow(Clone::clone);
        Ok(hook.map_or(0, |hook| hook()))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            let bits = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&bits[..chunk.len()]);
        }
        Ok(())
    }
}

/// 64 random bits.
pub fn bits() -> u64 {
    rng().random()
}

/// A uniformly random duration below `limit`: full jitter.
pub fn jitter(limit: Duration) -> Duration {
    limit.mul_f64(rng().random_range(0.0..1.0))
}

/// A uniformly random item; `None` of nothing.
pub fn pick<T>(items: &[T]) -> Option<&T> {
    items.get(rng().random_range(0..items.len().max(1)))
}
