use super::layout::LAYOUTS;
use super::*;
use crate::quant::dequantize;
use std::fmt::Write;

/// Deterministic pseudo-random numbers (Knuth's MMIX generator).
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }
    fn unit(&mut self) -> f32 {
        self.next() as f32 / u32::MAX as f32 - 0.5
    }
}

/// Random stored rows with scales of a sane size: f16 fields would otherwise hold NaN and infinity.
fn stored(format: Format, rows: usize, cols: usize, rng: &mut Rng) -> Vec<u8> {
    let n = format.bytes_for(cols).unwrap();
    let mut data: Vec<u8> = (0..rows * n).map(|_| (rng.next() >> 13) as u8).collect();
    let half = |rng: &mut Rng| half::f16::from_f32(rng.unit() * 0.1);
    match format {
        Format::MXFP4 => data.chunks_exact_mut(17).for_each(|block| block[0] = 118 + block[0] % 8),
        // All four kinds of scales: small and large ones, denormal ones, none.
        Format::NVFP4 => data.chunks_exact_mut(36).for_each(|block| block[3] &= 7),
        Format::F32 => {
            return (0..rows * cols).flat_map(|_| rng.unit().to_le_bytes()).collect();
        }
        Format::F16 => return (0..rows * cols).flat_map(|_| half(rng).to_le_bytes()).collect(),
        Format::BF16 => {
            return (0..rows * cols).flat_map(|_| half::bf16::from_f32(rng.unit()).to_le_bytes()).collect();
        }
        _ => {
            let quant = format.quant().unwrap();
            for block in data.chunks_exact_mut(format.block_bytes()) {
                quant.put_halves(block, half(rng), half(rng));
            }
        }
    }
    data
}

fn shapes(format: Format) -> Vec<(usize, usize)> {
    let b = format.block_len();
    match b {
        256 => vec![(16, 256), (35, 768), (49, 2304)],
        64 => vec![(16, 64), (5, 192), (37, 320), (48, 576), (33, 2112)],
        32 => vec![(16, 64), (5, 32), (37, 96), (48, 576), (33, 2080)],
        _ => vec![(16, 16), (7, 5), (50, 333)],
    }
}

fn pack(format: Format, data: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let packing = Packing::of(format);
    let n = format.bytes_for(cols).unwrap();
    let mut out = vec![0xaa; packing.bytes(rows, cols)];
    for (g, out) in out.chunks_exact_mut(packing.group_bytes(cols)).enumerate() {
        let rows: Vec<&[u8]> = data.chunks_exact(n).skip(g * ROWS).take(ROWS).collect();
        packing.pack_group(format, &rows, cols, out);
    }
    out
}

#[test]
fn packing_is_exact_for_every_format() {
    let mut rng = Rng(1);
    for format in Format::all() {
        for (rows, cols) in shapes(format) {
            let data = stored(format, rows, cols, &mut rng);
            let packing = Packing::of(format);
            let packed = pack(format, &data, rows, cols);
            let (mut want, mut got) = (vec![0f32; cols], vec![0f32; cols]);
            for (r, row) in data.chunks_exact(format.bytes_for(cols).unwrap()).enumerate() {
                dequantize(format, row, &mut want);
                let group = &packed[r / ROWS * packing.group_bytes(cols)..][..packing.group_bytes(cols)];
                packing.unpack_row(group, r % ROWS, &mut got);
                for (c, (w, g)) in want.iter().zip(&got).enumerate() {
                    assert_eq!(
                        w.to_bits(),
                        g.to_bits(),
                        "{format} [{rows}, {cols}] row {r} column {c}: {w} {g}"
                    );
                }
            }
        }
    }
}

