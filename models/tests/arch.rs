//! Metadata to blueprints: what the architectures read, and what they refuse.

use kinfer_core::backend::RowOrder;
use kinfer_core::{
    Activation, AttnSpec, DeltaSpec, Error, ExpertSpec, Format, HeadSharing, Mask, Mixer, ModelSpec, Pooling,
    QkNorm, Routing, Scores,
};
use kinfer_load::gguf::{Gguf, Value, write::Writer};
use kinfer_models::SamplingDefaults;
use kinfer_models::arch::{self, Blueprint, QkRows};

const VOCAB: u64 = 10;

/// Metadata and tensors of a file under construction.
struct File(Vec<(String, Value)>, Vec<(String, Vec<f32>, Vec<u64>)>);

impl File {
    fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }
    fn without(mut self, key: &str) -> Self {
        self.0.retain(|(k, _)| k != key);
        self
    }
    fn tensor(mut self, name: &str, values: &[f32]) -> Self {
        self.1.push((name.into(), values.into(), vec![values.len() as u64]));
        self
    }
    fn gguf(self) -> Gguf {
        let mut writer = Writer::default();
        for (key, value) in self.0 {
            writer.set(key, value);
        }
        let mut data: Vec<Vec<u8>> = Vec::new();
        for (name, values, shape) in &self.1 {
            writer.tensor(name, shape, Format::F32.tensor_type()).unwrap();
            data.push(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        }
        let mut bytes = Vec::new();
        writer.write(&mut bytes, &data).unwrap();
        Gguf::from_bytes(bytes).unwrap()
    }
    fn read(self) -> Blueprint {
        arch::read(&self.gguf()).unwrap()
    }
    /// The message of the error that reading ends in.
    fn refused(self) -> String {
        arch::read(&self.gguf()).unwrap_err().to_string()
    }
}

fn decoder(arch: &str, layers: u32) -> File {
    let embed = ("token_embd.weight".into(), vec![0.0; 64 * VOCAB as usize], vec![64, VOCAB]);
    // A file has at least one tensor per layer.
    let norms = (0..layers).map(|i| (format!("blk.{i}.attn_norm.weight"), vec![0.0; 64], vec![64]));
    let key = |k: &str| format!("{arch}.{k}");
    File(Vec::new(), std::iter::once(embed).chain(norms).collect())
        .set("general.architecture", arch)
        .set(&key("block_count"), layers)
        .set(&key("context_length"), 4096u32)
        .set(&key("embedding_length"), 64u32)
        .set(&key("feed_forward_length"), 96u32)
        .set(&key("attention.head_count"), 4u32)
        .set(&key("attention.head_count_kv"), 2u32)
        .set(&key("attention.layer_norm_rms_epsilon"), 1e-5f32)
}

/// The attention of layer `i`.
fn attn(spec: &ModelSpec, i: usize) -> &AttnSpec {
    spec.layers[i].mixer.attn().unwrap()
}

fn llama() -> File {
    decoder("llama", 2)
}

#[test]
fn llama_reads_its_shape() {
    let Blueprint { spec, names, .. } = llama().read();
    assert_eq!((spec.vocab, spec.dim, spec.context, spec.layers.len()), (10, 64, 4096, 2));
    let attn = attn(&spec, 1);
    assert_eq!((attn.heads, attn.kv_heads, attn.head_dim, attn.window), (4, 2, 16, None));
    assert_eq!(attn.scale, 0.25);
    assert_eq!(spec.layers[1].ffn.act, Activation::Silu);
    assert_eq!(spec.ropes.len(), 1);
    assert_eq!(spec.ropes[0].inv_freq[..2], [1.0, 10_000f32.powf(-0.125)]);
    assert_eq!(names.qk_rows.order(16), RowOrder::AdjacentPairs { head_dim: 16, turned: 16 });
}

#[test]
fn per_layer_counts() {
    let spec = llama().set("llama.feed_forward_length", [96u32, 128].as_slice()).read().spec;
    assert_eq!(spec.layers.iter().map(|l| l.ffn.hidden).collect::<Vec<_>>(), [96, 128]);
    let message = llama().set("llama.feed_forward_length", [96u32, 128, 5].as_slice()).refused();
    assert!(message.contains("llama.feed_forward_length") && message.contains("2 of them"), "{message}");
}

