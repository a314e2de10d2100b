//! Products with packed panels, tile by tile: what stays in registers.

use std::ops::Range;

use super::pack::Right;
use super::simd::{Kernel, Simd, dispatch};

/// How A`[m, k]` lies in memory, with its stride.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Row i starts at i · stride.
    Rows(&'a [f32], usize),
    /// Column k starts at k · stride: A is given transposed.
    Columns(&'a [f32], usize),
}

impl<'a> Left<'a> {
    /// A from (row, k) on.
    #[inline(always)]
    pub(super) fn at(self, row: usize, k: usize) -> Left<'a> {
        match self {
            Left::Rows(a, stride) => Left::Rows(&a[(row * stride + k).min(a.len())..], stride),
            Left::Columns(a, stride) => Left::Columns(&a[(k * stride + row).min(a.len())..], stride),
        }
    }

    /// Panics unless there are `m` rows and `k` columns.
    #[inline(always)]
    pub(super) fn check(self, m: usize, k: usize) {
        let (a, last) = match self {
            _ if m == 0 || k == 0 => return,
            Left::Rows(a, stride) => (a, (m - 1) * stride + k),
            Left::Columns(a, stride) => (a, (k - 1) * stride + m),
        };
        assert!(last <= a.len(), "A of {m} rows and {k} columns in {} elements", a.len());
    }
}

/// B`[k, n]` as panels, which divide its columns as evenly as whole vectors allow: packed, or where
/// they lie.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    k: usize,
    n: usize,
    panels: &'a [f32],
    /// From row to row of a B that is not packed.
    stride: Option<usize>,
    /// Rows that are left out, at the start.
    skipped: usize,
}

impl<'a> Packed<'a> {
    /// B as it lies in memory, its rows `stride` apart. `n` must be whole vectors.
    #[inline(always)]
    pub(super) fn in_place(b: &'a [f32], k: usize, n: usize, stride: usize) -> Self {
        assert!(
            n.is_multiple_of(16) && k > 0 && (k - 1) * stride + n <= b.len(),
            "B of {k} rows and {n} columns in {} elements",
            b.len()
        );
        Packed { k, n, panels: b, stride: Some(stride), skipped: 0 }
    }

    /// B from row `rows` on.
    #[inline(always)]
    pub(super) fn skip(self, rows: usize) -> Self {
        Packed { skipped: self.skipped + rows, ..self }
    }
}

/// f32 that packing `k` terms of `n` columns needs, on any instruction set.
pub(super) const fn packed_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(16)
}

/// The width of a full panel.
#[inline(always)]
fn panel_width<S: Simd>(_: S, n: usize) -> usize {
    let panels = n.div_ceil(S::VECTORS * S::LANES).max(1);
    n.div_ceil(panels).next_multiple_of(S::LANES).max(S::LANES)
}

/// B[k, n] of the ranges, packed into `out`, which holds [`packed_len`].
pub(super) struct Pack<'a> {
    pub b: Right<'a>,
    pub k: Range<usize>,
    pub n: Range<usize>,
    pub out: &'a mut [f32],
}

impl<'a> Kernel for Pack<'a> {
    type Output = Packed<'a>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Packed<'a> {
        let Pack { b, k, n, out } = self;
        let width = panel_width(s, n.len());
        let mut free = &mut out[..];
        let mut start = n.start;
        while start < n.end {
            let end = n.end.min(start + width);
            let width = (end - start).next_multiple_of(S::LANES);
            let (panel, rest) = free.split_at_mut(width * k.len());
            b.pack(s, k.clone(), start..end, width, panel);
            (free, start) = (rest, end);
        }
        Packed { k: k.len(), n: n.len(), panels: out, stride: None, skipped: 0 }
    }
}

/// C`[m, n]` = α · A`[m, k]` · B`[k, n]` + β · C, of which only the first `columns` are made, with
/// the first `k` terms.
pub(super) struct Multiply<'a> {
    pub m: usize,
    pub columns: usize,
    pub k: usize,
    pub a: Left<'a>,
    pub b: Packed<'a>,
    pub c: *mut f32,
    pub c_stride: usize,
    pub alpha: f32,
    pub beta: f32,
}

