#!/usr/bin/env python3
"""Makes tests/models/toys/*.json: tiny models of each architecture, with the logits, or of models that embed the hidden states, that
transformers gives in float32.

    make_toys.py CONVERTER [NAME...]

CONVERTER is the folder of llama.cpp with convert_hf_to_gguf.py, as it lies in the source package of llama-cpp-python
(vendor/llama.cpp). Needs torch, transformers and safetensors, accelerate for the toy in MXFP4, and llama-cpp-python for Jina's BERT, which
transformers does not have: its hidden states are those of jina_bert.py, which have to be near llama.cpp's.

No weights are stored: element i of a tensor is a hash of the tensor's name in the GGUF file and i, see `weights`, and
tests/parity.rs computes the same. To give transformers the same model, the converter is run on a model whose elements
are numbered, and on one of zeros: the difference says which element of which of transformers' tensors each element of
the file is, whatever the converter permutes, joins or splits, and the file of zeros holds what it adds (Gemma's 1). The same numbers say what is where in the safetensors that transformers
saves.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import transformers

import jina_bert
from families import EMBEDDERS, FAMILIES, HUB, IDS, KEYS, MORE, MXFP4, RENAMED, VOCAB
from origins import origins

OUT = Path(__file__).parent / "toys"


def hash32(x):
    """The finaliser of MurmurHash3 over uint32."""
    x = x.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def fnv(data):
    """FNV-1a."""
    out = 2166136261
    for byte in data:
        out = (out ^ byte) * 16777619 & 0xFFFFFFFF
    return out


def bits12(name, shape):
    """Twelve bits for each element of tensor `name`."""
    with np.errstate(over="ignore"):
        index = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(0x9E3779B9)
        return hash32(index + np.uint32(fnv(name.encode()))) >> np.uint32(20)


def mxfp4(name, shape):
    """Codes of the elements of tensor `name` in MXFP4, and exponents of their blocks of 32, each as uint8."""
    bits = bits12(name, shape).reshape(shape)
    exponents = 127 - (int(shape[-1]).bit_length() - 1) // 2 - (bits[..., ::32] & 3)
    return (bits >> 8).astype(np.uint8), exponents.astype(np.uint8)


def mxfp4_values(name, shape):
    """The elements of such a tensor."""
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
    codes, exponents = mxfp4(name, shape)
    return np.concatenate([levels, -levels])[codes] * np.exp2(exponents.astype(np.float32) - 127).repeat(32, -1)


def blocks(hows, shapes):
    """The tensors that a checkpoint has for experts in MXFP4, from what the unquantised ones are made of."""
    out = {}
    for name, (source, how, *other) in hows.items():
        if "transposed" not in how:
            continue
        parts = [mxfp4(part, shapes[part]) for part in [source, *other]]
        # Rows of gate and up take turns.
        codes, exponents = (np.stack(some, 2).reshape(some[0].shape[0], -1, some[0].shape[2]) for some in zip(*parts))
        packed = codes[..., ::2] | codes[..., 1::2] << 4
        out[name] = {"_blocks": packed.reshape(*exponents.shape, 16), "_scales": exponents}
    return out


def weights(name, shape):
    """The elements of tensor `name` of the file, `shape` outermost first: exact in float32.

    Multiples of 2^-11 of a power of two; matrices make outputs of about the size of their inputs, norms lie around 1.
    """
    unit = bits12(name, shape).astype(np.float32) / np.float32(2048) - np.float32(1)
    if name.endswith("ssm_a"):  # rates of decay, which are negative
        return unit / 2 - 1
    if len(shape) == 1 or name.endswith("_norm.weight"):
        return unit.reshape(shape) / 2 + (1 if name.endswith(".weight") else 0)
    embedding = name.startswith(("token_embd", "position_embd"))
    scale = 1.0 if embedding else 2.0 ** (1 - (int(shape[-1]).bit_length() - 1) // 2)
    return (unit * np.float32(scale)).reshape(shape)


def hyperclovax(llama):
    """A converter of a class that llama.cpp has none for, on its converter of Llama."""

    class HyperCLOVAX(llama):
        model_arch, undo_permute = llama.model_arch, False
        norms = dict(input_layernorm="attn_norm", post_norm1="post_attention_norm", post_attention_layernorm="ffn_norm",
                     post_norm2="post_ffw_norm")  # fmt: skip

        def set_gguf_parameters(self):
            super().set_gguf_parameters()
            out, config = self.gguf_writer, self.hparams
            out.add_attention_scale(config["attention_multiplier"])
            out.add_embedding_scale(config["embedding_multiplier"])
            out.add_residual_scale(config["residual_multiplier"])
            out.add_logit_scale(config["logits_scaling"])
            out.add_bool(f"{out.arch}.use_post_norm", config["use_post_norm"])

        def modify_tensors(self, data, name, bid):
            norm = self.norms.get(name.split(".")[-2])
            return [(f"blk.{bid}.{norm}.weight", data)] if norm else super().modify_tensors(data, name, bid)

    return HyperCLOVAX


OWN = {"HyperCLOVAXForCausalLM": hyperclovax}


def converted(converter, folder, name):
    """The file that the converter makes of a folder."""
    sys.path[:0] = [str(converter), str(converter / "gguf-py")]
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    kind = get_model_architecture(ModelBase.load_hparams(folder, False), ModelType.TEXT)
    cls = get_model_class("LlamaForCausalLM" if kind in OWN else kind)
    cls = OWN[kind](cls) if kind in OWN else cls
    cls.set_vocab = lambda self: None  # toys have no tokenizer
    if hasattr(cls, "undo_permute") and kind not in OWN:  # the class is that of other toys, too
        cls.undo_permute = RENAMED.get(name, ("", "llama"))[1] == "llama"
    if name == "stablelm-norms":  # it returns the norms of heads where it has to yield them

        def modify(self, *tensor, own=cls.modify_tensors):
            last = yield from own(self, *tensor)
            yield from last or []

        cls.modify_tensors = modify
    cls.no_mtp = True  # transformers leaves out the layers that guess further tokens
    out = folder / "toy.gguf"
    converting = cls(folder, gguf.LlamaFileType.ALL_F32, out, eager=True)
    converting.hparams |= HUB.get(name, {})
    # Rates of decay are stored as logarithms; their numbers are to come through.
    exp, torch.exp = torch.exp, torch.neg
    converting.write()
    torch.exp = exp
    return gguf.GGUFReader(out)


def convert(converter, model, name):
    """Metadata and tensors of the file that the converter makes of `model`."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder)
        # Gemma's converter counts the tokens in it.
        vocabulary = {"model": {"type": "WordPiece", "vocab": {str(i): i for i in range(VOCAB)}}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
        if name in EMBEDDERS or "architectures" in HUB.get(name, {}):
            config = json.loads((folder / "config.json").read_text()) | HUB.get(name, {})
            (folder / "config.json").write_text(json.dumps(config))
        if name in EMBEDDERS:
            (folder / "modules.json").write_text(json.dumps([{"type": "Pooling", "path": "1_Pooling"}]))
            (folder / "1_Pooling").mkdir()
            pooling = {f"pooling_mode_{EMBEDDERS[name]}": True}
            (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        reader = converted(converter, folder, name)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        if name in RENAMED or name.startswith("hyperclovax"):
            arch = RENAMED[name][1] if name in RENAMED else "hyperclovax"
            metadata = {key.replace("llama.", f"{arch}."): value for key, value in metadata.items()}
            metadata["general.architecture"] = arch
        return metadata, {t.name: np.array(t.data, dtype=np.float64) for t in reader.tensors}


def saved(model):
    """The configuration and the tensors that transformers saves of `model`."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safetensors.safe_open(Path(folder) / "model.safetensors", "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return json.loads((Path(folder) / "config.json").read_text()), tensors


def renamed(name, config, tensors):
    """The same model as its own class has it, its configuration as before transformers 5."""
    cls, _, settings, words = RENAMED[name]
    config = {settings.get(key, key): value for key, value in config.items()}
    ropes = config.pop("rope_parameters")
    config |= dict(architectures=[cls], model_type=name, rope_theta=ropes.pop("rope_theta"), rope_scaling=ropes)
    out = {}
    for tensor, values in tensors.items():
        for old, new in words.items():
            tensor = tensor.replace(old, new)
        out[tensor] = values
    return config, out


def parameters(model):
    """Those and the one kind of buffer that is trained, in the order of their names."""
    buffers = [(n, b) for n, b in model.named_buffers() if n.endswith(("e_score_correction_bias", "expert_bias"))]
    return [p for _, p in sorted([*model.named_parameters(), *buffers], key=lambda item: item[0])]


def fill(model, values):
    """Gives the parameters consecutive `values`."""
    at = 0
    with torch.no_grad():
        for p in parameters(model):
            p.copy_(torch.tensor(values[at : at + p.numel()].astype(np.float32)).reshape(p.shape))
            at += p.numel()


def reopened(converter, model, packed, config):
    """What transformers makes of the checkpoint of `model` with these tensors in MXFP4, and checksums of what the converter does."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder)
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        for name, parts in packed.items():
            del tensors[name]
            tensors |= {name + end: torch.tensor(part) for end, part in parts.items()}
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config))
        again = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                            experts_implementation="eager").eval()  # fmt: skip
        tensors = converted(converter, folder, MXFP4).tensors
        sums = {t.name: fnv(t.data.tobytes()) for t in tensors if t.name.endswith("_exps.weight")}
    for (name, a), (other, b) in zip(sorted(model.named_parameters()), sorted(again.named_parameters()), strict=True):
        assert name == other and torch.equal(a, b), name
    return again, sums


