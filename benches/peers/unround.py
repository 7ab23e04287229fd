"""Writes a Q4_1 model as F16 with uniform noise of one step of each block's scale added: as good a model as the one it was rounded
from would be with twice the rounding error, but of values that lie on no grid, as a trained model's do.

usage: unround.py SEED MODEL-q4_1.gguf OUT-f16.gguf          (needs the package gguf)

Quantising a file that was made from 4-bit codes measures how well its grid is met, and not how well weights are kept.
"""

import sys

import gguf
import numpy as np


def main():
    seed, source, to = sys.argv[1:]
    noise = np.random.default_rng(int(seed))
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(to, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = 1 if field.name == "general.file_type" else field.contents()
        array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(field.name, value, field.types[0], field.types[-1] if array else None)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1:
            blocks = tensor.data.reshape(-1, 20)
            scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
            values = values.reshape(-1, 32) + (noise.random((len(blocks), 32), dtype=np.float32) - 0.5) * scale
        shape = [int(n) for n in reversed(tensor.shape)]
        writer.add_tensor(tensor.name, values.reshape(shape).astype(np.float16 if len(shape) > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