impl Multiply<'_> {
    /// # Safety
    /// `c` holds m rows of `columns`, which are this call's alone.
    #[inline(always)]
    pub(super) unsafe fn on<S: Simd>(&self, s: S) {
        self.a.check(self.m, self.k);
        assert!(self.b.skipped + self.k <= self.b.k && self.columns <= self.b.n, "B holds what is multiplied");
        let width = panel_width(s, self.b.n);
        for row in (0..self.m).step_by(S::ROWS) {
            let rows = S::ROWS.min(self.m - row);
            let (a, row_step, k_step) = match self.a {
                Left::Rows(a, stride) => (&a[row * stride..], stride, 1),
                Left::Columns(a, stride) => (&a[row..], 1, stride),
            };
            for column in (0..self.columns).step_by(width) {
                let panel = width.min(self.b.n - column).next_multiple_of(S::LANES);
                let (at, b_step) = match self.b.stride {
                    Some(stride) => (column, stride),
                    None => (column * self.b.k, panel),
                };
                let columns = width.min(self.columns - column);
                let tile = Tile {
                    k: self.k,
                    a: a.as_ptr(),
                    row_step,
                    k_step,
                    b: self.b.panels[at + self.b.skipped * b_step..].as_ptr(),
                    b_step,
                    // SAFETY: row < m and column < columns, which C holds by this function's
                    // contract.
                    c: unsafe { self.c.add(row * self.c_stride + column) },
                    c_stride: self.c_stride,
                    rows,
                    columns,
                    alpha: self.alpha,
                    beta: self.beta,
                };
                // SAFETY: `check` asserted that A has the rows and columns; the panel has k rows of
                // whole vectors, because `Pack` made it or `in_place` asserted so; this function's
                // contract gives C.
                unsafe {
                    if b_step == columns.next_multiple_of(S::LANES) {
                        tile.sized::<S, true>(s);
                    } else {
                        tile.sized::<S, false>(s);
                    }
                }
            }
        }
    }
}

impl Kernel for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: only [`multiply`] dispatches this, and its contract is that of `on`.
        unsafe { self.on(s) };
    }
}

/// C`[m, n]` = α · A`[m, k]` · B`[k, n]` + β · C, of the first (m, n, k) there are.
///
/// # Safety
/// `c` holds m rows of n, `c_stride` apart, which are this call's alone.
pub(super) unsafe fn multiply(
    (m, columns, k): (usize, usize, usize),
    a: Left<'_>,
    b: Packed<'_>,
    c: *mut f32,
    c_stride: usize,
    alpha: f32,
    beta: f32,
) {
    dispatch(Multiply { m, columns, k, a, b, c, c_stride, alpha, beta });
}

/// One tile of C, of which `rows` and `columns` count.
struct Tile {
    k: usize,
    a: *const f32,
    row_step: usize,
    k_step: usize,
    b: *const f32,
    b_step: usize,
    c: *mut f32,
    c_stride: usize,
    rows: usize,
    columns: usize,
    alpha: f32,
    beta: f32,
}

impl Tile {
    /// Runs in as few vectors as hold the columns. `DENSE` rows of B follow each other, which
    /// spares the loop a register.
    /// # Safety
    /// A readable for `rows`, B for k rows of whole vectors, C writable for `rows` and `columns`.
    #[inline(always)]
    unsafe fn sized<S: Simd, const DENSE: bool>(&self, s: S) {
        // SAFETY: V is the number of vectors that hold the columns; the rest is this function's
        // contract, too.
        unsafe {
            match (S::ROWS, self.columns.div_ceil(S::LANES)) {
                (8, 3) => self.run::<S, 8, 3, DENSE>(s),
                (8, 2) => self.run::<S, 8, 2, DENSE>(s),
                (8, _) => self.run::<S, 8, 1, DENSE>(s),
                (6, 2) => self.run::<S, 6, 2, DENSE>(s),
                (6, _) => self.run::<S, 6, 1, DENSE>(s),
                (_, 2) => self.run::<S, 4, 2, DENSE>(s),
                (_, _) => self.run::<S, 4, 1, DENSE>(s),
            }
        }
    }

