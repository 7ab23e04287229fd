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

OUT = Path(__file__).parent / "toys"
VOCAB, TOKENS = 48, 40
# Longer than the windows; 40 positions are two blocks of the cache.
IDS = [(i * i * 7 + i * 3 + 5) % VOCAB for i in range(TOKENS)]
# An epsilon that is felt: with 1e-5 a forgotten one would pass.
EPS = 0.0625

LLAMA = dict(
    vocab_size=VOCAB, hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=EPS, tie_word_embeddings=False,
    bos_token_id=0, eos_token_id=1, pad_token_id=2,
)  # fmt: skip


def rope(theta=10000.0, **scaling):
    return {"rope_parameters": {"rope_theta": theta, "rope_type": "default", **scaling}}


LLAMA3 = rope(5000.0, rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)  # fmt: skip


def longrope(original):
    factors = dict(short_factor=[1 + i / 8 for i in range(9)], long_factor=[2.0 + i / 2 for i in range(9)])
    return dict(original_max_position_embeddings=original, partial_rotary_factor=0.75) | rope(
        500.0, rope_type="longrope", original_max_position_embeddings=original, partial_rotary_factor=0.75, **factors)


WINDOW = dict(sliding_window=12)
ENCODER = dict(
    vocab_size=VOCAB, hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=64, pad_token_id=2,
)  # fmt: skip
LFM2 = {k: v for k, v in LLAMA.items() if k not in ("rms_norm_eps", "tie_word_embeddings")} | dict(norm_eps=EPS)
DELTA = LLAMA | dict(
    num_hidden_layers=4, layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    head_dim=32, linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=16, linear_value_head_dim=24,
    linear_conv_kernel_dim=4,
) | rope(500.0, partial_rotary_factor=0.25, mrope_section=[2, 1, 1])  # fmt: skip
DELTA_EXPERTS = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=64, shared_expert_intermediate_size=128)
CLOVA = LLAMA | dict(embedding_multiplier=6.0, residual_multiplier=0.25, attention_multiplier=0.125, logits_scaling=0.375)
LAYER = {k: v for k, v in LLAMA.items() if k != "rms_norm_eps"} | dict(layer_norm_eps=EPS)
# What GPT-NeoX and Falcon do not have.
HEADS = {k: v for k, v in LAYER.items() if k != "num_key_value_heads"}
FALCON = {k: v for k, v in HEADS.items() if k not in ("intermediate_size", "layer_norm_eps")} | dict(
    layer_norm_epsilon=EPS, bias=False, alibi=False, tie_word_embeddings=True)  # fmt: skip

GPT_OSS = LLAMA | WINDOW | dict(
    num_hidden_layers=4, head_dim=32, num_local_experts=4, num_experts_per_tok=2, intermediate_size=64,
    attention_bias=True, layer_types=["sliding_attention", "full_attention"] * 2,
) | rope(500.0, rope_type="yarn", factor=8.0, beta_fast=8.0, beta_slow=1.0, truncate=False,
         original_max_position_embeddings=32)  # fmt: skip
# The toy whose experts are in MXFP4 in the checkpoint, and what its configuration says of it.
MXFP4 = "gpt-oss-mxfp4"
MXFP4_CONFIG = dict(quant_method="mxfp4", modules_to_not_convert=[
    "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"])  # fmt: skip

# What configurations on the hub have and transformers no longer writes, and keys of the file that the converter forgets.
HUB = {
    "cohere2": dict(rotary_pct=1.0),
    "gptneox": dict(rotary_pct=0.25),
    "gptneox-serial": dict(rotary_pct=0.5),
    "gpt2": dict(n_ctx=64),
    "deepseek2-sigmoid": dict(scoring_func="sigmoid"),
    "deepseek2-sigmoid-groups": dict(scoring_func="sigmoid"),
    "modern-bert": dict(global_attn_every_n_layers=3),
    "modern-bert-biases": dict(global_attn_every_n_layers=2),
    "jina-bert-v3": dict(architectures=["XLMRobertaModel"], lora_adaptations=["retrieval.query"], lora_alpha=1),
    "mpt": dict(architectures=["MPTForCausalLM"]),
    "mpt-hub": dict(architectures=["MPTForCausalLM"]),
    "nomic-bert": dict(n_positions=8192, max_trained_positions=2048, activation_function="swiglu", causal=False,
                       qkv_proj_bias=False, mlp_fc1_bias=False, mlp_fc2_bias=False, prenorm=False,
                       rotary_emb_fraction=1.0, rotary_emb_interleaved=False, rotary_emb_scale_base=None,
                       rotary_emb_base=500.0),
}
# What configurations on the hub have beside what transformers saves.
DEEPSEEK = dict(moe_layer_freq=1, ep_size=1, aux_loss_alpha=0.001, seq_aux=True)
V3 = DEEPSEEK | dict(scoring_func="sigmoid", topk_method="noaux_tc")
JINA_V2 = dict(position_embedding_type="alibi", feed_forward_type="geglu", hidden_act="gelu", emb_pooler="mean",
               type_vocab_size=2, attn_implementation="torch")  # fmt: skip
