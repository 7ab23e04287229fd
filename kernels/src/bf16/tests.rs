//! The products in bf16 against their definitions, bit for bit.

use super::*;
use crate::pack::{Float, Packing, ROWS};
use crate::quant::{Format, dequantize};

/// Pseudo-random numbers in -1..1.
fn numbers(seed: u32) -> impl Iterator<Item = f32> {
    let mut x = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    std::iter::repeat_with(move || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// Stored rows with sane scales, and the values that they stand for.
fn weights(format: Format, rows: usize, cols: usize) -> (Vec<Vec<u8>>, Vec<Vec<f32>>) {
    let n = format.bytes_for(cols).unwrap();
    let stored: Vec<Vec<u8>> = (0..rows)
        .map(|r| match format {
            Format::F16 => {
                numbers(r as u32).take(cols).flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect()
            }
            Format::BF16 => {
                numbers(r as u32).take(cols).flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect()
            }
            // Exponents of normal numbers.
            Format::MXFP4 => numbers(r as u32)
                .take(n)
                .enumerate()
                .map(|(i, x)| if i % 17 == 0 { 120 } else { ((x + 1.0) * 127.0) as u8 })
                .collect(),
            // Bytes below 0x38 are halves of at most 0.5 wherever a scale is read from them.
            _ => numbers(r as u32).take(n).map(|x| ((x + 1.0) * 28.0) as u8).collect(),
        })
        .collect();
    let values = stored
        .iter()
        .map(|s| {
            let mut v = vec![0.0; cols];
            dequantize(format, s, &mut v);
            v
        })
        .collect();
    (stored, values)
}

fn bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// As weights are rounded: ties away from zero.
fn away(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + 0x8000) & 0xffff_0000)
}

/// The definition. On AMX: chunks of 32 columns, even and odd columns summed apart by fused multiply-adds, then together, then onto
/// the sum (Intel's instruction reference, TDPBF16PS). On AVX-512: pairs of columns, the odd one first, onto the sum by fused
/// multiply-adds (the same, VDPBF16PS).
fn definition(isa: Isa, w: &[f32], x: &[f32]) -> f32 {
    if isa == Isa::Avx512Bf16 {
        return w
            .chunks(2)
            .zip(x.chunks(2))
            .fold(0.0, |sum, (w, x)| w.iter().zip(x).rev().fold(sum, |sum, (w, x)| w.mul_add(*x, sum)));
    }
    w.chunks(32).zip(x.chunks(32)).fold(0.0, |sum, (w, x)| {
        let mut part = [0f32; 2];
        for (i, (w, x)) in w.iter().zip(x).enumerate() {
            part[i % 2] = w.mul_add(*x, part[i % 2]);
        }
        sum + (part[0] + part[1])
    })
}

fn product(
    isa: Isa,
    m: TileMatmul,
    w: &[u8],
    groups: usize,
    cols: usize,
    x: &[Vec<f32>],
    rows: Range<usize>,
) -> Vec<f32> {
    let convert = TileConvert::new(isa).unwrap();
    let strip = strip_len(cols);
    let mut lines = vec![[0u16; 32]; x.len().div_ceil(STRIP) * strip / 32 + 2];
    let skip = lines.as_ptr().cast::<u8>().align_offset(64) / 2;
    let tiles = lines.as_mut_ptr().cast::<u16>().wrapping_add(skip);
    let ldy = groups * ROWS;
    let mut y = vec![f32::NAN; x.len() * ldy];
    // SAFETY: the buffers are as large as the strips and rows.
    unsafe {
        for (r, x) in x.iter().enumerate() {
            convert.row(x, r, tiles.add(r / STRIP * strip));
        }
        let x = TileRows { ptr: tiles, strip: 2 * strip };
        m.multiply(w.as_ptr(), groups, cols, x, rows, y.as_mut_ptr(), ldy);
    }
    y
}

/// The instruction sets with products in bf16 that this machine has; the lower ones are tested everywhere.
fn available() -> impl Iterator<Item = Isa> {
    [Isa::Avx512Bf16, Isa::Amx].into_iter().filter(|isa| {
        if !isa.available() {
            println!("no {isa} on this machine: its products are not tested");
        }
        isa.available()
    })
}

