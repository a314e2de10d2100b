//! No matrix unit: what would prove one has no value.

use super::panel::Sums;

/// Of no value.
#[derive(Clone, Copy)]
pub(in crate::cpu) enum MatrixUnit {}

impl MatrixUnit {
    /// # Safety
    /// None is needed: there is no unit.
    pub(in crate::cpu) unsafe fn tiles(self) -> Tiles {
        match self {}
    }
}

/// Of no value, either.
pub(in crate::cpu) struct Tiles(MatrixUnit);

impl Tiles {
    /// # Safety
    /// None is needed: there are none.
    pub(in crate::cpu) unsafe fn multiply(
        &self,
        _a: *const f32,
        _b: *const f32,
        _ahead: *const f32,
        _steps: usize,
        _sums: &mut Sums,
    ) {
        match self.0 {}
    }
}