#[test]
fn key_length_overrides_the_quotient_and_zero_windows_are_none() {
    let file = llama().set("llama.attention.key_length", 32u32).set("llama.attention.value_length", 32u32);
    let spec = file.set("llama.attention.sliding_window", 0u32).read().spec;
    assert_eq!((attn(&spec, 0).head_dim, attn(&spec, 0).window), (32, None));
    let spec = llama().set("llama.attention.sliding_window", 4096u32).read().spec;
    assert_eq!(attn(&spec, 0).window, Some(4096));
}

#[test]
fn rope_scaling() {
    let plain = llama().read().spec.ropes.remove(0);
    let scaled = |file: File| file.read().spec.ropes.remove(0);

    let linear =
        scaled(llama().set("llama.rope.scaling.type", "linear").set("llama.rope.scaling.factor", 4f32));
    assert!(linear.inv_freq.iter().zip(plain.inv_freq.iter()).all(|(a, b)| (a * 4.0 - b).abs() < 1e-7));
    assert_eq!(scaled(llama().set("llama.rope.scale_linear", 4f32)), linear, "the key's old name");
    let off = llama().set("llama.rope.scaling.type", "none").set("llama.rope.scaling.factor", 4f32);
    assert_eq!(scaled(off), plain);

    let factors: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let llama3 = scaled(llama().tensor("rope_freqs.weight", &factors));
    for (i, (a, b)) in llama3.inv_freq.iter().zip(plain.inv_freq.iter()).enumerate() {
        assert!((a * factors[i] - b).abs() < 1e-6 * b);
    }
    let message = llama().tensor("rope_freqs.weight", &factors[..7]).refused();
    assert!(message.contains("rope_freqs.weight") && message.contains("[8]"), "{message}");
}

/// The ramp runs from dimension 20 to 46.
const YARN: [(usize, f32); 7] = [
    (0, 1.0),
    (20, 0.056_234_132),
    (21, 0.047_292_04),
    (30, 0.009_488_518),
    (40, 0.001_337_886_7),
    (46, 0.000_333_380_36),
    (63, 0.000_028_869_55),
];

/// Frequencies computed apart with the formulas of arXiv 2309.00071 for 128 dimensions, factor 4, 4096 positions.
#[test]
fn yarn() {
    let file = llama()
        .set("llama.attention.key_length", 128u32)
        .set("llama.attention.value_length", 128u32)
        .set("llama.rope.scaling.type", "yarn")
        .set("llama.rope.scaling.factor", 4f32)
        .set("llama.rope.scaling.original_context_length", 4096u32);
    let rope = file.read().spec.ropes.remove(0);
    for (i, expected) in YARN {
        let got = rope.inv_freq[i];
        assert!((got - expected).abs() < 1e-6 * expected, "frequency {i}: {got}, expected {expected}");
    }
    assert!((rope.magnitude - 1.138_629_4).abs() < 1e-6);
    let message = llama().set("llama.rope.scaling.type", "yarn").refused();
    assert!(message.contains("llama.rope.scaling.factor"), "{message}");
}

