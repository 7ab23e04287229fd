"""The toys of make_toys.py: transformers' classes, and configurations that let every detail of them be felt."""

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
