//! Who may end or hold up work between its steps.

use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that a signal sets, or a page that has to have its turn.
#[expect(
    async_fn_in_trait,
    reason = "callers are generic and never move a future to another thread"
)]
pub trait Control {
    /// Whether the work is to end after the step at hand.
    fn stopping(&self) -> bool;

    /// Whether to save before the next [`Control::turn`], which then takes its time.
    fn pausing(&self) -> bool {
        false
    }

    /// Called between two steps; returns when the next may begin.
    async fn turn(&self) {}
}

impl Control for AtomicBool {
    fn stopping(&self) -> bool {
        self.load(Ordering::Relaxed)
    }
}
