//! Attention over a paged cache against a double-precision oracle; bit for bit over ISAs, tiles, chunks, partitions.

mod common;

use common::{Rng, SPECIAL, all_ops, nmse, same_bits};
use half::{bf16, f16};
use kinfer_kernels::bf16::{TileAttend, TileConvert};
use kinfer_kernels::isa::Isa;
use kinfer_kernels::ops::{
    Attend, BLOCK_LEN, KvLayout, KvRows, KvType, KvTypes, Ops, PARTITION_LEN, live_partitions, partial_len,
};

/// A sequence of `len` positions in a shuffled paged cache, and its queries.
struct Case {
    layout: KvLayout,
    group: usize,
    len: usize,
    /// Rows see the keys behind them, too.
    whole: bool,
    window: Option<usize>,
    softcap: Option<f32>,
    /// `[kv_heads * group]`
    slopes: Option<Vec<f32>>,
    /// `[kv_heads * group]`
    sinks: Option<Vec<f32>>,
    scale: f32,
    /// `[len, kv_heads * group * head_dim]`
    q: Vec<f32>,
    /// `[len, kv_heads * head_dim]`
    k: Vec<f32>,
    v: Vec<f32>,
    table: Vec<u32>,
    cache: Vec<u8>,
}

/// Not a number in every floating-point type, also as a scale.
const POISON: u8 = 0xff;

/// What the types store of one head's key or value, by their definition.
fn round(kind: KvType, row: &mut [f32]) {
    for group in row.chunks_mut(32) {
        let top =
            group.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()).then(a.total_cmp(b))).unwrap();
        let (d, codes) = match kind {
            KvType::Q8_0 => (top.abs() / 127.0, -127.0..=127.0),
            KvType::Q4_0 => (top / -8.0, -8.0..=7.0),
            _ => (0.0, 0.0..=0.0),
        };
        let d = f16::from_f32(d).to_f32();
        for x in group {
            *x = match kind {
                KvType::F32 => *x,
                KvType::F16 => f16::from_f32(*x).to_f32(),
                KvType::Bf16 => bf16::from_f32(*x).to_f32(),
                KvType::Q8_0 | KvType::Q4_0 if d == 0.0 => 0.0,
                KvType::Q8_0 | KvType::Q4_0 => {
                    d * (*x * (1.0 / d)).clamp(*codes.start(), *codes.end()).round_ties_even()
                }
            };
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    head_dim: usize,
    kv_heads: usize,
    group: usize,
    len: usize,
    whole: bool,
    window: Option<usize>,
    softcap: Option<f32>,
    alibi: bool,
    sinks: bool,
}

const SMALL: Shape = Shape {
    head_dim: 64,
    kv_heads: 2,
    group: 3,
    len: 70,
    whole: false,
    window: None,
    softcap: None,
    alibi: false,
    sinks: false,
};

impl Case {
    fn new(kind: impl Into<KvTypes>, s: Shape) -> Case {
        let Shape { head_dim, kv_heads, group, len, whole, window, softcap, alibi, sinks } = s;
        let mut rng = Rng::new((head_dim * 1000 + group * 100 + len) as u64);
        let layout = KvLayout { kv_heads, head_dim, types: kind.into() };
        let q = rng.normals(len * kv_heads * group * head_dim);
        let (k, v) = (rng.normals(len * kv_heads * head_dim), rng.normals(len * kv_heads * head_dim));
        let blocks = len.div_ceil(BLOCK_LEN);
        let mut table: Vec<u32> = (0..blocks as u32).collect();
        for i in (1..blocks).rev() {
            table.swap(i, rng.below(i + 1));
        }
        // What was never written must not matter.
        let cache = vec![POISON; blocks * layout.block_bytes()];
        let scale = 1.0 / (head_dim as f32).sqrt();
        // About as large as the scores, so that neither side is lost.
        let sinks = sinks.then(|| rng.normals(kv_heads * group));
        // From one that leaves the nearest keys only to one that is hardly felt.
        let slopes = alibi.then(|| (0..kv_heads * group).map(|h| 0.5f32.powi(h as i32)).collect());
        let mut case =
            Case { layout, group, len, whole, window, softcap, slopes, sinks, scale, q, k, v, table, cache };
        case.write(all_ops()[0], 0..len);
        case
    }

