//! Memory that the tasks of a kernel share or reuse.

use std::cell::RefCell;

/// Where an output begins whose parts are written by several tasks at once.
#[derive(Clone, Copy)]
pub(super) struct Output(pub *mut f32);

// SAFETY: a pointer may be sent; each place that writes through one states that its elements are
// its task's alone.
unsafe impl Send for Output {}
// SAFETY: sharing one shares the pointer and nothing behind it.
unsafe impl Sync for Output {}

/// A cache line, so that panels are aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    /// What is not in use, the last one given back on top.
    static SCRATCH: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// This thread's scratch, borrowed until dropped. (Not a closure: that would not be compiled for
/// the instruction set.)
pub(super) struct Scratch(Vec<Line>);

impl Scratch {
    /// At least `len` f32, of any value.
    pub(super) fn take(len: usize) -> Scratch {
        let mut lines = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
        if lines.len() * 16 < len {
            lines.resize(len.div_ceil(16), Line([0.0; 16]));
        }
        Scratch(lines)
    }

    pub(super) fn floats(&mut self) -> &mut [f32] {
        // SAFETY: a Line is `repr(C)` around sixteen f32 without padding, so that n Lines are 16 ·
        // n f32.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<f32>(), self.0.len() * 16) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.with_borrow_mut(|free| free.push(std::mem::take(&mut self.0)));
    }
}
