#!/usr/bin/env python3
"""Prints what the `gguf` package reads from a model: every key, value and tensor, long ones as length and hash.

Regenerates the golden files here: pip install gguf==0.19.0 numpy; python describe.py MODEL.gguf > NAME.tsv
"""
import hashlib
import struct
import sys

from gguf import GGUFReader, GGUFValueType as V

NAMES = {V.UINT8: "u8", V.INT8: "i8", V.UINT16: "u16", V.INT16: "i16", V.UINT32: "u32", V.INT32: "i32",
         V.UINT64: "u64", V.INT64: "i64", V.FLOAT32: "f32", V.FLOAT64: "f64", V.BOOL: "bool", V.STRING: "string",
         V.ARRAY: "array"}


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def scalar(ty, part):
    if ty == V.STRING:
        return bytes(part).decode()
    value = part.tolist()[0]
    if ty == V.FLOAT32:
        return struct.pack(">f", value).hex()
    return str(value).lower() if ty == V.BOOL else str(value)


reader = GGUFReader(sys.argv[1])
for name, field in reader.fields.items():
    if name.startswith("GGUF."):
        continue
    ty = field.types[0]
    if ty == V.ARRAY:
        inner = field.types[1]
        texts = [scalar(inner, field.parts[i]) for i in field.data]
        shown = f"{len(texts)} {NAMES[inner]} {digest(chr(10).join(texts).encode())}"
    else:
        shown = scalar(ty, field.parts[field.data[0]])
        if ty == V.STRING:
            shown = f"{len(shown.encode())} {digest(shown.encode())}"
    print(name, NAMES[ty], shown, sep="\t")
for t in reader.tensors:
    raw = t.data.tobytes()
    print(t.name, t.tensor_type.name, [int(n) for n in t.shape], len(raw), digest(raw[:64] + raw[-64:]), sep="\t")