#[test]
fn gemma3_alternates_windows_and_rotary_bases() {
    let file = || {
        decoder("gemma3", 12)
            .set("gemma3.attention.sliding_window", 512u32)
            .set("gemma3.rope.freq_base", 1e6f32)
            .set("gemma3.rope.scaling.type", "linear")
            .set("gemma3.rope.scaling.factor", 8f32)
    };
    let Blueprint { spec, names, .. } = file().read();
    let global = |spec: &kinfer_core::ModelSpec| -> Vec<usize> {
        let layers = spec.layers.iter().enumerate();
        layers.filter(|(_, l)| l.mixer.attn().is_some_and(|a| a.window.is_none())).map(|(i, _)| i).collect()
    };
    assert_eq!(global(&spec), [5, 11]);
    assert_eq!((attn(&spec, 0).rope, attn(&spec, 5).rope), (Some(1), Some(0)));
    assert_eq!(spec.ropes[0].inv_freq[0], 0.125, "scaling stretches the global layers");
    assert_eq!(spec.ropes[1].inv_freq[..2], [1.0, 10_000f32.powf(-0.125)]);
    assert_eq!((spec.embed_scale, spec.layers[0].ffn.act), (8.0, Activation::GeluTanh));
    assert_eq!((names.qk_rows, names.attn_post_norm), (QkRows::Halves, Some("post_attention_norm")));

    const PATTERN: &str = "gemma3.attention.sliding_window_pattern";
    assert_eq!(global(&file().set(PATTERN, 4u32).read().spec), [3, 7, 11]);
    let flags: Vec<bool> = (0..12).map(|i| i != 2).collect();
    assert_eq!(global(&file().set(PATTERN, flags.as_slice()).read().spec), [2]);
    let message = file().set(PATTERN, 0u32).refused();
    assert!(message.contains(PATTERN), "{message}");
    assert_eq!(global(&decoder("gemma3", 2).read().spec), [0, 1], "no window, no local layers");
}

#[test]
fn the_27b_model_scales_queries_by_dim_over_heads() {
    let file = |layers| decoder("gemma3", layers).set("gemma3.attention.key_length", 32u32);
    assert_eq!(attn(&file(62).read().spec, 0).scale, 0.25);
    assert_eq!(attn(&file(61).read().spec, 0).scale, (1.0 / 32f64.sqrt()) as f32);
}

#[test]
fn the_readme_lists_the_architectures() {
    let readme = include_str!("../../README.md");
    let rows = readme.lines().skip_while(|line| *line != "| architecture | models |").skip(2);
    let rows: Vec<&str> = rows.take_while(|line| line.starts_with('|')).collect();
    let known = arch::ARCHITECTURES.iter().map(|a| format!("| `{}` | {} |", a.name, a.models));
    assert_eq!(rows, known.collect::<Vec<_>>());
}

/// Which of LongRoPE's tables an engine has depends on its context.
#[test]
fn phi3_has_tables_for_short_and_long_contexts() {
    let tables = |file: File| {
        let short: Vec<f32> = vec![1.0; 8];
        let long: Vec<f32> = vec![4.0; 8];
        file.tensor("rope_factors_short.weight", &short)
            .tensor("rope_factors_long.weight", &long)
            .set("phi3.rope.scaling.original_context_length", 1024u32)
            .set("phi3.rope.scaling.attn_factor", 1.25f32)
    };
    let spec = tables(decoder("phi3", 2)).read().spec;
    let first = |context| (spec.ropes_for(context)[0].inv_freq[0], spec.ropes_for(context)[0].magnitude);
    assert_eq!((first(1024), first(1025)), ((1.0, 1.25), (0.25, 1.25)));
    let half = decoder("phi3", 2).tensor("rope_factors_long.weight", &[1.0; 8]).refused();
    assert!(half.contains("rope_factors_short.weight"), "{half}");
    let no_length = tables(decoder("phi3", 2)).without("phi3.rope.scaling.original_context_length").refused();
    assert!(no_length.contains("original_context_length"), "{no_length}");
}

#[test]
fn experts_have_a_width_of_their_own() {
    let file = decoder("qwen3moe", 2)
        .set("qwen3moe.expert_count", 8u32)
        .set("qwen3moe.expert_used_count", 3u32)
        .set("qwen3moe.expert_feed_forward_length", 32u32);
    let ffn = file.read().spec.layers.remove(1).ffn;
    let routing = Routing { used: 3, scores: Scores::Softmax, renormalise: true, scale: 1.0, groups: None };
    assert_eq!((ffn.hidden, ffn.experts), (32, Some(ExpertSpec { count: 8, routing, shared: None })));
    let no_experts = llama().set("llama.expert_count", 0u32).set("llama.expert_used_count", 0u32);
    assert_eq!(no_experts.read().spec.layers[0].ffn.experts, None);
}

