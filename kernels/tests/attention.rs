//! Attention over a paged cache against a double-precision oracle; bit for bit over ISAs, tiles, chunks, partitions.

mod common;

use common::{Rng, SPECIAL, all_ops, nmse, same_bits};
use half::f16;
use kinfer_kernels::amx::{TileAttend, TileConvert};
use kinfer_kernels::isa::Isa;
use kinfer_kernels::ops::{
    Attend, BLOCK_LEN, KvElem, KvLayout, KvRows, Ops, PARTITION_LEN, live_partitions, partial_len,
};

/// A sequence of `len` positions in a shuffled paged cache, and its queries.
struct Case<E> {
    layout: KvLayout,
    group: usize,
    len: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    scale: f32,
    /// `[len, kv_heads * group * head_dim]`
    q: Vec<f32>,
    /// `[len, kv_heads * head_dim]`, rounded to the cache's type.
    k: Vec<f32>,
    v: Vec<f32>,
    table: Vec<u32>,
    cache: Vec<E>,
}

trait Round: KvElem {
    fn round(x: f32) -> f32;
    fn poison() -> Self;
}
impl Round for f32 {
    fn round(x: f32) -> f32 {
        x
    }
    fn poison() -> f32 {
        f32::NAN
    }
}
impl Round for f16 {
    fn round(x: f32) -> f32 {
        f16::from_f32(x).to_f32()
    }
    fn poison() -> f16 {
        f16::NAN
    }
}

#[derive(Clone, Copy)]
struct Shape {
    head_dim: usize,
    kv_heads: usize,
    group: usize,
    len: usize,
    window: Option<usize>,
    softcap: Option<f32>,
}

const SMALL: Shape = Shape { head_dim: 64, kv_heads: 2, group: 3, len: 70, window: None, softcap: None };

impl<E: Round> Case<E> {
    fn new(s: Shape) -> Case<E> {
        let Shape { head_dim, kv_heads, group, len, window, softcap } = s;
        let mut rng = Rng::new((head_dim * 1000 + group * 100 + len) as u64);
        let layout = KvLayout { kv_heads, head_dim };
        let q = rng.normals(len * kv_heads * group * head_dim);
        let mut kv = || rng.normals(len * kv_heads * head_dim).into_iter().map(E::round).collect::<Vec<_>>();
        let (k, v) = (kv(), kv());
        let blocks = len.div_ceil(BLOCK_LEN);
        let mut table: Vec<u32> = (0..blocks as u32).collect();
        for i in (1..blocks).rev() {
            table.swap(i, rng.below(i + 1));
        }
        // What was never written must not matter.
        let cache = vec![E::poison(); blocks * layout.block_elems()];
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut case = Case { layout, group, len, window, softcap, scale, q, k, v, table, cache };
        case.write(all_ops()[0], 0..len);
        case
    }

    /// Writes positions to the cache, as many per call as lie in a block.
    fn write(&mut self, ops: &Ops, positions: std::ops::Range<usize>) {
        let KvLayout { kv_heads, head_dim } = self.layout;
        let stride = kv_heads * head_dim;
        let mut p = positions.start;
        while p < positions.end {
            let rows = (BLOCK_LEN - p % BLOCK_LEN).min(positions.end - p);
            for h in 0..kv_heads {
                let at = p * stride + h * head_dim;
                let (k, v) = (&self.k[at..], &self.v[at..]);
                let rows = KvRows { k, v, stride, rows, slot: p % BLOCK_LEN };
                let head = self.layout.head(self.table[p / BLOCK_LEN], h);
                ops.kv_write(self.layout, &mut self.cache[head], rows);
            }
            p += rows;
        }
    }

    fn q_stride(&self) -> usize {
        self.layout.kv_heads * self.group * self.layout.head_dim
    }