    /// Writes positions to the cache, as many per call as lie in a block.
    fn write(&mut self, ops: &Ops, positions: std::ops::Range<usize>) {
        let KvLayout { kv_heads, head_dim, types: _ } = self.layout;
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

    fn attend(&self, kv_head: usize, rows: std::ops::Range<usize>) -> Attend<'_> {
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
            whole: self.whole.then_some(self.len),
            window: self.window,
            scale: self.scale,
            softcap: self.softcap,
            alibi: self.slopes.as_ref().map(|s| &s[kv_head * self.group..(kv_head + 1) * self.group]),
            sinks: self.sinks.as_ref().map(|s| &s[kv_head * self.group..(kv_head + 1) * self.group]),
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
        let mut tiles = tiles.and_then(|proof| TileAttend::new(proof, &mut lines[skip..][..len]));
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

    /// Attention in double precision: over keys and values as the cache's types round them, or as they are.
    fn oracle(&self, rounded: bool) -> Vec<f64> {
        let (hd, kv_heads) = (self.layout.head_dim, self.layout.kv_heads);
        let stored = |kind: KvType, x: &[f32]| {
            let mut x = x.to_vec();
            x.chunks_mut(hd).filter(|_| rounded).for_each(|row| round(kind, row));
            x
        };
        let (k, v) = (stored(self.layout.types.k, &self.k), stored(self.layout.types.v, &self.v));
        let mut out = vec![0.0; self.len * self.q_stride()];
        for p in 0..self.len {
            let first = self.window.map_or(0, |w| (p + 1).saturating_sub(w));
            let end = match self.whole {
                false => p + 1,
                true => self.window.map_or(self.len, |w| self.len.min(p.saturating_add(w))),
            };
            for h in 0..kv_heads * self.group {
                let q = &self.q[p * self.q_stride() + h * hd..][..hd];
                let row = |x: &[f32], key: usize, d: usize| {
                    f64::from(x[key * kv_heads * hd + h / self.group * hd + d])
                };
                let s: Vec<f64> = (first..end)
                    .map(|key| {
                        let dot: f64 = (0..hd).map(|d| f64::from(q[d]) * row(&k, key, d)).sum();
                        let s = dot * f64::from(self.scale);
                        let s = self.softcap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh());
                        self.slopes.as_ref().map_or(s, |all| s - f64::from(all[h]) * p.abs_diff(key) as f64)
                    })
                    .collect();
                let sink = self.sinks.as_ref().map(|sinks| f64::from(sinks[h]));
                let m = s.iter().copied().chain(sink).fold(f64::MIN, f64::max);
                let l: f64 = s.iter().copied().chain(sink).map(|s| (s - m).exp()).sum();
                for d in 0..hd {
                    let o: f64 = s.iter().zip(first..).map(|(s, key)| (s - m).exp() * row(&v, key, d)).sum();
                    out[p * self.q_stride() + h * hd + d] = o / l;
                }
            }
        }
        out
    }
}

/// Error energy of one number that a type stores, relative to the signal's, for about normally distributed numbers: the
/// largest of 32 is 2.1 deviations on average, and an error that is uniform in a step has the step's square over 12.
fn step_error(kind: KvType) -> f64 {
    let uniform = |step: f64| step * step / 12.0;
    match kind {
        KvType::F32 => 0.0,
        KvType::F16 => uniform(2f64.powi(-10)),
        KvType::Bf16 => uniform(2f64.powi(-7)),
        KvType::Q8_0 => uniform(2.1 / 127.0),
        KvType::Q4_0 => uniform(2.1 / 8.0),
    }
}