#[test]
fn only_the_layers_that_a_file_says_guess_tokens_are_ignored() {
    let names = decoder("glm4moe", 3).set("glm4moe.nextn_predict_layers", 1u32).read().names;
    let ignored = |layer: &str| names.ignores(&format!("blk.{layer}.attn_norm.weight"));
    assert!(!ignored("1") && ignored("2") && !ignored("3"));
    assert!(!decoder("glm4moe", 3).read().names.ignores("blk.3.attn_norm.weight"));
}

#[test]
fn widths_of_latents_are_bounded() {
    const KEYS: [(&str, u32); 6] = [
        ("key_length", 48),
        ("head_count_kv", 1),
        ("kv_lora_rank", 32),
        ("q_lora_rank", 24),
        ("key_length_mla", 32),
        ("value_length_mla", 16),
    ];
    let file = || {
        let file = decoder("deepseek2", 2).without("deepseek2.attention.head_count_kv");
        let file = file.set("deepseek2.rope.dimension_count", 16u32);
        KEYS.iter().fold(file, |file, (key, value)| file.set(&format!("deepseek2.attention.{key}"), *value))
    };
    let latent = attn(&file().read().spec, 0).latent.unwrap();
    assert_eq!((latent.rank, latent.q_rank, latent.plain, latent.value), (32, Some(24), 16, 16));
    for key in ["kv_lora_rank", "q_lora_rank", "key_length_mla", "value_length_mla"] {
        let key = format!("deepseek2.attention.{key}");
        for wrong in [u32::MAX, 1 << 20] {
            let message = file().without(&key).set(&key, wrong).refused();
            assert!(message.contains(&key) && message.contains(&wrong.to_string()), "{message}");
        }
    }
}

#[test]
fn granite_scales_the_stream_instead_of_each_block() {
    let file = decoder("granite", 2)
        .set("granite.embedding_scale", 12f32)
        .set("granite.residual_scale", 0.25f32)
        .set("granite.attention.scale", 0.5f32)
        .set("granite.logit_scale", 8f32);
    let Blueprint { spec, logit_scale, .. } = file.read();
    assert_eq!((spec.embed_scale, logit_scale, attn(&spec, 0).scale), (48.0, 0.125, 0.5));
    assert!([spec.norm, attn(&spec, 0).norm, spec.layers[1].ffn.norm].iter().all(|n| n.eps == 16e-5));
}

/// With norms after blocks the multiplier of their outputs is these norms'; their epsilons stay.
#[test]
fn hyperclovax_scales_the_stream_or_the_norms_after_blocks() {
    const NORMED: &str = "hyperclovax.use_post_norm";
    let file = |normed: bool| {
        let file = decoder("hyperclovax", 2).set("hyperclovax.residual_scale", 0.25f32).set(NORMED, normed);
        file.set("hyperclovax.embedding_scale", 12f32).set("hyperclovax.logit_scale", 0.5f32)
    };
    for (normed, embedding, after_blocks, eps) in [(false, 48.0, 1.0, 16e-5), (true, 12.0, 0.25, 1e-5)] {
        let Blueprint { spec, names, logit_scale, post_norm_scale } = file(normed).read();
        assert_eq!((spec.embed_scale, post_norm_scale, logit_scale), (embedding, after_blocks, 0.5));
        assert_eq!((spec.norm.eps, names.attn_post_norm.is_some()), (eps, normed));
    }
    assert!(file(true).without(NORMED).refused().contains(NORMED));
}

