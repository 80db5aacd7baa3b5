//! Remembers what the last panic said: tokio and openraft swallow the message.

use std::sync::Mutex;

static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Records panics of this process. Each run has a process of its own.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.to_string();
        if let Ok(mut last) = LAST.lock()
            && last.is_none()
        {
            // The first one is the cause, what follows is its wake.
            eprintln!("{said}");
            *last = Some(said);
        }
    }));
}

/// What the first panic said.
pub(crate) fn last() -> Option<String> {
    LAST.lock().ok()?.clone()
}