/// Oracle, ISAs and chunkings of one case.
fn check(kind: impl Into<KvTypes>, s: Shape, chunks: &[usize]) {
    let types = kind.into();
    let case = Case::new(types, s);
    let what = format!(
        "{types}, head_dim {}, group {}, {} keys, whole {}, window {:?}, softcap {:?}, alibi {}, sinks {}",
        s.head_dim, s.group, s.len, s.whole, s.window, s.softcap, s.alibi, s.sinks
    );
    let want = case.run(all_ops()[0], chunks[0]);
    let oracle = case.oracle(true);
    let err = nmse(&want, &oracle);
    assert!(err < 1e-12, "{what}: error {err:e}");
    // A value's error comes out as it is or less, a key's as that of its weight, which is as large at most as its score's.
    let (err, most) = (nmse(&want, &case.oracle(false)), step_error(types.k) + step_error(types.v));
    assert!(
        err <= 4.0 * most + 1e-12,
        "{what}: error {err:e} against unrounded keys and values, {most:e} expected"
    );
    for ops in all_ops() {
        for &chunk in chunks {
            let got = case.run(ops, chunk);
            assert!(same_bits(&got, &want), "{what}: {} in chunks of {chunk}", ops.isa());
        }
    }
    if let (true, Some(proof)) =
        (types.k != KvType::F32 && types.v != KvType::F32, TileConvert::new(Isa::Amx))
    {
        let ops = Ops::new(Isa::Amx).unwrap();
        let want = case.run_on(ops, chunks[0], Some(proof));
        // Queries, keys, weights and values are rounded to 8 bits of mantissa each.
        let err = nmse(&want, &oracle);
        assert!(err < 2e-5, "{what}: error {err:e} on tiles");
        for &chunk in chunks {
            let got = case.run_on(ops, chunk, Some(proof));
            assert!(same_bits(&got, &want), "{what}: tiles in chunks of {chunk}");
        }
    }
}

/// All types, and keys and values of different ones.
fn all_types() -> impl Iterator<Item = KvTypes> {
    use KvType::{Bf16, F16, F32, Q4_0, Q8_0};
    let mixed = [(Q8_0, Q4_0), (F16, Q4_0), (Q4_0, F32), (Bf16, Q8_0)];
    KvType::ALL.into_iter().map(KvTypes::from).chain(mixed.map(|(k, v)| KvTypes { k, v }))
}

#[test]
fn groups() {
    for group in 1..=9 {
        for kind in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
            check(kind, Shape { group, ..SMALL }, &[70, 1, 2, 5]);
        }
        check(KvType::F32, Shape { group, kv_heads: 1, ..SMALL }, &[70, 1, 3]);
    }
}

#[test]
fn head_dims() {
    for head_dim in [1, 7, 16, 48, 64, 72, 80, 96, 128, 256] {
        for types in all_types() {
            check(types, Shape { head_dim, ..SMALL }, &[70, 1, 7]);
        }
    }
}

#[test]
fn lengths_around_blocks_and_partitions() {
    for len in [1, 2, 31, 32, 33, 64, 255, 256, 257, 300, 513] {
        let s = Shape { len, head_dim: 32, kv_heads: 1, ..SMALL };
        for kind in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
            check(kind, s, &[len, 1, 16]);
        }
        check(KvType::F32, s, &[len, 1, 5, 33]);
    }
}

#[test]
fn windows() {
    for window in [1, 2, 5, 31, 32, 33, 100, 255, 256, 257, 1000, usize::MAX] {
        let s = Shape { window: Some(window), len: 560, head_dim: 16, kv_heads: 1, ..SMALL };
        check(KvType::F16, s, &[560, 1, 3, 40]);
        for kind in [KvType::F32, KvType::Bf16, KvType::Q8_0, KvType::Q4_0] {
            check(kind, Shape { group: 1, len: 100, ..s }, &[100, 1, 3, 40]);
        }
    }
}

#[test]
fn keys_behind_a_row() {
    for len in [1, 33, 300] {
        let s = Shape { len, whole: true, head_dim: 40, kv_heads: 1, ..SMALL };
        for kind in [KvType::F16, KvType::F32, KvType::Q8_0] {
            check(kind, s, &[len, 1, 16]);
        }
    }
    for window in [1, 33, 257, usize::MAX] {
        let s = Shape { window: Some(window), whole: true, len: 560, head_dim: 16, kv_heads: 1, ..SMALL };
        check(KvType::F16, s, &[560, 40]);
    }
}

#[test]
fn softcaps() {
    for cap in [0.5, 50.0] {
        check(KvType::F16, Shape { softcap: Some(cap), len: 300, kv_heads: 1, ..SMALL }, &[300, 1, 9]);
        for kind in [KvType::F32, KvType::Q8_0] {
            check(kind, Shape { softcap: Some(cap), window: Some(40), ..SMALL }, &[70, 1, 9]);
        }
    }
}