/// Layers without key/value heads are convolutions in LFM2, and a mistake elsewhere.
#[test]
fn lfm2_has_convolutions_where_there_are_no_key_heads() {
    const HEADS: &str = "lfm2.attention.head_count_kv";
    const TAPS: &str = "lfm2.shortconv.l_cache";
    let file = || {
        let file = decoder("lfm2", 3).without(HEADS).set(HEADS, [0u32, 2, 0].as_slice());
        file.set(TAPS, 3u32)
    };
    let Blueprint { spec, names, .. } = file().read();
    let kinds: Vec<_> = spec.layers.iter().map(|l| l.mixer.conv().map(|c| (c.width, c.taps))).collect();
    assert_eq!(kinds, [Some((64, 3)), None, Some((64, 3))]);
    assert_eq!((attn(&spec, 1).kv_heads, names.norm), (2, "token_embd_norm"));
    assert_eq!(spec.part(|i| [i > 0, true]).conv.len(), 1);
    // Three positions of each of ten blocks.
    let Mixer::Convolution(conv) = &spec.layers[0].mixer else { panic!() };
    assert_eq!(conv.tail_bytes(10), 10 * 3 * 64 * 4);
    for taps in [0u32, 1, 33] {
        let message = file().without(TAPS).set(TAPS, taps).refused();
        assert!(message.contains(TAPS) && message.contains(&taps.to_string()), "{message}");
    }
    let message = file().set("lfm2.attention.causal", false).refused();
    assert!(message.contains("lfm2.attention.causal") && message.contains("later positions"), "{message}");
    let message = file().without(HEADS).set(HEADS, [0u32, 3, 0].as_slice()).refused();
    assert!(message.contains("4 query heads cannot share 3"), "{message}");
    let llama = llama().without("llama.attention.head_count_kv");
    let message = llama.set("llama.attention.head_count_kv", [0u32, 2].as_slice()).refused();
    assert!(message.contains("a positive count"), "{message}");
}

/// ALiBi's slopes are of each layer's heads; further details show in the tensors.
#[test]
fn linear_biases_and_norms_of_queries_and_keys() {
    let b = decoder("bloom", 2).set("bloom.attention.head_count_kv", 4u32).read();
    assert_eq!(attn(&b.spec, 1).alibi.as_deref(), Some(&[0.25, 0.0625, 0.015625, 0.00390625][..]));
    assert_eq!((attn(&b.spec, 0).rope, attn(&b.spec, 0).qk_norm), (None, None));
    let b = decoder("mpt", 2).set("mpt.attention.max_alibi_bias", 4f32).read();
    assert_eq!(attn(&b.spec, 0).alibi.as_deref(), Some(&[0.5, 0.25, 0.125, 0.0625][..]));
    let plain = decoder("jina-bert-v2", 2).read();
    assert!(!plain.spec.layers[0].renormed && !plain.spec.layers[0].ffn.gated);
    assert_eq!((attn(&plain.spec, 1).mask, attn(&plain.spec, 1).qk_norm), (Mask::Bidirectional, None));
    let of_code = decoder("jina-bert-v2", 2)
        .tensor("blk.0.attn_q_norm.weight", &[1.0; 64])
        .tensor("blk.0.attn_norm_2.weight", &[1.0; 64])
        .tensor("blk.0.ffn_up.weight", &[0.0; 192])
        .read();
    assert!(of_code.spec.layers[1].renormed && of_code.spec.layers[1].ffn.gated);
    assert_eq!(attn(&of_code.spec, 1).qk_norm, Some(QkNorm::LayerRows));
    for (arch, key) in [("command-r", "logit_scale"), ("stablelm", "use_parallel_residual")] {
        let file = || match key {
            "logit_scale" => decoder(arch, 2).set("command-r.logit_scale", 0.5f32),
            _ => decoder(arch, 2).set("stablelm.use_parallel_residual", true),
        };
        assert_eq!(attn(&file().read().spec, 0).qk_norm, None);
        let normed = file().tensor("blk.0.attn_q_norm.weight", &[1.0; 64]).read();
        assert_eq!(attn(&normed.spec, 0).qk_norm, Some(QkNorm::LayerHeads));
    }
}