    fn attend(&self, kv_head: usize, rows: std::ops::Range<usize>) -> Attend<'_, E> {
        let q_stride = self.q_stride();
        Attend {
            layout: self.layout,
            cache: &self.cache,
            table: &self.table,
            kv_head,
            group: self.group,
            q: &self.q[rows.start * q_stride + kv_head * self.group * self.layout.head_dim..],
            q_stride,
            rows: rows.len(),
            start: rows.start,
            window: self.window,
            scale: self.scale,
            softcap: self.softcap,
        }
    }

    /// All rows of all heads, `chunk` rows at a time.
    fn run(&self, ops: &Ops, chunk: usize) -> Vec<f32> {
        self.run_on(ops, chunk, None)
    }

    /// [`Case::run`], on tiles if there is a proof that this machine has them.
    fn run_on(&self, ops: &Ops, chunk: usize, tiles: Option<TileConvert>) -> Vec<f32> {
        let stride = self.q_stride();
        let mut out = vec![f32::NAN; self.len * stride];
        let mut scratch = vec![f32::NAN; 2 * chunk * self.group * partial_len(self.layout.head_dim)];
        let len = TileAttend::scratch_len(self.layout.head_dim, chunk * self.group);
        let mut lines = vec![0f32; len + 16];
        let skip = lines.as_ptr().align_offset(64);
        let mut tiles = tiles.map(|proof| TileAttend::new(proof, &mut lines[skip..][..len]));
        for h in 0..self.layout.kv_heads {
            for start in (0..self.len).step_by(chunk) {
                let rows = start..(start + chunk).min(self.len);
                let at = rows.start * stride + h * self.group * self.layout.head_dim;
                let a = self.attend(h, rows);
                ops.attention(&a, &mut scratch, &mut out[at..], stride, tiles.as_mut());
            }
        }
        out
    }

    fn oracle(&self) -> Vec<f64> {
        let (hd, kv_heads) = (self.layout.head_dim, self.layout.kv_heads);
        let mut out = vec![0.0; self.len * self.q_stride()];
        for p in 0..self.len {
            let first = self.window.map_or(0, |w| (p + 1).saturating_sub(w));
            for h in 0..kv_heads * self.group {
                let q = &self.q[p * self.q_stride() + h * hd..][..hd];
                let row = |x: &[f32], key: usize, d: usize| {
                    f64::from(x[key * kv_heads * hd + h / self.group * hd + d])
                };
                let s: Vec<f64> = (first..=p)
                    .map(|key| {
                        let dot: f64 = (0..hd).map(|d| f64::from(q[d]) * row(&self.k, key, d)).sum();
                        let s = dot * f64::from(self.scale);
                        self.softcap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
                    })
                    .collect();
                let m = s.iter().copied().fold(f64::MIN, f64::max);
                let l: f64 = s.iter().map(|s| (s - m).exp()).sum();
                for d in 0..hd {
                    let o: f64 =
                        s.iter().zip(first..).map(|(s, key)| (s - m).exp() * row(&self.v, key, d)).sum();
                    out[p * self.q_stride() + h * hd + d] = o / l;
                }
            }
        }
        out
    }
}

/// Oracle, ISAs and chunkings of one case.
fn check<E: Round>(s: Shape, chunks: &[usize]) {
    let case = Case::<E>::new(s);
    let what = format!(
        "head_dim {}, group {}, {} keys, window {:?}, softcap {:?}",
        s.head_dim, s.group, s.len, s.window, s.softcap
    );
    let want = case.run(all_ops()[0], chunks[0]);
    let err = nmse(&want, &case.oracle());
    assert!(err < 1e-12, "{what}: error {err:e}");
    for ops in all_ops() {
        for &chunk in chunks {
            let got = case.run(ops, chunk);
            assert!(same_bits(&got, &want), "{what}: {} in chunks of {chunk}", ops.isa());
        }
    }
    if let (true, Some(proof)) = (size_of::<E>() == 2, TileConvert::new(Isa::Amx)) {
        let ops = Ops::new(Isa::Amx).unwrap();
        let want = case.run_on(ops, chunks[0], Some(proof));
        // Queries, keys, weights and values are rounded to 8 bits of mantissa each.
        let err = nmse(&want, &case.oracle());
        assert!(err < 2e-5, "{what}: error {err:e} on tiles");
        for &chunk in chunks {
            let got = case.run_on(ops, chunk, Some(proof));
            assert!(same_bits(&got, &want), "{what}: tiles in chunks of {chunk}");
        }
    }
}

