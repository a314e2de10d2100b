use super::{Random, assert_close, wide};
use crate::cpu::{
    AttentionInputs, AttentionOutputs, AttentionShape, attention_backward, attention_cached, attention_decode,
    attention_forward,
};
use crate::real::Real;

struct Case {
    shape: AttentionShape,
    segments: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_o: Vec<f32>,
}

impl Case {
    fn new(heads: usize, kv_heads: usize, head_dim: usize, lengths: &[usize]) -> Case {
        let n: usize = lengths.iter().sum();
        let mut random = Random::new((heads * 31 + head_dim * 7 + n) as u64);
        let mut segments = vec![0];
        segments.extend(lengths.iter().scan(0, |at, len| {
            *at += *len as u32;
            Some(*at)
        }));
        Case {
            shape: AttentionShape {
                heads,
                kv_heads,
                head_dim,
                causal: true,
                window: None,
                scale: Some(1.0 / (head_dim as f32).sqrt()),
                cap: None,
            },
            segments,
            q: random.floats(n * heads * head_dim, -1.0, 1.0).iter().map(|x| 3.0 * x).collect(),
            k: random.floats(n * kv_heads * head_dim, -1.0, 1.0).iter().map(|x| 3.0 * x).collect(),
            v: random.floats(n * kv_heads * head_dim, -1.0, 1.0),
            d_o: random.floats(n * heads * head_dim, -1.0, 1.0),
        }
    }

    /// Every query sees all keys of its segment.
    fn both_ways(mut self) -> Case {
        self.shape.causal = false;
        self
    }

    /// A query sees so many keys at most.
    fn windowed(mut self, window: usize) -> Case {
        self.shape.window = Some(window);
        self
    }

    /// Scores do not go beyond it.
    fn capped(mut self, cap: f32) -> Case {
        self.shape.cap = Some(cap);
        self
    }

    fn tokens(&self) -> usize {
        self.segments[self.segments.len() - 1] as usize
    }
}

#[derive(PartialEq)]
struct Output<T> {
    o: Vec<T>,
    lse: Vec<T>,
    dq: Vec<T>,
    dk: Vec<T>,
    dv: Vec<T>,
}

fn cast<T: Real>(x: &[f32]) -> Vec<T> {
    x.iter().map(|&x| T::from_f32(x)).collect()
}

fn run<T: Real>(case: &Case) -> Output<T> {
    let (q, k, v, d_o) = (cast(&case.q), cast(&case.k), cast(&case.v), cast(&case.d_o));
    // Outputs are poisoned: each must be written.
    let nan = |len: usize| vec![T::from_f32(f32::NAN); len];
    let (mut o, mut lse) = (nan(q.len()), nan(case.tokens() * case.shape.heads));
    let x = AttentionInputs { q: &q, k: &k, v: &v, shape: case.shape };
    attention_forward(x, &case.segments, &mut o, &mut lse);
    let (mut dq, mut dk, mut dv) = (nan(q.len()), nan(k.len()), nan(v.len()));
    let y = AttentionOutputs { o: &o, lse: &lse, d_o: &d_o };
    attention_backward(x, y, &case.segments, [&mut dq, &mut dk, &mut dv]);
    Output { o, lse, dq, dk, dv }
}