def make(converter, name, kind, config):
    library = jina_bert if kind == "JinaBert" else transformers
    config_class = getattr(library, kind + ("TextConfig" if kind in ("Gemma3", "Qwen3_5", "Qwen3_5Moe") else "Config"))
    embeds = name in EMBEDDERS
    heads = [kind + end for end in (["Model"] if embeds else ["ForCausalLM", "LMHeadModel"])]
    model_class = next(getattr(library, h) for h in heads if hasattr(library, h))
    # BERT's pooler is for its training.
    without = dict(add_pooling_layer=False) if name in ("bert", "roberta", "xlm-roberta", "nomic-bert", "jina-bert-v3") else {}
    config = config_class(**config, attn_implementation="eager", experts_implementation="eager")
    model = model_class(config, **without).eval().to(torch.float32)
    count = sum(p.numel() for p in parameters(model))
    assert count < 1 << 24, "numbers beyond float32's integers"
    fill(model, np.zeros(count))
    metadata, zeros = convert(converter, model, name)
    fill(model, np.arange(1, count + 1))
    _, places = convert(converter, model, name)
    hub_config, numbered = saved(model)
    if name in RENAMED:
        hub_config, numbered = renamed(name, hub_config, numbered)

    flat = np.full(count, np.nan)
    tensors, fixed, filled = {}, {}, {}
    for tensor, where in places.items():
        where = (where - zeros[tensor]).round().astype(np.int64)
        tensors[tensor] = list(where.shape)
        if not where.any():  # computed by the converter from the configuration
            fixed[tensor] = [float(v) for v in zeros[tensor].flatten()]
            continue
        assert where.min() > 0, tensor
        filled[tensor] = where
        values = mxfp4_values if name == MXFP4 and tensor.endswith("_exps.weight") else weights
        values = values(tensor, where.shape).astype(np.float64) - zeros[tensor]
        flat[where.flatten() - 1] = (np.log(-values) if tensor.endswith("ssm_a") else values).flatten()
    if kind.endswith("Roberta"):  # the positions before the first
        assert np.isnan(flat).sum() == 2 * config.hidden_size
        flat = np.nan_to_num(flat)
    assert not np.isnan(flat).any(), f"{np.isnan(flat).sum()} weights of {name} are not in the file"
    fill(model, flat)
    compute = lambda: model(torch.tensor([IDS]), **({} if embeds else dict(use_cache=False)))[0][0].numpy()
    hows = origins(numbered, filled, zeros)
    sums = {}
    hub_config |= MORE.get(name, {})
    hub_config.pop("code", None)  # jina_bert.py's own
    if name == MXFP4:
        packed = blocks(hows, tensors)
        model, sums = reopened(converter, model, packed, hub_config)
        sums |= {k + end: fnv(v.tobytes()) for k, both in packed.items() for end, v in both.items()}
    with torch.no_grad():
        logits = compute()
        model.double()
        exact = compute()
    error = ((logits - exact) ** 2).sum() / (exact**2).sum()
    if library is jina_bert:
        check(metadata, tensors, exact, name)
    arch = metadata["general.architecture"]
    keys = {k: v for k, v in metadata.items() if k.startswith(arch + ".") or k == "general.architecture"}
    keys |= KEYS.get(name, {})
    toy = {
        "model": f"{model_class.__name__}, {library.__name__} {getattr(library, '__version__', '')}".strip(),
        "metadata": keys,
        "tensors": tensors,
        "fixed": fixed,
        "config": hub_config,
        "safetensors": hows,
        "tokens": IDS,
        **({"mxfp4": sums} if sums else {}),
        "hidden" if embeds else "logits": ["".join(f"{int(b):08x}" for b in row.astype(np.float32).view(np.uint32)) for row in logits],
    }
    lines = ",\n".join(f" {json.dumps(k)}: " + (dump(v) if isinstance(v, (dict, list)) else json.dumps(v))
                       for k, v in toy.items())  # fmt: skip
    (OUT / f"{name}.json").write_text("{\n" + lines + "\n}\n")
    top = np.sort(exact, axis=1)
    print(f"{name}: {arch}, {count} weights, outputs rms {np.sqrt((exact**2).mean()):.2f}, "
          f"smallest lead {np.min(top[:, -1] - top[:, -2]):.4f}, float32 off by {error:.1e}")  # fmt: skip