#[test]
fn groups() {
    for group in 1..=9 {
        check::<f16>(Shape { group, ..SMALL }, &[70, 1, 2, 5]);
        check::<f32>(Shape { group, kv_heads: 1, ..SMALL }, &[70, 1, 3]);
    }
}

#[test]
fn head_dims() {
    for head_dim in [1, 7, 16, 48, 64, 72, 80, 96, 128, 256] {
        check::<f16>(Shape { head_dim, ..SMALL }, &[70, 1, 7]);
        check::<f32>(Shape { head_dim, ..SMALL }, &[70, 1, 7]);
    }
}

#[test]
fn lengths_around_blocks_and_partitions() {
    for len in [1, 2, 31, 32, 33, 64, 255, 256, 257, 300, 513] {
        let s = Shape { len, head_dim: 32, kv_heads: 1, ..SMALL };
        check::<f16>(s, &[len, 1, 16]);
        check::<f32>(s, &[len, 1, 5, 33]);
    }
}

#[test]
fn windows() {
    for window in [1, 2, 5, 31, 32, 33, 100, 255, 256, 257, 1000, usize::MAX] {
        let s = Shape { window: Some(window), len: 560, head_dim: 16, kv_heads: 1, ..SMALL };
        check::<f16>(s, &[560, 1, 3, 40]);
        check::<f32>(Shape { group: 1, len: 100, ..s }, &[100, 1, 3, 40]);
    }
}

#[test]
fn softcaps() {
    for cap in [0.5, 50.0] {
        check::<f16>(Shape { softcap: Some(cap), len: 300, kv_heads: 1, ..SMALL }, &[300, 1, 9]);
        check::<f32>(Shape { softcap: Some(cap), window: Some(40), ..SMALL }, &[70, 1, 9]);
    }
}

#[test]
fn cache_bytes_do_not_depend_on_isa_or_chunking() {
    for head_dim in [16, 20, 64] {
        let s = Shape { head_dim, len: 75, ..SMALL };
        let mut case = Case::<f16>::new(s);
        let bits = |c: &[f16]| c.iter().map(|h| h.to_bits()).collect::<Vec<_>>();
        let want = bits(&case.cache);
        for ops in all_ops() {
            for chunk in [1, 13, 75] {
                case.cache.fill(f16::NAN);
                for start in (0..75).step_by(chunk) {
                    case.write(ops, start..(start + chunk).min(75));
                }
                assert_eq!(bits(&case.cache), want, "{} in chunks of {chunk}", ops.isa());
            }
        }
    }
}

/// Partitions computed apart, as by several threads, and merged in order give the bits of one pass.
#[test]
fn partitions_apart() {
    for window in [None, Some(300)] {
        let s = Shape { len: 1100, head_dim: 32, kv_heads: 1, window, ..SMALL };
        let case = Case::<f16>::new(s);
        let ops = all_ops().pop().unwrap();
        let rows = 1085..1100;
        let a = case.attend(0, rows.clone());
        let live = a.partitions();
        assert_eq!(live, if window.is_some() { 3..5 } else { 0..5 });
        let len = a.queries() * partial_len(32);
        let mut parts = vec![vec![f32::NAN; len]; live.len()];
        for i in (0..live.len()).rev() {
            ops.attend(&a, live.start + i, &mut parts[i], None);
        }
        let mut sum = parts[0].clone();
        for p in &parts[1..] {
            ops.merge(32, &mut sum, p);
        }
        let mut got = vec![0.0; rows.len() * case.q_stride()];
        ops.finish(32, case.group, &sum, &mut got, case.q_stride());
        let want = &case.run(ops, 1100)[rows.start * case.q_stride()..];
        assert!(same_bits(&got, want));
    }
}

