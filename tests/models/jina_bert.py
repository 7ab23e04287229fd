"""Jina's BERT (jina-embeddings-v2, arXiv 2310.19923) in torch. transformers has none, the models' own code is on the hub beside them. `states`
asks llama.cpp, which make_toys.py holds it against.

Tensors have the names that they have on the hub; `code` has what jina-embeddings-v2-base-code has beside the others.
"""

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


@strict
class JinaBertConfig(PreTrainedConfig):
    model_type = "bert"
    vocab_size: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int = 0
    max_position_embeddings: int = 0
    pad_token_id: int | None = None
    layer_norm_eps: float = 0.0
    code: bool = False


def named(**modules):
    out = nn.Module()
    for name, module in modules.items():
        setattr(out, name, module)
    return out


def slope(head, heads):
    n = 2 ** (heads.bit_length() - 1)
    return 2.0 ** (-8 * (head + 1) / n if head < n else -4 * (2 * (head - n) + 1) / n)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.code, self.inner = c.num_attention_heads, c.code, c.intermediate_size
        dim, norm = c.hidden_size, lambda: nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        norms = dict(layer_norm_q=norm(), layer_norm_k=norm()) if c.code else {}
        attend = named(query=nn.Linear(dim, dim), key=nn.Linear(dim, dim), value=nn.Linear(dim, dim), **norms)
        output = named(dense=nn.Linear(dim, dim), LayerNorm=norm())
        self.attention = named(output=output)
        self.attention.add_module("self", attend)
        up, down = nn.Linear(dim, 2 * self.inner, bias=False), nn.Linear(self.inner, dim)
        if c.code:
            self.mlp = named(up_gated_layer=up, down_layer=down)
            self.layer_norm_1, self.layer_norm_2 = norm(), norm()
        else:
            self.mlp = named(gated_layers=up, wo=down, layernorm=norm())

    def forward(self, x):
        attend, output, n = getattr(self.attention, "self"), self.attention.output, x.shape[0]
        q, k, v = attend.query(x), attend.key(x), attend.value(x)
        if self.code:
            q, k = attend.layer_norm_q(q), attend.layer_norm_k(k)
        q, k, v = (t.view(n, self.heads, -1).transpose(0, 1) for t in (q, k, v))
        at = torch.arange(n)
        slopes = torch.tensor([slope(h, self.heads) for h in range(self.heads)], dtype=torch.float64).to(x.dtype)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 - slopes[:, None, None] * (at - at[:, None]).abs()
        a = (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, -1)
        y = output.LayerNorm(output.dense(a) + x)
        if self.code:
            y = self.layer_norm_1(y + x)
        up = (self.mlp.up_gated_layer if self.code else self.mlp.gated_layers)(y)
        hidden = nn.functional.gelu(up[:, : self.inner]) * up[:, self.inner :]
        if self.code:
            return self.layer_norm_2(self.mlp.down_layer(hidden) + y)
        return self.mlp.layernorm(self.mlp.wo(hidden) + y)


class JinaBertModel(PreTrainedModel):
    config_class = JinaBertConfig
    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, c):
        super().__init__(c)
        dim = c.hidden_size
        self.embeddings = named(word_embeddings=nn.Embedding(c.vocab_size, dim),
                                token_type_embeddings=nn.Embedding(2, dim),
                                LayerNorm=nn.LayerNorm(dim, c.layer_norm_eps))  # fmt: skip
        self.encoder = named(layer=nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers)))
        self.post_init()

    def forward(self, ids):
        e = self.embeddings
        x = e.LayerNorm(e.word_embeddings(ids[0]) + e.token_type_embeddings.weight[0])
        for layer in self.encoder.layer:
            x = layer(x)
        return (x[None],)


def states(path, ids, dim):
    """The hidden states that llama.cpp gives for the model file at `path`."""
    import llama_cpp as c

    c.llama_backend_init()
    options = c.llama_model_default_params()
    options.n_gpu_layers = 0
    model = c.llama_model_load_from_file(str(path).encode(), options)
    options = c.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 64
    options.embeddings, options.pooling_type = True, c.LLAMA_POOLING_TYPE_NONE
    context = c.llama_init_from_model(model, options)
    batch = c.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    assert c.llama_encode(context, batch) == 0
    rows = [np.ctypeslib.as_array(c.llama_get_embeddings_ith(context, i), (dim,)).copy() for i in range(len(ids))]
    c.llama_free(context)
    c.llama_model_free(model)
    return np.stack(rows)