def check(metadata, tensors, exact, name):
    """Asks llama.cpp for the hidden states, too. Its GELU is the approximation by tanh, from a table of halves."""
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        path, arch = Path(folder) / "toy.gguf", metadata["general.architecture"]
        writer = gguf.GGUFWriter(path, arch)
        for key, value in metadata.items():
            if key.startswith(f"{arch}.") and key != f"{arch}.vocab_size":
                add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
                add[type(value)](key, value)
        writer.add_vocab_size(VOCAB)
        writer.add_tokenizer_model("none")
        writer.add_token_type_count(2)
        for tensor, shape in tensors.items():
            writer.add_tensor(tensor, weights(tensor, shape).astype(np.float32).reshape(shape))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        got = jina_bert.states(path, IDS, exact.shape[1])
    error = ((got - exact) ** 2).sum() / (exact**2).sum()
    print(f"{name}: llama.cpp's hidden states differ by {error:.1e}")
    assert error < 1e-5, name


def dump(value):
    """One line per entry, so that changes can be read."""
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n }"
    if value and isinstance(value[0], str):
        return "[\n" + ",\n".join(f"  {json.dumps(v)}" for v in value) + "\n ]"
    return json.dumps(value)


def main():
    converter, *names = sys.argv[1:] or sys.exit(__doc__)
    OUT.mkdir(exist_ok=True)
    for name, (kind, config) in FAMILIES.items():
        if not names or name in names:
            make(Path(converter), name, kind, config)


if __name__ == "__main__":
    main()
