//! How panels for a matrix unit lie in memory.

/// Lanes of 32 bits, two bf16 each, that a tile holds: 16 rows of 16.
pub(in crate::cpu) const TILE: usize = 16 * 16;
/// Elements of C that two panels make.
pub(in crate::cpu) const SUMS: usize = LINES * LINES;
/// Rows of A or columns of B in a panel: two tiles.
pub(in crate::cpu) const LINES: usize = 32;
/// Terms of the sums in a step: two for each row of B's tiles.
pub(in crate::cpu) const TERMS: usize = 32;
pub(in crate::cpu) const PARTS: usize = 3;
/// Words of a step of a panel: the parts one after the other.
pub(in crate::cpu) const STEP: usize = PARTS * 2 * TILE;
/// Words that each step of a product asks for ahead, from the next panel of the shorter operand.
pub(in crate::cpu) const FETCHED: usize = 256;

/// Four tiles of sums, on a line of the cache.
#[repr(C, align(64))]
pub(in crate::cpu) struct Sums(pub(in crate::cpu) [f32; SUMS]);