MORE = {
    "cohere2": dict(layer_switch=4, order_of_interleaved_layers="local_attn_first", position_embedding_type="rope_gptj",
                    rotary_pct=1.0, use_embedding_sharing=True, use_gated_activation=True, use_parallel_block=True,
                    use_parallel_embedding=True),
    "bloom": dict(attention_softmax_in_fp32=True, bias_dropout_fusion=True, masked_softmax_fusion=True, n_inner=None,
                  offset_alibi=100, seq_length=96, skip_bias_add=True, skip_bias_add_qkv=False),
    "gpt2": dict(n_ctx=64, task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}}),
    "mpt-hub": dict(
        architectures=["MPTForCausalLM"], init_config={"name": "kaiming_normal_"}, tokenizer_name="gpt2", verbose=0,
        attn_config=dict(alibi=True, alibi_bias_max=8, attn_impl="torch", attn_pdrop=0, attn_type="multihead_attention",
                         attn_uses_sequence_id=False, clip_qkv=None, prefix_lm=False, qk_ln=False, softmax_scale=None)),
    "gpt-oss": dict(experts_per_token=2, initial_context_length=32),
    MXFP4: dict(experts_per_token=2, initial_context_length=32, quantization_config=MXFP4_CONFIG),
    # What other code's configurations have.
    "exaone-moe-hub": dict(architectures=["ExaoneMoEForCausalLM"], first_last_k_dense_replace=2, scoring_func="sigmoid",
                           topk_method="noaux_tc", is_moe_layer=[False, False, True, True]),
    "hyperclovax-plain": dict(attention_multiplier=None, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, end_token_id=1),
    "modern-bert-biases": dict(architectures=["ModernBertForMaskedLM"], global_attn_every_n_layers=2,
                               position_embedding_type="absolute", layer_norm_eps=1e-5),
    "jina-bert-v2": dict(architectures=["JinaBertForMaskedLM"], **JINA_V2),
    "jina-bert-v2-code": JINA_V2,
    "deepseek2": DEEPSEEK | dict(scoring_func="softmax"),
    "deepseek2-sigmoid": V3,
    "deepseek2-sigmoid-groups": V3,
}
KEYS = {
    "mistral": {"llama.attention.sliding_window": 12},
    "starcoder2": {"starcoder2.attention.sliding_window": 12},
    "mpt": {"mpt.attention.layer_norm_epsilon": EPS},  # the converter writes 1e-5
    "mpt-hub": {"mpt.attention.layer_norm_epsilon": EPS},
    "olmoe": {"olmoe.attention.layer_norm_rms_epsilon": EPS},  # the converter writes 1e-5
    "lfm2moe": {"lfm2moe.expert_weights_scale": 1.5},
    # It is half as wide, and 1, in the configuration that transformers saves.
    "gemma-embedding": {"gemma-embedding.attention.sliding_window": 12},
}
# Models that are Llama's in other words, which transformers does not have: the class, the file format's name, and what settings and
# tensors are called.
RENAMED = {
    "exaone": (
        "ExaoneForCausalLM", "exaone",
        dict(num_hidden_layers="num_layers", hidden_act="activation_function", rms_norm_eps="layer_norm_epsilon"),
        {"model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "model.layers.": "transformer.h.",
         "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2", "self_attn.": "attn.attention.",
         "o_proj": "out_proj", "gate_proj": "c_fc_0", "up_proj": "c_fc_1", "down_proj": "c_proj"},
    ),
    "kormo": (
        "KORMoForCausalLM", "qwen2", {},
        {"input_layernorm": "pre_attention_layernorm", "post_attention_layernorm": "pre_mlp_layernorm"},
    ),
    "iquestcoder": ("IQuestCoderForCausalLM", "llama", {}, {}),
}  # fmt: skip
# Models that embed, and how sentence-transformers pools their hidden states.
EMBEDDERS = {
    "bert": "mean_tokens", "roberta": "mean_tokens", "xlm-roberta": "cls_token", "nomic-bert": "mean_tokens",
    "jina-bert-v2": "mean_tokens", "jina-bert-v2-code": "mean_tokens", "jina-bert-v3": "mean_tokens",
    "modern-bert": "cls_token", "modern-bert-biases": "mean_tokens", "gemma-embedding": "mean_tokens", "qwen3-embedding": "lasttoken",
}  # fmt: skip