#[test]
fn packing_costs_little() {
    for format in Format::all() {
        let cols = 2048;
        let stored = (16 * format.bytes_for(cols).unwrap()) as f64;
        let packed = Packing::of(format).bytes(16, cols) as f64;
        let bits = packed * 8.0 / (16 * cols) as f64;
        // Rows of a grid and digits of base 3 are not codes that could be stored as they are.
        let (most, why) = match format.quant().and_then(|q| q.levels) {
            Some(levels) if format.bits_per_weight() < 4.0 => {
                (if levels.len() > 8 { 4.4 } else { 3.7 }, "bits")
            }
            _ => (1.06 * format.bits_per_weight(), "bits, 6 % more than it has"),
        };
        assert!(
            bits <= most,
            "{format}: {bits} bits a weight ({packed} bytes for {stored}), at most {most} {why}"
        );
    }
}

fn quantised(x: &[f32], cols: usize, isa: Isa) -> (Vec<i8>, Vec<ActBlock>) {
    let n = padded_cols(cols);
    let (mut q, mut meta) =
        (vec![99; x.len() / cols * n], vec![ActBlock::default(); x.len() / cols * n / BLOCK]);
    let quantize = Quantize::new(isa).unwrap();
    for (x, (q, meta)) in
        x.chunks_exact(cols).zip(q.chunks_exact_mut(n).zip(meta.chunks_exact_mut(n / BLOCK)))
    {
        quantize.row(x, q, meta);
    }
    (q, meta)
}

fn product(m: &Matmul, w: &[u8], groups: usize, cols: usize, x: &[f32], rows: usize) -> Vec<f32> {
    let ldy = groups * ROWS;
    let mut y = vec![f32::NAN; rows * ldy];
    let (q, meta) = quantised(x, cols, m.isa());
    let xq = QuantRows { q: q.as_ptr(), meta: meta.as_ptr(), stride: padded_cols(cols) };
    // SAFETY: all sizes are as documented.
    unsafe {
        match m.packing() {
            Packing::Quantised(_) => m.quantised(w.as_ptr(), groups, cols, xq, rows, y.as_mut_ptr(), ldy),
            Packing::Float(_) => {
                m.float(w.as_ptr(), groups, cols, x.as_ptr(), cols, rows, y.as_mut_ptr(), ldy)
            }
        }
    }
    y
}

/// The oracle: dequantised weights times dequantised activations, in f64.
fn oracle(format: Format, data: &[u8], cols: usize, x: &[f32], r: usize, t: usize) -> f64 {
    let n = format.bytes_for(cols).unwrap();
    let mut w = vec![0f32; cols];
    dequantize(format, &data[r * n..(r + 1) * n], &mut w);
    let x = &x[t * cols..(t + 1) * cols];
    if matches!(Packing::of(format), Packing::Float(_)) {
        return w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
    }
    let (q, meta) = quantised(x, cols, Isa::Scalar);
    w.iter()
        .enumerate()
        .map(|(c, &w)| f64::from(w) * f64::from(q[c]) * f64::from(meta[c / BLOCK].d[c / 16 % 2]))
        .sum()
}

/// One body for every format and instruction set: near the oracle, and bit-equal to the scalar kernels.
#[test]
fn products_equal_the_oracle_and_each_other() {
    let mut rng = Rng(7);
    for format in Format::all() {
        for (rows, cols) in shapes(format) {
            let data = stored(format, rows, cols, &mut rng);
            let packed = pack(format, &data, rows, cols);
            let groups = rows.div_ceil(ROWS);
            for tokens in [1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 67] {
                let x: Vec<f32> = (0..tokens * cols).map(|_| rng.unit() * 4.0).collect();
                let scalar = Matmul::new(Packing::of(format), Isa::Scalar).unwrap();
                let want = product(&scalar, &packed, groups, cols, &x, tokens);
                let (mut err, mut norm) = (0f64, 1e-30f64);
                for t in 0..tokens {
                    for r in 0..rows {
                        let o = oracle(format, &data, cols, &x, r, t);
                        err += (o - f64::from(want[t * groups * ROWS + r])).powi(2);
                        norm += o * o;
                    }
                }
                assert!(err / norm < 1e-11, "{format} [{rows}, {cols}] x {tokens}: nmse {}", err / norm);
                for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                    let m = Matmul::new(Packing::of(format), isa).unwrap();
                    let got = product(&m, &packed, groups, cols, &x, tokens);
                    for (i, (w, g)) in want.iter().zip(&got).enumerate() {
                        assert_eq!(
                            w.to_bits(),
                            g.to_bits(),
                            "{format} {isa} [{rows}, {cols}] x {tokens}: {i}"
                        );
                    }
                }
            }
        }
    }
}