/// Most layers of Qwen 3.5 are delta nets; the last ones of a file may guess further tokens.
#[test]
fn qwen35_has_delta_nets_but_for_every_few_layers() {
    const KEYS: [(&str, u32); 5] = [
        ("conv_kernel", 4),
        ("state_size", 16),
        ("group_count", 2),
        ("time_step_rank", 6),
        ("inner_size", 144),
    ];
    let file = |arch: &'static str, layers| {
        let set = |file: File, (key, value): &(&str, u32)| file.set(&format!("{arch}.ssm.{key}"), *value);
        KEYS.iter().fold(decoder(arch, layers), set)
    };
    let kinds = |file: File| {
        let spec = file.read().spec;
        spec.layers.iter().map(|l| l.mixer.delta().is_some()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(file("qwen35", 5)), [true, true, true, false, true]);
    assert_eq!(kinds(file("qwen35", 3).set("qwen35.full_attention_interval", 2u32)), [true, false, true]);
    let flags =
        || file("qwen35", 3).set("qwen35.attention.recurrent_layers", [false, true, false].as_slice());
    assert_eq!(kinds(flags()), [false, true, false]);
    let Blueprint { spec, names, .. } = flags().set("qwen35.nextn_predict_layers", 1u32).read();
    assert_eq!((spec.layers.len(), names.guessing, spec.has_states()), (2, (2, 1), true));
    assert!(attn(&spec, 0).gated && names.ignores("blk.2.nextn.eh_proj.weight"));
    assert_eq!(spec.part(|i| [i > 0, true]).delta.len(), 1);
    let delta = spec.layers[1].mixer.delta().unwrap();
    assert_eq!((delta.value_dim, delta.group(), delta.sharing), (24, 3, HeadSharing::Turns));
    assert_eq!((delta.channels(), delta.projection_dim()), (64 + 144, 64 + 2 * 144 + 12));
    assert_eq!((delta.value_head(1, 0), delta.value_head(1, 2), delta.value_head(0, 1)), (1, 5, 2));
    // Of each key head three positions of 2 * 16 + 3 * 24 channels, and three states.
    assert_eq!(delta.state_bytes(10), 10 * 2 * (3 * 104 + 3 * 16 * 24) * 4);
    let neighbours = DeltaSpec { sharing: HeadSharing::Neighbours, ..*delta };
    assert_eq!((neighbours.value_head(1, 0), neighbours.value_head(0, 2)), (3, 2));

    for (key, wrong) in [
        ("ssm.conv_kernel", 1u32),
        ("ssm.conv_kernel", 33),
        ("ssm.state_size", 1 << 20),
        ("ssm.group_count", 4),
        ("ssm.time_step_rank", 1 << 20),
        ("ssm.inner_size", 145),
    ] {
        let key = format!("qwen35.{key}");
        let message = file("qwen35", 2).without(&key).set(&key, wrong).refused();
        assert!(message.contains("qwen35.ssm."), "{key} of {wrong}: {message}");
    }
    let message = flags().without("qwen35.attention.recurrent_layers");
    let message = message.set("qwen35.attention.recurrent_layers", [true].as_slice()).refused();
    assert!(message.contains("3 flags"), "{message}");
    let message = file("qwen35", 2).set("qwen35.attention.causal", false).refused();
    assert!(message.contains("later positions"), "{message}");
}

#[test]
fn encoders_and_poolings() {
    let poolings =
        [(0u32, None), (1, Some(Pooling::Mean)), (2, Some(Pooling::Cls)), (3, Some(Pooling::Last))];
    for (number, pooling) in poolings {
        let spec = llama().set("llama.pooling_type", number).read().spec;
        assert_eq!((spec.pooling, spec.generates()), (pooling, true));
    }
    let spec = llama().set("llama.attention.causal", false).read().spec;
    assert!(!spec.generates() && spec.check_generates().is_err());
    assert!(llama().set("llama.attention.causal", true).read().spec.generates());
    // Half of an encoder's window, and the position itself, to either side.
    let file = decoder("gemma-embedding", 2).set("gemma-embedding.attention.sliding_window", 512u32);
    let spec = file.read().spec;
    assert_eq!((attn(&spec, 0).window, attn(&spec, 0).mask), (Some(257), Mask::Bidirectional));
}