# Name: transformers' class, and its configuration.
FAMILIES = {
    "llama": ("Llama", LLAMA | dict(head_dim=32) | LLAMA3),
    "llama-biases": ("Llama", LLAMA | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True) | rope()),
    "mistral": ("Mistral", LLAMA | WINDOW | dict(head_dim=40) | rope(500.0)),
    "smollm3": ("SmolLM3", LLAMA | dict(num_hidden_layers=5, no_rope_layer_interval=4) | rope(500.0)),
    "qwen2": ("Qwen2", LLAMA | dict(tie_word_embeddings=True) | rope(500.0)),
    "qwen3": ("Qwen3", LLAMA | dict(head_dim=32) | rope(500.0)),
    "gemma": ("Gemma", LLAMA | dict(head_dim=32, num_key_value_heads=1, hidden_activation="gelu_pytorch_tanh",
                                tie_word_embeddings=True) | rope()),
    "gemma2": (
        "Gemma2",
        LLAMA | WINDOW | dict(head_dim=32, num_hidden_layers=4, query_pre_attn_scalar=32, tie_word_embeddings=True,
                              attn_logit_softcapping=2.0, final_logit_softcapping=3.0) | rope(),
    ),
    "gemma3": (
        "Gemma3",
        LLAMA | WINDOW | dict(head_dim=32, num_hidden_layers=7, query_pre_attn_scalar=32, tie_word_embeddings=True,
                              rope_parameters={
                                  "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                  "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}),
    ),
    "phi3": ("Phi3", LLAMA | WINDOW | rope(500.0)),
    # Forty tokens are a short context for the first, a long one for the second.
    "phi3-short": ("Phi3", LLAMA | longrope(64)),
    "phi3-long": ("Phi3", LLAMA | longrope(32)),
    "granite": (
        "Granite",
        LLAMA | dict(embedding_multiplier=6.0, residual_multiplier=0.25, attention_multiplier=0.125,
                     logits_scaling=8.0) | rope(500.0),
    ),
    "hyperclovax": ("HyperCLOVAX", CLOVA | dict(head_dim=32) | rope(500.0)),
    "hyperclovax-plain": (
        "HyperCLOVAX",
        CLOVA | dict(use_post_norm=False, attention_multiplier=None, attention_bias=True, mlp_bias=True) | rope(500.0),
    ),
    "olmo2": ("Olmo2", LLAMA | rope(500.0)),
    "exaone": ("Llama", LLAMA | LLAMA3),
    "kormo": ("Llama", LLAMA | dict(head_dim=32) | rope(500.0)),
    "iquestcoder": ("Llama", LLAMA | rope(500.0)),
    "olmo3": (
        "Olmo3",
        LLAMA | WINDOW | dict(num_hidden_layers=5) | rope(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=32, attention_factor=None),
    ),
    "exaone4": ("Exaone4", LLAMA | WINDOW | dict(num_hidden_layers=8, sliding_window_pattern=4, head_dim=24) | LLAMA3),
    "exaone4-global": (
        "Exaone4",
        LLAMA | dict(sliding_window=None, layer_types=["full_attention"] * 3, head_dim=24, tie_word_embeddings=True)
        | LLAMA3,
    ),
    "exaone-moe": (
        "ExaoneMoe",
        LLAMA | WINDOW | dict(num_hidden_layers=5, sliding_window_pattern=4, head_dim=24, num_experts=8, num_experts_per_tok=3,
                              num_shared_experts=1, moe_intermediate_size=64, first_k_dense_replace=1,
                              routed_scaling_factor=1.5, norm_topk_prob=True, n_group=1, topk_group=1) | rope(500.0),
    ),
    "exaone-moe-hub": (
        "ExaoneMoe",
        LLAMA | WINDOW | dict(num_hidden_layers=4, sliding_window_pattern=2, head_dim=32, num_experts=4, num_experts_per_tok=2,
                              num_shared_experts=2, moe_intermediate_size=64, first_k_dense_replace=2,
                              routed_scaling_factor=2.5, norm_topk_prob=True, n_group=1, topk_group=1) | rope(500.0),
    ),
    "cohere": (
        "Cohere",
        LAYER | dict(logit_scale=0.25, use_qk_norm=False, tie_word_embeddings=True) | rope(500.0),
    ),
    "cohere-norms": (
        "Cohere",
        LAYER | dict(logit_scale=0.25, use_qk_norm=True, tie_word_embeddings=True) | rope(500.0),
    ),
    "cohere2": (
        "Cohere2",
        LAYER | WINDOW | dict(logit_scale=0.25, num_hidden_layers=5, sliding_window_pattern=4,
                              head_dim=24, tie_word_embeddings=True) | rope(500.0),
    ),
    "stablelm": (
        "StableLm",
        LAYER | dict(use_qkv_bias=True) | rope(partial_rotary_factor=0.25),
    ),
    "stablelm-parallel": (
        "StableLm",
        LAYER | dict(use_parallel_residual=True) | rope(partial_rotary_factor=0.5),
    ),
    "stablelm-norms": (
        "StableLm",
        LAYER | dict(use_parallel_residual=True, qk_layernorm=True) | rope(partial_rotary_factor=0.25),
    ),
    # Heads that are no power of two. Of MPT's largest bias transformers knows the usual one, 8, only.
    "bloom": (
        "Bloom",
        dict(vocab_size=VOCAB, hidden_size=96, n_layer=3, n_head=6, layer_norm_epsilon=EPS, bos_token_id=0,
             eos_token_id=1, tie_word_embeddings=True),
    ),
    "mpt": (
        "Mpt",
        dict(vocab_size=VOCAB, d_model=96, n_layers=3, n_heads=6, max_seq_len=64, layer_norm_epsilon=EPS,
             tie_word_embeddings=True),
    ),
    # As it is on the hub.
    "mpt-hub": (
        "Mpt",
        dict(vocab_size=VOCAB, d_model=96, n_layers=2, n_heads=4, max_seq_len=64, layer_norm_epsilon=EPS,
             tie_word_embeddings=True),
    ),
    "starcoder2": ("Starcoder2", LAYER | WINDOW | dict(norm_epsilon=EPS, use_bias=True) | rope(500.0)),
    "phi2": (
        "Phi",
        LAYER | dict(num_key_value_heads=4, intermediate_size=384) | rope(partial_rotary_factor=0.5),
    ),
    "gptneox": (
        "GPTNeoX",
        HEADS | rope(partial_rotary_factor=0.25),
    ),
    "gptneox-serial": (
        "GPTNeoX",
        HEADS | dict(use_parallel_residual=False) | rope(partial_rotary_factor=0.5),
    ),
    "falcon": (
        "Falcon",
        FALCON | dict(new_decoder_architecture=False, multi_query=True, parallel_attn=True, num_kv_heads=1) | rope(),
    ),
    "falcon-grouped": (
        "Falcon",
        FALCON | dict(new_decoder_architecture=True, num_kv_heads=2) | rope(),
    ),
    "gpt2": (
        "GPT2",
        dict(vocab_size=VOCAB, n_embd=96, n_layer=3, n_head=4, n_positions=64, n_inner=None,
             layer_norm_epsilon=EPS, bos_token_id=0, eos_token_id=1),
    ),
    "glm4": ("Glm4", LLAMA | dict(head_dim=24, attention_bias=True, partial_rotary_factor=0.5)
             | rope(500.0, partial_rotary_factor=0.5)),
    "mixtral": ("Mixtral", LLAMA | dict(num_local_experts=4, num_experts_per_tok=2) | rope(500.0)),
    "qwen3moe": (
        "Qwen3Moe",
        LLAMA | dict(head_dim=32, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=64,
                     norm_topk_prob=True) | rope(500.0),
    ),
    "qwen2moe": (
        "Qwen2Moe",
        LLAMA | dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=64,
                     shared_expert_intermediate_size=128, norm_topk_prob=False) | rope(500.0),
    ),
    "olmoe": ("Olmoe", LLAMA | dict(num_experts=4, num_experts_per_tok=2, intermediate_size=64,
                                    norm_topk_prob=False) | rope(500.0)),
    "glm4moe": (
        "Glm4Moe",
        LLAMA | dict(num_hidden_layers=4, head_dim=32, attention_bias=True, first_k_dense_replace=1,
                     n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3, moe_intermediate_size=64,
                     routed_scaling_factor=1.5, norm_topk_prob=True, n_group=1, topk_group=1, use_qk_norm=True,
                     partial_rotary_factor=0.5) | rope(500.0, partial_rotary_factor=0.5),
    ),
    "glm4moe-plain": (
        "Glm4Moe",
        LLAMA | dict(head_dim=32, attention_bias=True, first_k_dense_replace=2, n_routed_experts=4,
                     n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=64, routed_scaling_factor=1.0,
                     norm_topk_prob=True, n_group=1, topk_group=1, use_qk_norm=False,
                     partial_rotary_factor=0.5) | rope(500.0, partial_rotary_factor=0.5),
    ),
    "deepseek2": (
        "DeepseekV2",
        LLAMA | dict(num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16,
                     v_head_dim=32, head_dim=16, first_k_dense_replace=1, n_routed_experts=8, n_shared_experts=2,
                     num_experts_per_tok=3, moe_intermediate_size=64, routed_scaling_factor=1.0, norm_topk_prob=False,
                     topk_method="greedy", n_group=1, topk_group=1)
        | rope(500.0, rope_type="yarn", factor=8.0, beta_fast=8.0, beta_slow=1.0, mscale=0.707, mscale_all_dim=0.707,
               original_max_position_embeddings=32),
    ),
    "deepseek2-sigmoid": (
        "DeepseekV3",
        LLAMA | dict(num_key_value_heads=4, q_lora_rank=64, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16,
                     v_head_dim=64, head_dim=16, first_k_dense_replace=1, n_routed_experts=8, n_shared_experts=1,
                     num_experts_per_tok=3, moe_intermediate_size=64, routed_scaling_factor=2.5, norm_topk_prob=True,
                     n_group=1, topk_group=1, rope_interleave=True)
        | rope(500.0, rope_type="yarn", factor=8.0, beta_fast=8.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
               original_max_position_embeddings=32),
    ),
    "deepseek2-groups": (
        "DeepseekV2",
        LLAMA | dict(num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16,
                     v_head_dim=32, head_dim=16, first_k_dense_replace=1, n_routed_experts=12, n_shared_experts=1,
                     num_experts_per_tok=4, moe_intermediate_size=64, routed_scaling_factor=1.5, norm_topk_prob=False,
                     topk_method="group_limited_greedy", n_group=4, topk_group=2)
        | rope(500.0),
    ),
    "deepseek2-sigmoid-groups": (
        "DeepseekV3",
        LLAMA | dict(num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16,
                     v_head_dim=64, head_dim=16, first_k_dense_replace=1, n_routed_experts=12, n_shared_experts=1,
                     num_experts_per_tok=4, moe_intermediate_size=64, routed_scaling_factor=2.5, norm_topk_prob=True,
                     n_group=4, topk_group=2, rope_interleave=True)
        | rope(500.0),
    ),
    "gpt-oss": ("GptOss", GPT_OSS),
    MXFP4: ("GptOss", GPT_OSS),
    # More layers of either kind than one, and a kind after the other in both orders. The widths are computed: 2/3 of 232 times 1.5,
    # rounded up to a multiple of 64.
    "lfm2": (
        "Lfm2",
        LFM2 | dict(num_hidden_layers=5, full_attn_idxs=[1, 4], conv_L_cache=3, intermediate_size=232,
                    block_ffn_dim_multiplier=1.5, block_multiple_of=64) | rope(500.0),
    ),
    "lfm2-taps": (
        "Lfm2",
        LFM2 | dict(num_hidden_layers=4, layer_types=["full_attention", "conv", "full_attention", "conv"], conv_L_cache=5,
                    intermediate_size=160, block_auto_adjust_ff_dim=False, tie_word_embeddings=False)
        | rope(500.0),
    ),
    "lfm2moe": (
        "Lfm2Moe",
        LFM2 | dict(num_hidden_layers=4, layer_types=["conv", "full_attention", "conv", "full_attention"], conv_L_cache=3,
                    intermediate_size=160, num_dense_layers=1, num_experts=8, num_experts_per_tok=3,
                    moe_intermediate_size=64, routed_scaling_factor=1.5, norm_topk_prob=True, use_expert_bias=True)
        | rope(500.0),
    ),
    # Values' heads are more than keys' heads, and wider; two layers of the one kind follow each other.
    "qwen35": ("Qwen3_5", DELTA | dict(tie_word_embeddings=True)),
    "qwen35-even": ("Qwen3_5", DELTA | dict(linear_num_key_heads=3, linear_num_value_heads=3, linear_conv_kernel_dim=2,
                                            num_hidden_layers=2, layer_types=["full_attention", "linear_attention"])),
    "qwen35moe": ("Qwen3_5Moe", DELTA | DELTA_EXPERTS),
    "qwen3next": ("Qwen3Next", DELTA | DELTA_EXPERTS | dict(norm_topk_prob=True)),
    "bert": ("Bert", ENCODER | dict(layer_norm_eps=EPS)),
    # Positions count from after the padding token's id on.
    "roberta": ("Roberta", ENCODER | dict(layer_norm_eps=EPS, type_vocab_size=1, pad_token_id=1)),
    "xlm-roberta": ("XLMRoberta", ENCODER | dict(layer_norm_eps=EPS, type_vocab_size=1, pad_token_id=1)),
    "nomic-bert": ("NomicBert", ENCODER | dict(layer_norm_eps=EPS) | rope(500.0)),
    "jina-bert-v2": ("JinaBert", ENCODER | dict(num_attention_heads=6, layer_norm_eps=EPS)),
    "jina-bert-v2-code": ("JinaBert", ENCODER | dict(num_attention_heads=6, layer_norm_eps=EPS, code=True)),
    "jina-bert-v3": ("JinaEmbeddingsV3", ENCODER | dict(layer_norm_eps=EPS, type_vocab_size=1, pad_token_id=1) | rope(500.0)),
    "modern-bert": (
        "ModernBert",
        ENCODER | dict(num_hidden_layers=5, norm_eps=EPS, local_attention=12, bos_token_id=0, eos_token_id=1,
                       cls_token_id=0, sep_token_id=1,
                       rope_parameters={
                           "full_attention": {"rope_type": "default", "rope_theta": 500.0},
                           "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}),
    ),
    "modern-bert-biases": (
        "ModernBert",
        ENCODER | dict(num_hidden_layers=4, norm_eps=EPS, local_attention=9, global_attn_every_n_layers=2, norm_bias=True,
                       attention_bias=True, mlp_bias=True, hidden_activation="silu", bos_token_id=0, eos_token_id=1,
                       cls_token_id=0, sep_token_id=1,
                       rope_parameters={
                           "full_attention": {"rope_type": "default", "rope_theta": 500.0},
                           "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}),
    ),
    "gemma-embedding": (
        "Gemma3Text",
        LLAMA | WINDOW | dict(head_dim=32, num_hidden_layers=7, query_pre_attn_scalar=32,
                              use_bidirectional_attention=True,
                              rope_parameters={
                                  "full_attention": {"rope_type": "default", "rope_theta": 500.0},
                                  "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}),
    ),
    "qwen3-embedding": ("Qwen3", LLAMA | dict(head_dim=32) | rope(500.0)),
    "granitemoe": (
        "GraniteMoe",
        LLAMA | dict(embedding_multiplier=6.0, residual_multiplier=0.25, attention_multiplier=0.125,
                     logits_scaling=8.0, num_local_experts=4, num_experts_per_tok=2) | rope(500.0),
    ),
}  # fmt: skip


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


def origins(numbered, places, zeros):
    """For each tensor of transformers' file the one of the GGUF file that has its elements, and how: `=`, `+1` (larger by 1),
    an expert's or a row's number, `halves D` (heads of D rows, stored as pairs there), `after N` (N rows lie before them), `squeezed` (without
    a dimension of 1 in the middle), `transposed`, `groups Q D` (the queries of Q heads of D rows, their key, their value, and so on), or
    with a second tensor `pairs` and `transposed pairs` (the rows of both take turns), `joined` (those of each expert behind each other) or
    `keys and values` (of each head those of the first, transposed, then those of the second). Otherwise rearranged rows or columns are
    `rows`, `squeezed rows`, `log rows` (logarithms of the opposites) or `columns`, with runs of them, each the first and how many; those
    of a second tensor are counted on. None for anything else."""
    owner = {int(n): name for name, where in places.items() for n in where.flatten()}
    out = {}
    for name, numbers in numbered.items():
        source, *others = dict.fromkeys(owner[int(n)] for n in numbers.flat if int(n) in owner)
        if others:
            a, b = places[source], places[others[0]]
            hows = []
            if a.shape == b.shape:
                both = np.stack([a, b], 2).reshape(a.shape[0], -1, *a.shape[2:])
                hows = [("pairs", both), ("transposed pairs", both.swapaxes(1, -1)), ("joined", np.concatenate([a, b], 1))]
            elif a.ndim == 3 and a.shape[1] == b.shape[2]:
                hows = [("keys and values", np.concatenate([a.swapaxes(1, 2), b], 1).reshape(-1, b.shape[2]))]
            how = next((how for how, w in hows if w.shape == numbers.shape and (w == numbers).all()), None)
            if how:
                out[name] = [source, how, others[0]]
            elif a.shape[1:] == b.shape[1:] and len(others) == 1 and (rows := runs(numbers, np.concatenate([a, b]))):
                out[name] = [source, "rows", rows, others[0]]
            else:
                return None
            continue
        where, added = places[source], zeros[source].flatten()[0]
        hows = [("=" if added == 0 else f"+{added:.0f}", where)]
        if numbers.ndim == 3 and numbers.shape[1] == 1:
            hows.append(("squeezed", where[:, None]))
        if where.ndim == 2:
            hows += [("transposed", where.T)]
            hows += [(f"row {r}", row) for r, row in enumerate(where) if numbers.ndim == 1]
        if source.endswith(("attn_qkv.weight", "attn_qkv.bias")):
            hows += groups(where)
        if where.ndim == 3:
            hows += [(f"expert {e}", matrix) for e, matrix in enumerate(where)] + [("transposed", where.swapaxes(1, 2))]
        for dim in (24, 32, 40):
            if where.shape[0] % dim == 0:
                pairs = where.reshape(-1, dim // 2, 2, *where.shape[1:])
                hows.append((f"halves {dim}", pairs.swapaxes(1, 2).reshape(where.shape)))
        before = numbers.shape[0] - where.shape[0]
        if before > 0 and numbers[before:].shape == where.shape and (numbers[before:] == where).all():
            hows.append((f"after {before}", numbers))
        how = next((how for how, w in hows if w.shape == numbers.shape and (w == numbers).all()), None)
        how = None if name.endswith("A_log") else how
        if how:
            out[name] = [source, how]
        elif rows := runs(numbers, where):
            kind = "log " if name.endswith("A_log") else "squeezed " if numbers.ndim == 3 else ""
            out[name] = [source, f"{kind}rows", rows]
        elif numbers.ndim == 2 and (columns := runs(numbers.T, where.T)):
            out[name] = [source, "columns", columns]
        else:
            return None
    return out


def runs(numbers, where):
    """The rows of `where` that those of `numbers` are, as the first and the number of those that follow each other; None where they are not."""
    place = {row.tobytes(): i for i, row in enumerate(where.astype(np.int64).reshape(len(where), -1))}
    out = []
    for row in numbers.astype(np.int64).reshape(len(numbers), -1):
        i = place.get(row.tobytes())
        if i is None:
            return None
        if out and sum(out[-1]) == i:
            out[-1][1] += 1
        else:
            out.append([i, 1])
    return out


def groups(where):
    """What queries, keys and values may be stored as, a group of heads behind the other."""
    for dim in (16, 24):
        heads = where.reshape(-1, dim, *where.shape[1:])
        for queries in (1, 2, 4):
            count = len(heads) // (queries + 2)
            if len(heads) != count * (queries + 2):
                continue
            q, k, v = heads[: count * queries], heads[count * queries : -count], heads[-count:]
            q = q.reshape(count, queries, *heads.shape[1:])
            yield f"groups {queries} {dim}", np.concatenate([q, k[:, None], v[:, None]], 1).reshape(where.shape)


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