#[test]
fn linear_biases() {
    for kind in [KvType::F16, KvType::F32, KvType::Q8_0] {
        check(kind, Shape { alibi: true, len: 300, ..SMALL }, &[300, 1, 9]);
        check(kind, Shape { alibi: true, whole: true, len: 300, kv_heads: 1, group: 5, ..SMALL }, &[300, 40]);
    }
    let all = Shape { alibi: true, softcap: Some(2.0), sinks: true, window: Some(40), group: 1, ..SMALL };
    check(KvType::F16, all, &[70, 1, 9]);
    // The slopes of fewer heads than there are: nothing is read, and nothing written.
    let case = Case::new(KvType::F16, Shape { alibi: true, ..SMALL });
    let a = Attend { alibi: Some(&[0.5]), ..case.attend(0, 0..1) };
    if cfg!(not(debug_assertions)) {
        let mut partials = vec![7.0; a.queries() * partial_len(64)];
        all_ops()[0].attend(&a, 0, &mut partials, None);
        assert!(partials.iter().all(|&x| x == 7.0));
    }
}

#[test]
fn sinks() {
    for kind in [KvType::F16, KvType::F32, KvType::Q8_0] {
        check(kind, Shape { sinks: true, len: 300, kv_heads: 2, ..SMALL }, &[300, 1, 9]);
        check(kind, Shape { sinks: true, window: Some(40), group: 1, ..SMALL }, &[70, 1, 9]);
    }
}

#[test]
fn cache_bytes_do_not_depend_on_isa_or_chunking() {
    for head_dim in [16, 20, 64, 72] {
        for types in all_types() {
            let s = Shape { head_dim, len: 75, ..SMALL };
            let mut case = Case::new(types, s);
            let want = case.cache.clone();
            for ops in all_ops() {
                for chunk in [1, 13, 75] {
                    case.cache.fill(POISON);
                    for start in (0..75).step_by(chunk) {
                        case.write(ops, start..(start + chunk).min(75));
                    }
                    assert!(case.cache == want, "{types}: {} in chunks of {chunk}", ops.isa());
                }
            }
        }
    }
}

/// A key or value, read from a head by the layout's documentation alone.
fn stored(layout: KvLayout, head: &[u8], slot: usize, value: bool) -> Vec<f32> {
    let (hd, types) = (layout.head_dim, layout.types);
    let kind = if value { types.v } else { types.k };
    let half = |at: usize| f16::from_le_bytes([head[at], head[at + 1]]).to_f32();
    let scaled = matches!(kind, KvType::Q8_0 | KvType::Q4_0);
    let (start, scales) = match value {
        true => (layout.keys_bytes(), layout.keys_bytes() + 32 * layout.v_stride()),
        false => (0, layout.keys_bytes() - if scaled { 64 * hd.div_ceil(32) } else { 0 }),
    };
    (0..hd)
        .map(|d| {
            // A run of 32 elements begins after `runs` others.
            let (i, first, runs) = match value {
                true => (d % 32, start + slot * layout.v_stride(), d / 32),
                false => (slot, start, d),
            };
            let run = |bits: usize| first + runs * 4 * bits;
            let x = match kind {
                KvType::F32 => {
                    let at = run(32) + 4 * i;
                    f32::from_le_bytes(head[at..at + 4].try_into().unwrap())
                }
                KvType::F16 => half(run(16) + 2 * i),
                KvType::Bf16 => {
                    bf16::from_le_bytes([head[run(16) + 2 * i], head[run(16) + 2 * i + 1]]).to_f32()
                }
                KvType::Q8_0 => f32::from(head[run(8) + i] as i8),
                KvType::Q4_0 => f32::from(head[run(4) + i % 16] >> (4 * (i / 16)) & 15) - 8.0,
            };
            x * if scaled { half(scales + 64 * (d / 32) + 2 * slot) } else { 1.0 }
        })
        .collect()
}

