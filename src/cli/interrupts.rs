//! Ctrl-C, as often as it is pressed.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Hands each Ctrl-C to the command that runs when it is pressed. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupts(Arc<Mutex<CancellationToken>>);

impl Interrupts {
    /// Interrupts what runs.
    pub fn raise(&self) {
        self.0.lock().cancel();
    }

    /// Is cancelled by the next [`Interrupts::raise`], or was by the last.
    pub(crate) fn current(&self) -> CancellationToken {
        self.0.lock().clone()
    }

    /// The same, with what was raised before forgotten: for the next command of many.
    pub(crate) fn renew(&self) -> CancellationToken {
        let fresh = CancellationToken::new();
        self.0.lock().clone_from(&fresh);
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::Interrupts;

    #[test]
    fn an_interrupt_ends_one_command_only() {
        let interrupts = Interrupts::default();
        let first = interrupts.renew();
        interrupts.clone().raise();
        assert!(first.is_cancelled() && interrupts.current().is_cancelled());
        let second = interrupts.renew();
        assert!(!second.is_cancelled() && first.is_cancelled());
    }
}