#[test]
fn every_packing_equals_the_definition() {
    for isa in available() {
        for format in Format::all() {
            let packing = Packing::of(format);
            let takes = match packing {
                Packing::Quantised(_) => isa == Isa::Amx,
                Packing::Float(float) => float != Float::F32,
            };
            let m = TileMatmul::new(packing, isa);
            assert_eq!(m.is_some(), takes, "{format} on {isa}");
            let Some(m) = m else { continue };
            // One panel; several; several chunks; a last chunk of less than a panel.
            for cols in [256, 576, 2304] {
                let cols = cols / format.block_len().max(32) * format.block_len().max(32);
                packing_equals_the_definition(isa, m, format, cols);
            }
        }
    }
}

fn packing_equals_the_definition(isa: Isa, m: TileMatmul, format: Format, cols: usize) {
    let packing = Packing::of(format);
    let (groups, rows) = (3, 35);
    let (stored, values) = weights(format, groups * ROWS, cols);
    let bytes = packing.group_bytes(cols);
    let mut w = vec![0; groups * bytes];
    for (g, w) in w.chunks_exact_mut(bytes).enumerate() {
        let rows: Vec<&[u8]> = stored[g * ROWS..][..ROWS].iter().map(|r| &r[..]).collect();
        packing.pack_group(format, &rows, cols, w);
    }
    let x: Vec<Vec<f32>> = (0..rows).map(|r| numbers(1000 + r as u32).take(cols).collect()).collect();
    let y = product(isa, m, &w, groups, cols, &x, 0..rows);
    let mut worst = 0f32;
    for (t, x) in x.iter().enumerate() {
        let x: Vec<f32> = x.iter().map(|&x| bf16(x)).collect();
        for (o, w) in values.iter().enumerate() {
            let w: Vec<f32> = w.iter().map(|&w| away(w)).collect();
            let (want, got) = (definition(isa, &w, &x), y[t * groups * ROWS + o]);
            let size: f32 = w.iter().zip(&x).map(|(w, x)| (w * x).abs()).sum();
            worst = worst.max((want - got).abs() / size);
        }
    }
    // A weight with a minimum is rounded to f32 once here and twice by `dequantize`: a few end at the neighbouring bf16,
    // 2^-8 of one of `cols` products.
    println!("{format} x {cols} on {isa}: off by {worst:.2e} of the sum of magnitudes");
    assert!(worst < 2e-5, "{format} x {cols} on {isa}: {worst}");
    // Rows and groups by themselves give the same bits.
    for range in [0..1, 3..35, 16..32, 17..18, 20..21] {
        let part = product(isa, m, &w[bytes..], 2, cols, &x, range.clone());
        for t in 0..rows {
            let (all, part) = (&y[t * 48 + 16..][..32], &part[t * 32..][..32]);
            if range.contains(&t) {
                assert_eq!(all, part, "{format} x {cols} on {isa}: row {t} of {range:?}");
            } else {
                let untouched = part.iter().all(|y| y.is_nan());
                assert!(untouched, "{format} x {cols} on {isa}: row {t} is not of {range:?}");
            }
        }
    }
}

/// With factors that bf16 holds exactly and no rounding in dequantisation, every bit is defined.
#[test]
fn sums_are_the_instructions() {
    for isa in available() {
        let m = TileMatmul::new(Packing::of(Format::BF16), isa).unwrap();
        for cols in [1, 32, 50, 51, 576, 4100] {
            let (stored, values) = weights(Format::BF16, ROWS, cols);
            let rows: Vec<&[u8]> = stored.iter().map(|r| &r[..]).collect();
            let packing = Packing::of(Format::BF16);
            let mut w = vec![0; packing.group_bytes(cols)];
            packing.pack_group(Format::BF16, &rows, cols, &mut w);
            let x: Vec<Vec<f32>> = (0..20).map(|r| numbers(r + 7).take(cols).map(bf16).collect()).collect();
            let y = product(isa, m, &w, 1, cols, &x, 0..20);
            for (t, x) in x.iter().enumerate() {
                for (o, w) in values.iter().enumerate() {
                    let (want, got) = (definition(isa, w, x), y[t * ROWS + o]);
                    assert_eq!(got, want, "{isa}, {cols} columns, row {t}, output {o}");
                }
            }
        }
    }
}
