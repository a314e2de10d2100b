//! Who may end or hold up work between its steps.

use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that a signal sets, or a page that has to have its turn.
#[expect(async_fn_in_trait, reason = "callers are generic and never move a future to another thread")]
pub trait Control {
    /// Whether the work is to end after the step at hand.
    fn stopping(&self) -> bool;

    /// Called between two steps: whoever shares this thread may say what it wants.
    async fn turn(&self) {}

    /// Whether to save what is done and then to wait with [`Control::hold`].
    fn pausing(&self) -> bool {
        false
    }

    /// Returns when the work may go on.
    async fn hold(&self) {}
}

impl Control for AtomicBool {
    fn stopping(&self) -> bool {
        self.load(Ordering::Relaxed)
    }
}