#[test]
fn refusals_name_key_and_value() {
    let refused: [(File, &[&str]); 26] = [
        (llama().set("llama.pooling_type", 4u32), &["llama.pooling_type", "rank", "reranker"]),
        (llama().set("llama.pooling_type", 9u32), &["llama.pooling_type", "9", "cls"]),
        (
            decoder("gptneox", 2).without("gptneox.attention.layer_norm_rms_epsilon"),
            &["gptneox.attention.layer_norm_epsilon", "missing"],
        ),
        (
            decoder("stablelm", 2).set("stablelm.attention.layer_norm_epsilon", 1e-5f32),
            &["stablelm.use_parallel_residual", "missing"],
        ),
        (decoder("mpt", 2), &["mpt.attention.max_alibi_bias", "missing"]),
        (
            decoder("mpt", 2).set("mpt.attention.max_alibi_bias", 8f32).set("mpt.attention.clamp_kqv", 6f32),
            &["mpt.attention.clamp_kqv", "within limits", "6"],
        ),
        (decoder("mamba", 2), &["mamba", "gemma3, gemma-embedding, glm4", "llama"]),
        (llama().without("general.architecture"), &["general.architecture", "missing"]),
        (llama().without("llama.block_count"), &["llama.block_count", "missing"]),
        (llama().set("llama.block_count", 0u32), &["llama.block_count", "0"]),
        (llama().set("llama.block_count", u32::MAX), &["llama.block_count", "4294967295", "3 tensors"]),
        (
            llama().set("llama.embedding_length", 32u32),
            &["token_embd.weight", "[vocabulary, 32]", "[10, 64]"],
        ),
        (llama().set("llama.attention.key_length", u32::MAX), &["llama.attention.key_length", "4294967295"]),
        (llama().set("llama.block_count", "two"), &["llama.block_count", "two"]),
        (llama().set("llama.attention.head_count_kv", 3u32), &["llama.attention.head_count_kv", "3"]),
        (llama().set("llama.attention.head_count", 5u32), &["llama.attention.head_count"]),
        (llama().set("llama.attention.value_length", 8u32), &["llama.attention.value_length", "8"]),
        (llama().set("llama.attention.layer_norm_rms_epsilon", f32::NAN), &["epsilon", "NaN"]),
        (llama().set("llama.rope.dimension_count", 8u32), &["llama.rope.dimension_count", "8"]),
        (
            llama().set("llama.rope.scaling.type", "longrope"),
            &["llama.rope.scaling.type", "longrope", "yarn"],
        ),
        (decoder("qwen3", 2).set("qwen3.expert_count", 8u32), &["qwen3.expert_count", "8", "experts"]),
        (llama().set("llama.expert_count", 8u32), &["llama.expert_used_count", "missing"]),
        (
            llama().set("llama.expert_count", 8u32).set("llama.expert_used_count", 9u32),
            &["llama.expert_used_count", "9", "8 experts"],
        ),
        (llama().set("llama.vocab_size", 11u32), &["llama.vocab_size", "11", "10"]),
        (llama().set("llama.logit_scale", 2f32), &["llama.logit_scale", "2"]),
        (decoder("gemma3", 2).set("gemma3.attn_logit_softcapping", 50f32), &["attn_logit_softcapping", "50"]),
    ];
    for (file, parts) in refused {
        let message = file.refused();
        assert!(parts.iter().all(|p| message.contains(p)), "{message}: lacks one of {parts:?}");
    }
    let error = arch::read(&decoder("mamba", 2).gguf()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
}

#[test]
fn a_file_without_embedding() {
    let mut file = llama();
    file.1.clear();
    assert!(file.refused().contains("token_embd.weight"));
}

#[test]
fn sampling_defaults() {
    let file = llama()
        .set("general.sampling.temp", 0.6f32)
        .set("general.sampling.top_k", 20i32)
        .set("general.sampling.penalty_repeat", 1.1f32)
        .set("general.sampling.mirostat", 2i32);
    let found = SamplingDefaults::read(&file.gguf()).unwrap();
    assert_eq!((found.temperature, found.top_k, found.top_p), (Some(0.6), Some(20), None));
    assert_eq!(found.repeat_penalty, Some(1.1));
    assert_eq!(found.unsupported, [("general.sampling.mirostat".to_string(), "2".to_string())]);
    let wrong = SamplingDefaults::read(&llama().set("general.sampling.top_k", "many").gguf()).unwrap_err();
    assert!(wrong.to_string().contains("general.sampling.top_k"), "{wrong}");
}