/// A row's products are the same bits whether few rows come with it or many, which meet unpacked weights.
#[test]
fn products_of_a_row_do_not_depend_on_the_rows_beside_it() {
    let mut rng = Rng(11);
    for format in Format::all() {
        let (rows, cols) = shapes(format)[2];
        let packed = pack(format, &stored(format, rows, cols, &mut rng), rows, cols);
        let groups = rows.div_ceil(ROWS);
        let x: Vec<f32> = (0..67 * cols).map(|_| rng.unit() * 4.0).collect();
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            let m = Matmul::new(Packing::of(format), isa).unwrap();
            let together = product(&m, &packed, groups, cols, &x, 67);
            for (t, together) in together.chunks_exact(groups * ROWS).enumerate() {
                let alone = product(&m, &packed, groups, cols, &x[t * cols..(t + 1) * cols], 1);
                assert!(
                    alone.iter().zip(together).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{format} {isa}: row {t}"
                );
            }
        }
    }
}

/// A scale of a whole matrix is multiplied into its rows, and costs one rounding.
#[test]
fn scales_of_rows_are_packed() {
    let (format, rows, cols) = (Format::NVFP4, 21, 448);
    let mut rng = Rng(5);
    let data = stored(format, rows, cols, &mut rng);
    let packing = Packing::of(format);
    let mut packed = pack(format, &data, rows, cols);
    let bytes = packing.group_bytes(cols);
    let scale = |r: usize| if r.is_multiple_of(3) { 1.0 } else { 1.7e-5 * r as f32 };
    for (g, group) in packed.chunks_exact_mut(bytes).enumerate() {
        packing.scale_group((0..ROWS.min(rows - g * ROWS)).map(|r| scale(g * ROWS + r)), group);
    }
    let (mut want, mut got) = (vec![0f32; cols], vec![0f32; cols]);
    for (r, row) in data.chunks_exact(format.bytes_for(cols).unwrap()).enumerate() {
        dequantize(format, row, &mut want);
        packing.unpack_row(&packed[r / ROWS * bytes..][..bytes], r % ROWS, &mut got);
        for (w, g) in want.iter().zip(&got) {
            let want = w * scale(r);
            assert!((want - g).abs() <= 2e-7 * want.abs(), "row {r}: {want} {g}");
        }
    }
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let x: Vec<f32> = (0..cols).map(|_| rng.unit()).collect();
        let of = |isa| product(&Matmul::new(packing, isa).unwrap(), &packed, 2, cols, &x, 1);
        assert_eq!(of(isa), of(Isa::Scalar), "{isa}");
        let (o, y) = (oracle(format, &data, cols, &x, 20, 0) * f64::from(scale(20)), of(isa)[20]);
        assert!((f64::from(y) - o).abs() <= 1e-5 * o.abs(), "{isa}: {y} {o}");
    }
}

