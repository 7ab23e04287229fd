//! Attention and elementwise operations on one thread: `cargo bench -p kinfer-kernels --bench ops`.
//!
//! Attention counts `4 * head_dim` floating-point operations per query head and visible key (criterion prints them as
//! elements); decode counts the bytes of keys and values read. `speed` beside each is that of the fastest sample, with the
//! share of the bandwidth or the peak measured in the same run; keys and values that fit into a cache exceed the bandwidth.

mod common;

use common::{Work, bench};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kinfer_kernels::isa::Isa;
use kinfer_kernels::ops::{Attend, BLOCK_LEN, KvLayout, KvRows, KvType, Ops, partial_len, rope_table};
use kinfer_kernels::peak::Arithmetic;
use std::hint::black_box;
use std::time::Duration;

fn all_ops() -> impl Iterator<Item = &'static Ops> {
    Isa::ALL.into_iter().filter_map(Ops::new).filter(|o| o.isa() != Isa::Scalar)
}

/// Numbers of no particular kind in -1..1.
fn floats(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

struct Cache {
    layout: KvLayout,
    data: Vec<u8>,
    table: Vec<u32>,
}

impl Cache {
    fn new(head_dim: usize, keys: usize, kind: KvType) -> Cache {
        let layout = KvLayout { kv_heads: 1, head_dim, types: kind.into() };
        let blocks = keys.div_ceil(BLOCK_LEN);
        let mut data = vec![0; blocks * layout.block_bytes()];
        let (ops, row) = (Ops::new(Isa::best()).unwrap(), floats(BLOCK_LEN * head_dim));
        for block in 0..blocks {
            let rows = KvRows { k: &row, v: &row, stride: head_dim, rows: BLOCK_LEN, slot: 0 };
            ops.kv_write(layout, &mut data[layout.head(block as u32, 0)], rows);
        }
        // Odd stride through the blocks: a paged cache is not contiguous.
        let table = (0..blocks as u32).map(|i| i.wrapping_mul(7919) % blocks as u32).collect();
        Cache { layout, data, table }
    }

    /// `rows` queries rows of `group` heads that end at position `keys - 1`.
    fn attend<'a>(&'a self, q: &'a [f32], group: usize, rows: usize, keys: usize) -> Attend<'a> {
        Attend {
            layout: self.layout,
            cache: &self.data,
            table: &self.table,
            kv_head: 0,
            group,
            q,
            q_stride: group * self.layout.head_dim,
            rows,
            start: keys - rows,
            whole: None,
            window: None,
            scale: 1.0 / (self.layout.head_dim as f32).sqrt(),
            softcap: None,
            alibi: None,
            sinks: None,
        }
    }
}

/// A prompt of 512 positions, 32 rows at a time.
fn prefill(c: &mut Criterion, kind: KvType) {
    let mut g = c.benchmark_group(format!("prefill_{kind}_512"));
    for (head_dim, group) in [(64, 1), (64, 3), (128, 4), (256, 4)] {
        let (keys, chunk) = (512, 32);
        let cache = Cache::new(head_dim, keys, kind);
        let q = floats(keys * group * head_dim);
        let mut out = vec![0.0; keys * group * head_dim];
        let mut scratch = vec![0.0; 2 * chunk * group * partial_len(head_dim)];
        let operations = 4 * head_dim * group * keys * (keys + 1) / 2;
        for ops in all_ops() {
            let work = Work::Operations(operations, ops.isa(), Arithmetic::F32);
            bench(&mut g, &format!("hd{head_dim}_g{group}/{}", ops.isa()), work, || {
                for end in (chunk..=keys).step_by(chunk) {
                    let at = (end - chunk) * group * head_dim;
                    let a = cache.attend(&q[at..], group, chunk, end);
                    ops.attention(&a, &mut scratch, &mut out[at..], group * head_dim, None);
                }
            });
        }
    }
    g.finish();
}

/// One query position over a cache too large for L2, then too large for L3.
fn decode(c: &mut Criterion, kind: KvType, keys: usize) {
    let mut g = c.benchmark_group(format!("decode_{kind}_{keys}"));
    for (head_dim, group) in [(64, 1), (64, 3), (128, 4), (256, 4)] {
        let cache = Cache::new(head_dim, keys, kind);
        let q = floats(group * head_dim);
        let mut out = vec![0.0; group * head_dim];
        let mut scratch = vec![0.0; 2 * group * partial_len(head_dim)];
        let work = Work::Bytes(2 * kind.row_bytes(head_dim) * keys);
        let a = cache.attend(&q, group, 1, keys);
        for ops in all_ops() {
            bench(&mut g, &format!("hd{head_dim}_g{group}/{}", ops.isa()), work, || {
                ops.attention(black_box(&a), &mut scratch, &mut out, group * head_dim, None);
            });
        }
    }
    g.finish();
}

fn attention(c: &mut Criterion) {
    for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
        prefill(c, kind);
    }
    for kind in KvType::ALL {
        decode(c, kind, 8192);
    }
    for kind in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
        decode(c, kind, 1 << 18);
    }
}

fn elementwise(c: &mut Criterion) {
    let mut g = c.benchmark_group("elementwise_2048");
    let n = 2048;
    let (x, w) = (floats(n), floats(n));
    let mut y = floats(n);
    // True angles: other factors would drive the repeatedly turned values to infinity or into denormals.
    let (mut cos, mut sin) = ([0.0; 32], [0.0; 32]);
    rope_table(1000, &std::array::from_fn::<f32, 32, _>(|i| 0.75f32.powi(i as i32)), 1.0, &mut cos, &mut sin);
    g.throughput(Throughput::Elements(n as u64));
    for ops in all_ops() {
        let isa = ops.isa();
        g.bench_function(format!("rms_norm/{isa}"), |b| {
            b.iter(|| ops.rms_norm(&x, &w, 1e-5, black_box(&mut y)))
        });
        g.bench_function(format!("silu_mul/{isa}"), |b| b.iter(|| ops.silu_mul(&x, &w, black_box(&mut y))));
        g.bench_function(format!("gelu_tanh_mul/{isa}"), |b| {
            b.iter(|| ops.gelu_tanh_mul(&x, &w, black_box(&mut y)))
        });
        g.bench_function(format!("rope/{isa}"), |b| {
            b.iter(|| ops.rope(black_box(&mut y), 64, &cos, &sin));
        });
        g.bench_function(format!("add/{isa}"), |b| b.iter(|| ops.add(black_box(&mut y), &w)));
        g.bench_function(format!("argmax/{isa}"), |b| b.iter(|| ops.argmax(black_box(&x))));
    }
    g.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600)).sample_size(20);
    targets = attention, elementwise
}
criterion_main!(benches);
