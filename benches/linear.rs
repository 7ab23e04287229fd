//! Products with packed weights on one thread: `cargo bench -p kinfer-kernels --bench linear`.
//!
//! `decode`: one token against more weights than any cache holds, in bytes of packed weights per second. `cached`: the same against
//! weights that stay in the core's cache; where it is not well above `decode`, the arithmetic bounds both. `prefill`: 256 tokens,
//! in operations per second (two per weight and token), which criterion prints as elements. `speed` beside each is that of the
//! fastest sample, with the share of the bandwidth or the peak measured in the same run.

mod common;

use common::{Work, bench};
use criterion::{Criterion, criterion_group, criterion_main};
use kinfer_kernels::bf16::{STRIP, TileConvert, TileMatmul, TileRows, strip_len};
use kinfer_kernels::isa::Isa;
use kinfer_kernels::pack::{ActBlock, BLOCK, Matmul, Packing, QuantRows, Quantize, ROWS, padded_cols};
use kinfer_kernels::peak::Arithmetic;
use kinfer_kernels::quant::Format;
use std::time::Duration;

const COLS: usize = 2048;
/// Bytes that the decode bench streams through: beyond the shared cache of a large server.
const STREAM: usize = 256 << 20;
/// Bytes that the bench in cache reads again and again: half of the smallest second-level cache of a server.
const CACHED: usize = 512 << 10;

fn numbers(n: usize) -> impl Iterator<Item = u32> {
    (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 8)
}

/// Sixteen rows of stored weights with small scales, packed.
fn group(format: Format) -> Vec<u8> {
    let n = format.bytes_for(COLS).expect("whole blocks");
    // Bytes below 0x30 are small positive halves wherever a scale is read from them.
    let row: Vec<u8> = numbers(n).map(|x| (x % 0x30) as u8).collect();
    let packing = Packing::of(format);
    let mut out = vec![0; packing.group_bytes(COLS)];
    packing.pack_group(format, &[&row[..]; ROWS], COLS, &mut out);
    out
}

struct Input {
    floats: Vec<f32>,
    q: Vec<i8>,
    meta: Vec<ActBlock>,
}

fn input(rows: usize, isa: Isa) -> Input {
    let floats: Vec<f32> = numbers(rows * COLS).map(|x| x as f32 / (1 << 23) as f32 - 1.0).collect();
    let n = padded_cols(COLS);
    let (mut q, mut meta) = (vec![0; rows * n], vec![ActBlock::default(); rows * n / BLOCK]);
    let quantize = Quantize::new(isa).expect("an available ISA");
    for (r, x) in floats.chunks_exact(COLS).enumerate() {
        quantize.row(x, &mut q[r * n..(r + 1) * n], &mut meta[r * n / BLOCK..(r + 1) * n / BLOCK]);
    }
    Input { floats, q, meta }
}

fn product(m: &Matmul, w: &[u8], groups: usize, x: &Input, rows: usize, y: &mut [f32]) {
    let ldy = groups * ROWS;
    assert!(y.len() >= rows * ldy && w.len() >= groups * m.packing().group_bytes(COLS));
    let xq = QuantRows { q: x.q.as_ptr(), meta: x.meta.as_ptr(), stride: padded_cols(COLS) };
    // SAFETY: sizes as asserted; `x` has `rows` rows.
    unsafe {
        match m.packing() {
            Packing::Quantised(_) => m.quantised(w.as_ptr(), groups, COLS, xq, rows, y.as_mut_ptr(), ldy),
            Packing::Float(_) => {
                m.float(w.as_ptr(), groups, COLS, x.floats.as_ptr(), COLS, rows, y.as_mut_ptr(), ldy);
            }
        }
    }
}

fn linear(c: &mut Criterion) {
    for isa in Isa::ALL.into_iter().filter(|i| i.available() && *i != Isa::Scalar) {
        for format in Format::all() {
            let group = group(format);
            if let Some(proof) = TileConvert::new(isa) {
                in_bf16(c, format, &group, isa, proof);
                continue;
            }
            let m = Matmul::new(Packing::of(format), isa).expect("an available ISA");
            let w = group.repeat(STREAM / group.len());
            let name = format!("{format} {isa}");
            let x = input(1, isa);
            for (kind, bytes) in [("decode", STREAM), ("cached", CACHED)] {
                let groups = bytes / group.len();
                let mut y = vec![0f32; groups * ROWS];
                let mut g = c.benchmark_group(kind);
                g.sample_size(10);
                bench(&mut g, &name, Work::Bytes(groups * group.len()), || {
                    product(&m, &w, groups, &x, 1, &mut y)
                });
                g.finish();
            }

            let (groups, rows) = (16, 256);
            let mut y = vec![0f32; rows * groups * ROWS];
            let mut g = c.benchmark_group("prefill");
            g.sample_size(10);
            let x = input(rows, isa);
            let arithmetic = match m.packing() {
                Packing::Quantised(_) => Arithmetic::Int8,
                Packing::Float(_) => Arithmetic::F32,
            };
            let work = Work::Operations(2 * rows * groups * ROWS * COLS, isa, arithmetic);
            bench(&mut g, &name, work, || product(&m, &w, groups, &x, rows, &mut y));
            g.finish();
        }
    }
}

/// The prefill bench in bf16, for the formats that are multiplied so; all else is as on AVX-512.
fn in_bf16(c: &mut Criterion, format: Format, group: &[u8], isa: Isa, proof: TileConvert) {
    let Some(m) = TileMatmul::new(Packing::of(format), isa) else { return };
    let (groups, rows) = (16, 256);
    let w = group.repeat(groups);
    let strip = strip_len(COLS);
    let mut tiles = vec![0u16; rows / STRIP * strip + 32];
    let skip = tiles.as_ptr().align_offset(64);
    let tiles = &mut tiles[skip..];
    let row: Vec<f32> = numbers(COLS).map(|x| x as f32 / (1 << 23) as f32 - 1.0).collect();
    for r in 0..rows {
        // SAFETY: the strips are aligned, and `row` is one row of them.
        unsafe { proof.row(&row, r, tiles[r / STRIP * strip..].as_mut_ptr()) };
    }
    let mut y = vec![0f32; rows * groups * ROWS];
    let x = TileRows { ptr: tiles.as_ptr(), strip: 2 * strip };
    let work = Work::Operations(2 * rows * groups * ROWS * COLS, isa, Arithmetic::Bf16);
    let mut g = c.benchmark_group("prefill");
    g.sample_size(10);
    bench(&mut g, &format!("{format} {isa}"), work, || {
        // SAFETY: `w` has the groups, `x` the rows, `y` room for both.
        unsafe { m.multiply(w.as_ptr(), groups, COLS, x, 0..rows, y.as_mut_ptr(), groups * ROWS) }
    });
    g.finish();
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600))
}

criterion_group! { name = benches; config = config(); targets = linear }
criterion_main!(benches);