#[test]
fn what_is_written_is_what_the_type_rounds_to() {
    for head_dim in [1, 16, 20, 32, 64, 72, 80] {
        for types in all_types() {
            let mut case = Case::new(types, Shape { head_dim, len: 40, ..SMALL });
            // Groups of zeros, tiny ones below every half, and one of equal magnitudes of both signs.
            case.k[..head_dim].fill(0.0);
            case.v[..head_dim].fill(-1e-30);
            let width = 2 * head_dim;
            for (d, x) in case.v[3 * width..3 * width + head_dim].iter_mut().enumerate() {
                *x = if d % 2 == 0 { -2.5 } else { 2.5 };
            }
            for ops in all_ops() {
                case.cache.fill(POISON);
                case.write(ops, 0..40);
                for (p, h) in (0..40).flat_map(|p| [(p, 0), (p, 1)]) {
                    let head = &case.cache[case.layout.head(case.table[p / BLOCK_LEN], h)];
                    for (value, kind, x) in [(false, types.k, &case.k), (true, types.v, &case.v)] {
                        let mut want = x[p * width + h * head_dim..][..head_dim].to_vec();
                        round(kind, &mut want);
                        let got = stored(case.layout, head, p % BLOCK_LEN, value);
                        assert!(got == want, "{types}, {}: position {p}, {got:?}, not {want:?}", ops.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn bytes_of_the_types() {
    let rows = KvType::ALL.map(|t| (t.name(), t.row_bytes(64), t.row_bytes(80)));
    let want = [("f32", 256, 320), ("f16", 128, 160), ("bf16", 128, 160), ("q8_0", 68, 86), ("q4_0", 36, 46)];
    assert_eq!(rows, want);
    for types in all_types() {
        // Whole vectors: nothing is padded.
        let layout = KvLayout { kv_heads: 3, head_dim: 64, types };
        assert_eq!(layout.block_bytes(), 3 * 32 * types.row_bytes(64), "{types}");
    }
}

/// Partitions computed apart, as by several threads, and merged in order give the bits of one pass.
#[test]
fn partitions_apart() {
    for (window, kind) in
        [(None, KvType::F16), (Some(300), KvType::F16), (Some(300), KvType::Q8_0), (None, KvType::Q4_0)]
    {
        let s = Shape { len: 1100, head_dim: 32, kv_heads: 1, window, ..SMALL };
        let case = Case::new(kind, s);
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
        ops.finish(32, case.group, &sum, None, &mut got, case.q_stride());
        let want = &case.run(ops, 1100)[rows.start * case.q_stride()..];
        assert!(same_bits(&got, want));
    }
}

#[test]
fn live_partitions_are_those_with_a_visible_key() {
    for (start, rows, whole, window) in [
        (0, 1, None, None),
        (255, 1, None, None),
        (256, 1, None, None),
        (250, 10, None, Some(3)),
        (700, 5, None, Some(445)),
        (700, 5, None, Some(444)),
        (5, 3, None, Some(0)),
        (0, 16, Some(600), None),
        (590, 10, Some(600), Some(200)),
        (240, 16, Some(257), Some(1)),
        (240, 16, Some(257), Some(2)),
    ] {
        let live = live_partitions(start, rows, whole, window);
        for p in 0..6 {
            let keys = p * PARTITION_LEN..(p + 1) * PARTITION_LEN;
            let seen = (start..start + rows).any(|q| {
                let from = window.map_or(0, |w| (q + 1usize).saturating_sub(w));
                let to = whole.map_or(q + 1, |len: usize| window.map_or(len, |w| len.min(q + w)));
                from.max(keys.start) < to.min(keys.end)
            });
            assert!(!seen || live.contains(&p), "{start} {rows} {whole:?} {window:?}: {live:?} misses {p}");
            assert!(
                seen || !live.contains(&p) || window == Some(0),
                "{start} {rows} {whole:?} {window:?}: {live:?} has {p}"
            );
        }
    }
}

#[test]
fn dead_partitions_are_empty_and_merge_as_nothing() {
    let s = Shape { len: 600, head_dim: 16, kv_heads: 1, window: Some(50), ..SMALL };
    let case = Case::new(KvType::F32, s);
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
    let case = Case::new(KvType::F16, Shape { window: Some(0), ..SMALL });
    for ops in all_ops() {
        assert!(case.run(ops, 7).iter().all(|&x| x == 0.0));
    }
}

/// What a row computes does not depend on keys it does not see, be they broken.
#[test]
fn later_keys_do_not_reach_earlier_rows() {
    for kind in KvType::ALL {
        let mut case = Case::new(kind, Shape { len: 90, ..SMALL });
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
}

#[test]
fn odd_values_do_not_panic() {
    for kind in KvType::ALL {
        let mut rng = Rng::new(9);
        for round in 0..20 {
            let mut case =
                Case::new(kind, Shape { len: 40, softcap: (round % 2 == 0).then_some(20.0), ..SMALL });
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
}
