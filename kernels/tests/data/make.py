#!/usr/bin/env python3
"""Regenerates the golden data of the stored formats: pip install gguf==0.19.0 numpy; python make.py

Per format one file: raw blocks, then their dequantised values (f32, little-endian) as computed by the `gguf` package.
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


def main():
    rng = np.random.default_rng(1)
    for ty in [T.F32, T.F16, T.BF16, *HALFS]:
        raw = (blocks if ty in HALFS else floats)(ty, rng)
        with np.errstate(invalid="ignore", over="ignore"):
            values = gguf.quants.dequantize(raw, ty)
        (HERE / f"{ty.name.lower()}.bin").write_bytes(raw.tobytes() + values.astype("<f4").tobytes())
    rows = (f"{ty.value}\t{ty.name}\t{n}\t{size}\n" for ty, (n, size) in GGML_QUANT_SIZES.items())
    (HERE / "types.tsv").write_text("".join(rows))


main()