#[test]
fn live_partitions_are_those_with_a_visible_key() {
    for (start, rows, window) in [
        (0, 1, None),
        (255, 1, None),
        (256, 1, None),
        (250, 10, Some(3)),
        (700, 5, Some(445)),
        (700, 5, Some(444)),
        (5, 3, Some(0)),
    ] {
        let live = live_partitions(start, rows, window);
        for p in 0..6 {
            let keys = p * PARTITION_LEN..(p + 1) * PARTITION_LEN;
            let seen = (start..start + rows).any(|q| {
                let from = window.map_or(0, |w| (q + 1usize).saturating_sub(w));
                from.max(keys.start) < (q + 1).min(keys.end)
            });
            assert!(!seen || live.contains(&p), "{start} {rows} {window:?}: {live:?} misses {p}");
            assert!(
                seen || !live.contains(&p) || window == Some(0),
                "{start} {rows} {window:?}: {live:?} has {p}"
            );
        }
    }
}

#[test]
fn dead_partitions_are_empty_and_merge_as_nothing() {
    let s = Shape { len: 600, head_dim: 16, kv_heads: 1, window: Some(50), ..SMALL };
    let case = Case::<f32>::new(s);
    for ops in all_ops() {
        let a = case.attend(0, 590..600);
        let mut dead = vec![f32::NAN; a.queries() * partial_len(16)];
        ops.attend(&a, 0, &mut dead, None);
        assert!(
            dead.chunks(partial_len(16))
                .all(|p| p[0] == f32::NEG_INFINITY && p[1..].iter().all(|&x| x == 0.0))
        );
        let mut live = dead.clone();
        ops.attend(&a, 2, &mut live, None);
        let before = live.clone();
        ops.merge(16, &mut live, &dead);
        assert!(same_bits(&live, &before));
        ops.merge(16, &mut dead, &live);
        assert!(same_bits(&live, &dead));
    }
}

#[test]
fn a_query_that_sees_nothing_gives_zeros() {
    let case = Case::<f16>::new(Shape { window: Some(0), ..SMALL });
    for ops in all_ops() {
        assert!(case.run(ops, 7).iter().all(|&x| x == 0.0));
    }
}

/// What a row computes does not depend on keys it does not see, be they broken.
#[test]
fn later_keys_do_not_reach_earlier_rows() {
    let mut case = Case::<f16>::new(Shape { len: 90, ..SMALL });
    let ops = all_ops().pop().unwrap();
    let want = case.run(ops, 90);
    let width = case.layout.kv_heads * case.layout.head_dim;
    case.k[50 * width..].fill(f32::INFINITY);
    case.v[50 * width..].fill(f32::NAN);
    case.write(ops, 50..90);
    let got = case.run(ops, 90);
    let n = 50 * case.q_stride();
    assert!(same_bits(&got[..n], &want[..n]));
    assert!(got[n..].iter().all(|x| x.is_nan()));
}

#[test]
fn odd_values_do_not_panic() {
    let mut rng = Rng::new(9);
    for round in 0..20 {
        let mut case =
            Case::<f16>::new(Shape { len: 40, softcap: (round % 2 == 0).then_some(20.0), ..SMALL });
        for x in case.q.iter_mut().chain(&mut case.k).chain(&mut case.v) {
            if rng.below(400) == 0 {
                *x = SPECIAL[rng.below(SPECIAL.len())];
            }
        }
        case.write(all_ops()[0], 0..40);
        let want = case.run(all_ops()[0], 40);
        for ops in all_ops() {
            assert!(same_bits(&case.run(ops, 7), &want), "{}", ops.isa());
        }
    }
}