    /// # Safety
    /// As `sized`; V vectors hold the columns.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize, const DENSE: bool>(&self, s: S) {
        let mut sums = [[s.splat(0.0); V]; R];
        // Rows that are not there are the last one again; what comes of them is not stored.
        let mut left = [self.a; R];
        for (i, left) in left.iter_mut().enumerate() {
            // SAFETY: the row's number is less than `rows`, and A is readable for `rows`.
            *left = unsafe { self.a.add(i.min(self.rows - 1) * self.row_step) };
        }
        let (mut b, mut at) = (self.b, 0);
        let b_step = if DENSE { V * S::LANES } else { self.b_step };
        for _ in 0..self.k {
            let mut right = [s.splat(0.0); V];
            for (j, right) in right.iter_mut().enumerate() {
                // SAFETY: B is readable for k rows of V vectors, and this is one of them.
                *right = unsafe { s.load(b.add(j * S::LANES)) };
            }
            for (left, sums) in left.iter().zip(&mut sums) {
                // SAFETY: `at` is less than k steps, and A is readable for k columns.
                let left = s.splat(unsafe { *left.add(at) });
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = s.mul_add(left, right, *sum);
                }
            }
            // Past the last row it is not read, and may point outside of B.
            b = b.wrapping_add(b_step);
            at += self.k_step;
        }
        // A whole tile goes to C directly, a part of one through a buffer: conditions between the
        // stores would keep the sums out of registers.
        if self.rows < R || self.columns < V * S::LANES {
            let mut buffer = std::mem::MaybeUninit::<[f32; 8 * 3 * 16]>::uninit();
            let to = buffer.as_mut_ptr().cast::<f32>();
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    // SAFETY: R <= 8, V <= 3 and LANES <= 16, so that the buffer holds the tile.
                    unsafe { s.store(to.add((i * V + j) * S::LANES), sum) };
                }
            }
            // SAFETY: all R rows of V vectors of `to` were just written; C holds the tile by this
            // function's contract.
            return unsafe { self.merge(s, to, V * S::LANES) };
        }
        let (alpha, beta) = (s.splat(self.alpha), s.splat(self.beta));
        for (i, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                // SAFETY: R rows and V whole vectors are no more than `rows` and `columns`, for
                // which C is writable.
                unsafe {
                    let c = self.c.add(i * self.c_stride + j * S::LANES);
                    if self.beta == 0.0 {
                        s.store(c, s.mul(alpha, sum));
                    } else {
                        s.store(c, s.mul_add(beta, s.load(c), s.mul(alpha, sum)));
                    }
                }
            }
        }
    }

    /// Adds the rows and columns that count to C.
    /// # Safety
    /// C writable for `rows` and `columns`; as many rows of whole vectors in `from`.
    #[inline(always)]
    unsafe fn merge<S: Simd>(&self, s: S, from: *const f32, stride: usize) {
        for i in 0..self.rows {
            // SAFETY: row i is less than `rows`, for which `from` and C are readable and writable.
            unsafe {
                let (sums, c) = (from.add(i * stride), self.c.add(i * self.c_stride));
                merge_row(s, sums, c, self.columns, self.alpha, self.beta);
            }
        }
    }
}

/// C = α · sums + β · C for `columns` of one row.
/// # Safety
/// C writable for `columns`; whole vectors in `sums`.
#[inline(always)]
pub(super) unsafe fn merge_row<S: Simd>(s: S, sums: *const f32, c: *mut f32, columns: usize, alpha: f32, beta: f32) {
    let (alpha, scale) = (s.splat(alpha), s.splat(beta));
    for j in (0..columns).step_by(S::LANES) {
        let n = S::LANES.min(columns - j);
        // SAFETY: j + n <= `columns`, for which C is writable and `sums` holds whole vectors.
        unsafe {
            let mut y = s.mul(alpha, s.load(sums.add(j)));
            if beta != 0.0 {
                y = s.mul_add(scale, s.load_first(c.add(j), n), y);
            }
            s.store_first(c.add(j), y, n);
        }
    }
}