/// The whole [T, T] table of each head, from the definition alone.
fn naive(case: &Case) -> (Vec<f64>, Vec<f64>) {
    let AttentionShape { heads, kv_heads, head_dim: d, causal, window, scale, cap } = case.shape;
    let scale = f64::from(scale.unwrap());
    let (mut o, mut lse) = (vec![0.0; case.q.len()], vec![0.0; case.tokens() * heads]);
    for segment in case.segments.windows(2) {
        for i in segment[0] as usize..segment[1] as usize {
            for h in 0..heads {
                let g = h * kv_heads / heads;
                let last = if causal { i + 1 } else { segment[1] as usize };
                // As transformers counts it: the query's own key and the window - 1 to each side.
                let seen = |j: &usize| window.is_none_or(|window| j.abs_diff(i) < window);
                let keys = (segment[0] as usize..last).filter(seen);
                let q = &wide(&case.q)[(i * heads + h) * d..][..d];
                let weights: Vec<f64> = keys
                    .clone()
                    .map(|j| {
                        let k = &case.k[(j * kv_heads + g) * d..][..d];
                        let dot: f64 = q.iter().zip(k).map(|(&q, &k)| q * f64::from(k)).sum();
                        cap.map_or(dot * scale, |cap| f64::from(cap) * (dot * scale / f64::from(cap)).tanh()).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                lse[i * heads + h] = sum.ln();
                for (j, w) in keys.zip(&weights) {
                    for c in 0..d {
                        o[(i * heads + h) * d + c] += w / sum * f64::from(case.v[(j * kv_heads + g) * d + c]);
                    }
                }
            }
        }
    }
    (o, lse)
}

#[test]
fn the_reference_forward_is_the_definition() {
    for case in [
        Case::new(1, 1, 1, &[1]),
        Case::new(4, 2, 8, &[3, 1, 7]),
        Case::new(6, 1, 5, &[11]),
        Case::new(4, 2, 8, &[3, 1, 7]).both_ways(),
        Case::new(4, 2, 8, &[3, 1, 7]).windowed(1),
        Case::new(4, 2, 8, &[3, 1, 17]).windowed(4),
        Case::new(4, 2, 8, &[3, 1, 17]).windowed(4).both_ways(),
        Case::new(4, 2, 8, &[3, 1, 7]).windowed(1).both_ways(),
        Case::new(4, 2, 8, &[3, 1, 7]).capped(2.0),
    ] {
        let (o, lse) = naive(&case);
        let output = run::<f64>(&case);
        for (a, b) in output.o.iter().zip(&o).chain(output.lse.iter().zip(&lse)) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }
}

/// Σ o ∘ d_o in f64, after moving one element of one input.
fn objective(case: &Case, q: &[f64], k: &[f64], v: &[f64]) -> f64 {
    let (mut o, mut lse) = (vec![0.0; q.len()], vec![0.0; case.tokens() * case.shape.heads]);
    let x = AttentionInputs { q, k, v, shape: case.shape };
    attention_forward(x, &case.segments, &mut o, &mut lse);
    o.iter().zip(&case.d_o).map(|(o, &d)| o * f64::from(d)).sum()
}

#[test]
fn the_reference_backward_is_the_slope_of_the_forward() {
    let case = || Case::new(4, 2, 3, &[4, 1, 6]);
    let windowed = case().windowed(3);
    for case in [case(), case().both_ways(), windowed, case().windowed(3).both_ways(), case().capped(1.5)] {
        let output = run::<f64>(&case);
        let inputs = [wide(&case.q), wide(&case.k), wide(&case.v)];
        let h = 1e-5;
        for (which, gradient) in [&output.dq, &output.dk, &output.dv].into_iter().enumerate() {
            for (i, &gradient) in gradient.iter().enumerate() {
                let at = |by: f64| {
                    let mut x = inputs.clone();
                    x[which][i] += by;
                    objective(&case, &x[0], &x[1], &x[2])
                };
                let slope = (at(h) - at(-h)) / (2.0 * h);
                assert!((slope - gradient).abs() < 1e-8, "input {which} element {i}: {gradient}, slope {slope}");
            }
        }
    }
}

#[test]
fn f32_matches_f64_at_every_edge() {
    let tile = [31, 32, 33, 63, 64, 65, 127, 128, 129, 1, 2, 200];
    for case in [
        Case::new(1, 1, 1, &[1]),
        Case::new(2, 1, 4, &[5, 9, 1]),
        Case::new(3, 3, 20, &[66, 15]),
        Case::new(9, 3, 64, &tile),
        Case::new(8, 2, 128, &[70, 130]),
        Case::new(4, 1, 96, &[150]),
        // More than a task's queries, and than a block's keys.
        Case::new(2, 1, 32, &[257, 385, 800]),
        Case::new(1, 1, 1, &[1]).both_ways(),
        Case::new(3, 3, 20, &[66, 15]).both_ways(),
        Case::new(12, 12, 32, &[14, 9, 1, 2, 17, 33]).both_ways(),
        Case::new(2, 1, 32, &[257, 385, 800]).both_ways(),
        Case::new(9, 3, 64, &tile).windowed(2),
        Case::new(9, 3, 64, &tile).windowed(64),
        Case::new(4, 2, 20, &[66, 150]).windowed(7),
        Case::new(4, 2, 20, &[66, 150]).windowed(7).capped(4.0),
        Case::new(9, 3, 64, &tile).capped(50.0),
        Case::new(2, 1, 32, &[257, 385, 800]).windowed(97),
        Case::new(2, 1, 32, &[257, 385, 800]).windowed(384),
        Case::new(2, 1, 32, &[257, 385, 800]).windowed(700),
        Case::new(9, 3, 64, &tile).windowed(1).both_ways(),
        Case::new(9, 3, 64, &tile).windowed(2).both_ways(),
        Case::new(9, 3, 64, &tile).windowed(64).both_ways(),
        Case::new(2, 1, 32, &[257, 385, 800]).windowed(65).both_ways(),
        Case::new(2, 1, 32, &[257, 385, 800]).windowed(384).both_ways(),
        Case::new(2, 1, 32, &[257, 385, 800]).windowed(700).both_ways(),
    ] {
        let (a, b) = (run::<f32>(&case), run::<f64>(&case));
        // A score of size s is rounded by some s · 2⁻²⁴, and by that part its probability is off.
        let tolerance = 4e-7 * b.lse.iter().fold(2.0, |m, x| x.abs().max(m));
        let at = format!("{:?} {:?}", case.shape, case.segments);
        assert_close(&format!("o {at}"), &a.o, &b.o, tolerance);
        assert_close(&format!("lse {at}"), &a.lse, &b.lse, 4e-7);
        assert_close(&format!("dq {at}"), &a.dq, &b.dq, tolerance);
        assert_close(&format!("dk {at}"), &a.dk, &b.dk, tolerance);
        assert_close(&format!("dv {at}"), &a.dv, &b.dv, tolerance);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::new(2, 1, 16, &[40]);
    case.q.iter_mut().for_each(|q| *q *= 400.0);
    let (a, b) = (run::<f32>(&case), run::<f64>(&case));
    assert_close("lse", &a.lse, &b.lse, 1e-6);
    assert_close("o", &a.o, &b.o, 1e-3);
    assert!(a.dq.iter().chain(&a.dk).chain(&a.dv).all(|x| x.is_finite()));
}

#[test]
fn a_segment_does_not_see_its_neighbours() {
    let case = Case::new(4, 2, 16, &[70, 33]);
    let whole = run::<f32>(&case);
    let (q, kv) = (4 * 16, 2 * 16);
    let alone = Case {
        segments: vec![0, 33],
        q: case.q[70 * q..].to_vec(),
        k: case.k[70 * kv..].to_vec(),
        v: case.v[70 * kv..].to_vec(),
        d_o: case.d_o[70 * q..].to_vec(),
        ..case
    };
    let alone = run::<f32>(&alone);
    assert!(whole.o[70 * q..] == alone.o[..] && whole.dq[70 * q..] == alone.dq[..]);
    assert!(whole.dk[70 * kv..] == alone.dk[..] && whole.dv[70 * kv..] == alone.dv[..]);
}

#[test]
fn attention_does_not_depend_on_the_number_of_threads() {
    let case = Case::new(9, 3, 64, &[100, 37, 150]);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run::<f32>(&case))
    };
    let one = on(1);
    assert!(on(2) == one && on(3) == one && on(1) == one);
}

#[test]
fn a_cache_gives_what_the_whole_sequence_gives() {
    let n = 483;
    let case = || Case::new(6, 2, 64, &[n]);
    for case in [case(), case().windowed(50), case().capped(3.0)] {
        compare_cache(&case, n);
    }
}

fn compare_cache(case: &Case, n: usize) {
    let whole = run::<f64>(case);
    let (q, kv) = (6 * 64, 2 * 64);
    let (mut k, mut v) = (case.k.clone(), case.v.clone());
    // A cache is longer than what it holds.
    k.resize((n + 9) * kv, f32::NAN);
    v.resize((n + 9) * kv, f32::NAN);
    for (past, new) in [(0, n), (0, 1), (40, 443), (482, 1), (470, 2), (400, 5)] {
        // Rows that are not yet there must not be read.
        k[(past + new) * kv..].fill(f32::NAN);
        v[(past + new) * kv..].fill(f32::NAN);
        k[..(past + new) * kv].copy_from_slice(&case.k[..(past + new) * kv]);
        v[..(past + new) * kv].copy_from_slice(&case.v[..(past + new) * kv]);
        // Nor those before the first query's window.
        let before = case.shape.window.map_or(0, |window| (past + 1).saturating_sub(window));
        k[..before * kv].fill(f32::NAN);
        v[..before * kv].fill(f32::NAN);
        let rows = past * q..(past + new) * q;
        let mut o = vec![f32::NAN; new * q];
        let x = AttentionInputs { q: &case.q[rows.clone()], k: &k, v: &v, shape: case.shape };
        attention_cached(x, past, n + 9, &mut o);
        assert_close(&format!("{past} + {new}"), &o, &whole.o[rows.clone()], 4e-6);
        // The same keys and values in as few rows as are seen.
        let span = past + new - before;
        let ring = |rows: &[f32]| {
            let mut ring = vec![f32::NAN; span * kv];
            for position in before..past + new {
                ring[position % span * kv..][..kv].copy_from_slice(&rows[position * kv..][..kv]);
            }
            ring
        };
        let (k, v) = (ring(&k), ring(&v));
        let x = AttentionInputs { q: &case.q[rows.clone()], k: &k, v: &v, shape: case.shape };
        let mut of_ring = vec![f32::NAN; new * q];
        attention_cached(x, past, span, &mut of_ring);
        assert_close(&format!("{past} + {new} in {span} rows"), &of_ring, &whole.o[rows.clone()], 4e-6);
        let places: Vec<[u32; 2]> = (past..past + new).map(|position| [0, position as u32]).collect();
        let mut one_by_one = vec![f32::NAN; new * q];
        attention_decode(x, &places, span, &mut one_by_one);
        assert_close(&format!("{past} + {new} one by one"), &one_by_one, &whole.o[rows], 4e-6);
    }
}

#[test]
fn a_token_s_attention_is_the_same_bits_beside_others_and_in_a_ring() {
    let case = Case::new(6, 2, 64, &[90]).windowed(40);
    let (q, kv, span) = (6 * 64, 2 * 64, 48);
    // Three slots, whose texts are those of the case up to some position.
    let places = [[2, 83], [0, 21], [1, 47]];
    let mut held = [vec![f32::NAN; 3 * span * kv], vec![f32::NAN; 3 * span * kv]];
    for [slot, last] in places {
        for position in (last + 1usize).saturating_sub(span)..=last {
            let to = (slot * span + position % span) * kv;
            held[0][to..to + kv].copy_from_slice(&case.k[position * kv..][..kv]);
            held[1][to..to + kv].copy_from_slice(&case.v[position * kv..][..kv]);
        }
    }
    let queries: Vec<f32> = places.iter().flat_map(|[_, position]| &case.q[position * q..][..q]).copied().collect();
    let ids = places.map(|place| place.map(|number| number as u32));
    let mut together = vec![f32::NAN; 3 * q];
    let x = AttentionInputs { q: &queries, k: &held[0], v: &held[1], shape: case.shape };
    attention_decode(x, &ids, span, &mut together);
    for ([_, position], found) in places.iter().zip(together.chunks(q)) {
        let mut alone = vec![f32::NAN; q];
        let query = &case.q[position * q..][..q];
        let x = AttentionInputs { q: query, k: &case.k, v: &case.v, shape: case.shape };
        attention_decode(x, &[[0, *position as u32]], 90, &mut alone);
        assert!(alone == found, "position {position}");
    }
}
