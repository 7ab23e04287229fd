#!/usr/bin/env python3
"""Regenerates the golden data of the stored formats, and the grids: pip install gguf==0.19.0 numpy; python make.py

Per format one file: raw blocks, then their dequantised values (f32, little-endian) as computed by the `gguf` package.
grids.rs, among the sources: the grids of the formats IQ1 to IQ3, which are part of their definition.
types.tsv: id, name, elements and bytes per block of every type that the package knows.
"""
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

HERE = Path(__file__).parent
# byte offsets of the f16 fields (d, then dmin or m) in a block
HALFS = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [],
    T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0], T.IQ1_M: [],
    T.TQ1_0: [52], T.TQ2_0: [64], T.NVFP4: [],
}
# d and dmin (or m): typical, negative, smallest and largest denormal, zeros of both signs, largest, infinite
SCALES = [
    (0.0123, 0.0456), (-0.77, -3.5), (2**-24, -(2**-24)), (1023 * 2**-24, 2**-20), (0.0, 0.0), (-0.0, -0.0),
    (0.0, -0.0), (65504.0, -65504.0), (-65504.0, 2**-24), (float("inf"), 1.0),
]


def blocks(ty, rng):
    size = GGML_QUANT_SIZES[ty][1]
    out = rng.integers(0, 256, (len(SCALES) + 2, size), dtype=np.uint8)
    if ty == T.MXFP4:  # exponents: denormal results, typical ones, the largest
        out[:10, 0] = [0, 1, 2, 3, 100, 118, 125, 127, 254, 255]
    if ty == T.NVFP4:  # scales: zeros, denormal and typical ones, the largest, NaN, all of them with a sign that counts for nothing
        out[:8, :4] = np.reshape([0, 0x80, 1, 0x81, 7, 8, 9, 15, 56, 57, 63, 64, 0x7D, 0x7E, 0x7F, 0xFF, *range(96, 112)], (8, 4))
    if ty == T.IQ1_M:  # a nibble of d in the upper bits of each u16
        for row, (value, _) in zip(out, SCALES):
            bits = int(np.array(value, np.float16).view(np.uint16))
            for i in range(4):
                row[49 + 2 * i] = row[49 + 2 * i] & 15 | (bits >> 4 * i & 15) << 4
    out[-2], out[-1] = 0x00, 0xFF  # all codes and sub-block scales at their ends, with a typical block scale
    for row, values in zip(out, SCALES + SCALES[:2]):
        for offset, value in zip(HALFS[ty], values):
            row[offset : offset + 2] = np.array([value], np.float16).view(np.uint8)
    return out


def floats(ty, rng):
    special = np.array([0, -0.0, 1, -1, 65504, -65504, 2**-24, -(2**-24), np.inf, -np.inf, 1e-40, 3e38], np.float32)
    with np.errstate(over="ignore"):
        values = np.concatenate([special, rng.standard_normal(52).astype(np.float32)])
        if ty == T.F32:
            return values.view(np.uint8)
        if ty == T.F16:
            return values.astype(np.float16).view(np.uint8)
        return gguf.quants.quantize(values, ty).view(np.uint8)


def grids():
    """Rows of the grids as numbers: an element is its place in the grid's values, 2 or 3 bits each, the first one lowest."""
    lines = [GRIDS]
    for name, bits in [("IQ2_XXS", 2), ("IQ2_XS", 2), ("IQ2_S", 2), ("IQ1_S", 2), ("IQ3_XXS", 3), ("IQ3_S", 3)]:
        quant = getattr(gguf.quants, name)
        quant.init_grid()
        grid = quant.grid.reshape(quant.grid_shape)
        rows = [sum(quant.grid_map.index(int(v)) << bits * i for i, v in enumerate(row)) for row in grid]
        lines.append(f"\n/// Rows of {quant.grid_shape[1]} elements of {bits} bits.\n#[rustfmt::skip]\n")
        lines.append(f"pub(super) static {name}: [u16; {len(rows)}] = [\n")
        for i in range(0, len(rows), 16):
            lines.append("    " + " ".join(f"{row:#06x}," for row in rows[i : i + 16]) + "\n")
        lines.append("];\n")
    (HERE / "../../src/quant/grids.rs").write_text("".join(lines))


GRIDS = """//! The grids of the formats IQ1 to IQ3: `tests/data/make.py` writes this file.

use super::Levels;

/// Magnitudes of IQ2, then their negatives.
pub(crate) const IQ2_LEVELS: Levels = &[8, 25, 43, -8, -25, -43];
/// Magnitudes of IQ3_XXS, then their negatives.
pub(crate) const IQ3_XXS_LEVELS: Levels = &[4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62];
/// Magnitudes of IQ3_S, then their negatives.
pub(crate) const IQ3_S_LEVELS: Levels = &[1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15];
/// Eight times the values of IQ1, one less or more.
pub(crate) const IQ1_LEVELS: Levels = &[-9, -7, -1, 1, 7, 9];

/// Eight signs of which seven are stored: the last one makes the number of negative ones even.
#[inline]
pub(super) fn even_signs(seven: u8) -> u8 {
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// Elements `8 i ..` from a row of IQ2's grids; a set bit of `signs` makes its element negative.
#[inline]
pub(super) fn put_eight(codes: &mut [i8; 256], i: usize, row: u16, signs: u8) {
    for (j, code) in codes[8 * i..8 * i + 8].iter_mut().enumerate() {
        *code = IQ2_LEVELS[usize::from(row >> (2 * j) & 3) + 3 * usize::from(signs >> j & 1)];
    }
}

/// Elements `4 i ..` from a row of IQ3's grids of the magnitudes that `levels` begins with; a set bit of `signs`, of which four
/// count, makes its element negative.
#[inline]
pub(super) fn put_four(codes: &mut [i8; 256], i: usize, row: u16, levels: Levels, signs: u8) {
    for (j, code) in codes[4 * i..4 * i + 4].iter_mut().enumerate() {
        *code = levels[usize::from(row >> (3 * j) & 7) + 8 * usize::from(signs >> j & 1)];
    }
}

/// Elements `8 i ..` from a row of IQ1's grid: eight times a value, and one more or less.
#[inline]
pub(super) fn put_shifted(codes: &mut [i8; 256], i: usize, row: u16, less: bool) {
    for (j, code) in codes[8 * i..8 * i + 8].iter_mut().enumerate() {
        *code = 8 * ((row >> (2 * j) & 3) as i8 - 1) + if less { -1 } else { 1 };
    }
}
"""


def main():
    grids()
    rng = np.random.default_rng(1)
    for ty in [T.F32, T.F16, T.BF16, *HALFS]:
        raw = (blocks if ty in HALFS else floats)(ty, rng)
        with np.errstate(invalid="ignore", over="ignore"):
            values = gguf.quants.dequantize(raw, ty)
        (HERE / f"{ty.name.lower()}.bin").write_bytes(raw.tobytes() + values.astype("<f4").tobytes())
    rows = (f"{ty.value}\t{ty.name}\t{n}\t{size}\n" for ty, (n, size) in GGML_QUANT_SIZES.items())
    (HERE / "types.tsv").write_text("".join(rows))


main()