/// Extreme codes and activations: nothing saturates.
#[test]
fn extreme_codes_do_not_saturate() {
    let (cols, rows) = (256, 64);
    for format in Format::all().filter(|f| f.quant().is_some()) {
        for fill in [0x00u8, 0xff, 0x80, 0x7f] {
            let n = format.bytes_for(cols).unwrap();
            let mut data = vec![fill; 16 * n];
            let quarter = half::f16::from_f32(0.25);
            for block in data.chunks_exact_mut(format.block_bytes()) {
                format.quant().unwrap().put_halves(block, quarter, quarter);
                if format == Format::MXFP4 {
                    block[0] = 126;
                }
            }
            let packed = pack(format, &data, 16, cols);
            for sign in [1.0f32, -1.0] {
                let x = vec![sign * 3.0; rows * cols];
                let o = oracle(format, &data, cols, &x, 0, 0);
                for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                    let m = Matmul::new(Packing::of(format), isa).unwrap();
                    for y in product(&m, &packed, 1, cols, &x, rows) {
                        assert!(
                            (f64::from(y) - o).abs() <= 1e-5 * o.abs().max(1.0),
                            "{format} {isa}: {y} {o}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn quantised_activations_are_within_half_a_step_and_equal_on_every_isa() {
    let mut rng = Rng(3);
    for cols in [1, 31, 32, 33, 64, 100, 576] {
        let mut x: Vec<f32> = (0..cols).map(|_| rng.unit()).collect();
        x[cols / 2] = 40.0;
        let (q, meta) = quantised(&x, cols, Isa::Scalar);
        for (c, x) in x.iter().enumerate() {
            let d = meta[c / BLOCK].d[c / 16 % 2];
            assert!((x - d * f32::from(q[c])).abs() <= 0.5001 * d, "column {c}");
        }
        assert!(q[cols..].iter().all(|&q| q == 0));
        for (b, m) in meta.iter().enumerate() {
            for (half, q) in q[b * BLOCK..(b + 1) * BLOCK].chunks_exact(16).enumerate() {
                let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
                assert_eq!(m.neg[half], -sum);
                assert_eq!(m.s[half], m.d[half] * sum as f32);
            }
            assert_eq!(m.s32, m.s[0] + m.s[1]);
        }
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            let (q2, meta2) = quantised(&x, cols, isa);
            assert_eq!(q, q2, "{isa}");
            assert_eq!(format!("{meta:?}"), format!("{meta2:?}"), "{isa}");
        }
    }
}

#[test]
fn zero_tiny_and_infinite_blocks() {
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let mut x = vec![0f32; 96];
        x[32..64].fill(1e-39);
        x[70] = f32::INFINITY;
        let (q, meta) = quantised(&x, 96, isa);
        assert!(q.iter().all(|&q| q == 0));
        assert_eq!((meta[0].d, meta[1].d), ([0.0; 2], [0.0; 2]));
        assert!(meta[2].d[0].is_nan(), "an infinity must not vanish");
    }
}

/// `kernels/cuda/layouts.cuh` is [`LAYOUTS`] in C++.
fn gpu_header() -> String {
    let mut text = String::from(
        "// The table of layouts in kernels/src/pack/layout.rs; written by its tests, with KINFER_WRITE_LAYOUTS=1 set.\n\
         #pragma once\n#include <cstdint>\ntemplate <int L> struct Layout;\n",
    );
    for (i, l) in LAYOUTS.iter().enumerate() {
        let formats: Vec<&str> =
            Format::all().filter(|f| Layout::of(*f) == Some(*l)).map(Format::name).collect();
        let mut levels = [0u8; 16];
        for (to, level) in levels.iter_mut().zip(l.levels.into_iter().flatten()) {
            *to = *level as u8;
        }
        let levels = levels
            .as_chunks::<4>()
            .0
            .iter()
            .enumerate()
            .map(|(i, word)| format!("level{i} = 0x{:08x}", u32::from_le_bytes(*word)));
        writeln!(text, "template <> struct Layout<{i}> {{ // {}", formats.join(", ")).unwrap();
        writeln!(
            text,
            "  static constexpr int bits = {}, group = {}, shift = {}, offset = {};",
            l.bits,
            l.group,
            l.shift,
            l.offset()
        )
        .unwrap();
        writeln!(
            text,
            "  static constexpr bool two_level = {}, e4m3 = {}, min = {}, wide = {}, table = {};",
            l.two_level,
            l.e4m3,
            l.min,
            l.wide,
            l.levels.is_some()
        )
        .unwrap();
        let levels: Vec<String> = levels.collect();
        writeln!(text, "  static constexpr uint32_t {};\n}};", levels.join(", ")).unwrap();
    }
    text
}

#[test]
fn the_header_of_the_gpu_kernels_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/layouts.cuh");
    if std::env::var_os("KINFER_WRITE_LAYOUTS").is_some() {
        std::fs::write(path, gpu_header()).unwrap();
    }
    let file = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(file, gpu_header(), "{path}: run this test with KINFER_WRITE_LAYOUTS=1");
}
