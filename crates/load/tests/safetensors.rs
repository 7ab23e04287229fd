//! Folders in transformers' format: what is read, and what is refused by name.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use kinfer_load::gguf::{Gguf, GgufError};
use kinfer_load::tokenizer::{Encode, Tokenizer, VocabSpec};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value as Json, json};

/// A Llama of one layer; `null` settings are left out.
fn config(changes: Json) -> Json {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 4,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

/// Name and shape of the tensors of that model.
const TENSORS: &[(&str, &[usize])] = &[
    ("model.embed_tokens.weight", &[4, 8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.mlp.gate_proj.weight", &[16, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[16, 8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 16]),
    ("model.norm.weight", &[8]),
];

/// Writes them, all elements 1 in BF16, and one tensor more.
fn weights(path: &Path, more: Option<(&str, Dtype)>) {
    let ones = [0x80u8, 0x3f].repeat(8 * 16);
    let view = |dtype: Dtype, shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        TensorView::new(dtype, shape.to_vec(), &ones[..bytes]).unwrap()
    };
    let mut all: Vec<_> = TENSORS.iter().map(|&(name, shape)| (name, view(Dtype::BF16, shape))).collect();
    all.extend(more.map(|(name, dtype)| (name, view(dtype, &[4, 8]))));
    safetensors::serialize_to_file(all, None, path).unwrap();
}

fn folder(config: &Json) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    weights(&folder.path().join("model.safetensors"), None);
    folder
}

#[test]
fn a_folder_is_read_like_a_model_file() {
    let folder = folder(&config(json!({})));
    let file = folder.path().join("model.safetensors");
    for path in [folder.path(), &file] {
        let gguf = Gguf::open(path).unwrap();
        let metadata = gguf.metadata();
        assert_eq!(metadata.get::<&str>("general.architecture").unwrap(), "llama");
        assert_eq!(metadata.get::<u32>("llama.attention.key_length").unwrap(), 4);
        assert_eq!(metadata.get::<u32>("general.file_type").unwrap(), 32);
        assert!(gguf.rotary_halves() && gguf.version().is_none());
        assert_eq!(gguf.tensors().len(), TENSORS.len());
        let up = gguf.tensor("blk.0.ffn_up.weight").unwrap();
        assert_eq!((up.shape(), up.type_name().as_ref(), up.data().len()), (&[8u64, 16][..], "BF16", 256));
        assert_eq!(gguf.files().collect::<Vec<_>>(), [file.as_path()]);
    }
}

#[test]
fn settings_that_cannot_be_followed_are_named() {
    for (changes, named) in [
        (json!({ "architectures": ["NoSuchForCausalLM"] }), "NoSuchForCausalLM"),
        (json!({ "architectures": null }), "architectures"),
        (json!({ "hidden_act": "relu" }), "hidden_act"),
        (json!({ "hidden_size": "8" }), "hidden_size"),
        (json!({ "rms_norm_eps": null }), "rms_norm_eps"),
        (json!({ "tie_word_embeddings": false }), "lm_head.weight"),
        (json!({ "sliding_window": 128 }), "sliding_window"),
        (json!({ "mup_scale": 2.0 }), "mup_scale"),
        (json!({ "quantization_config": { "bits": 4 } }), "quant_method"),
        (json!({ "quantization_config": { "quant_method": "bitsandbytes" } }), "bitsandbytes"),
        (
            json!({ "quantization_config": { "quant_method": "gptq", "bits": 3, "group_size": 128 } }),
            "2, 4 and 8",
        ),
        (
            json!({ "quantization_config": { "quant_method": "gptq", "bits": 4, "group_size": 128,
                "checkpoint_format": "marlin" } }),
            "marlin",
        ),
        (
            json!({ "quantization_config": { "quant_method": "awq", "bits": 4, "group_size": 128,
                "version": "gemv", "zero_point": true } }),
            "gemv",
        ),
        (
            json!({ "quantization_config": { "quant_method": "compressed-tensors", "format": "pack-quantized" } }),
            "pack-quantized",
        ),
        (json!({ "quantization_config": { "quant_method": "fp8", "rotation": 1 } }), "rotation"),
        (json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 } }), "dynamic"),
        (json!({ "rope_scaling": { "rope_type": "linear" } }), "factor"),
        (json!({ "rope_scaling": { "rope_type": "linear", "factor": 2.0, "mscale": 1.0 } }), "mscale"),
        (json!({ "layer_types": ["sliding_attention"] }), "layer_types"),
    ] {
        let folder = folder(&config(changes.clone()));
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("config.json"), "{changes}: {error}");
    }
}

/// LFM2 as it was published, by the names of its first configurations and of later ones, and what differs from that.
#[test]
fn lfm2_says_which_layers_are_convolutions() {
    let published = |changes: Json| {
        let mut all = config(json!({
            "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "num_hidden_layers": 3, "hidden_size": 8,
            "block_auto_adjust_ff_dim": true, "block_dim": 8, "block_ff_dim": 48, "block_ffn_dim_multiplier": 1.0,
            "block_mlp_init_scale": 1.0, "block_multiple_of": 24, "block_norm_eps": 1e-5, "block_out_init_scale": 1.0,
            "block_use_swiglu": true, "block_use_xavier_init": true, "conv_L_cache": 3, "conv_bias": false,
            "conv_dim": 8, "conv_dim_out": 8, "conv_use_xavier_init": true, "full_attn_idxs": [1], "norm_eps": 1e-5,
            "num_heads": 2, "theta": 10000.0, "use_pos_enc": true, "rms_norm_eps": null, "intermediate_size": null,
            "hidden_act": null, "tie_word_embeddings": null,
        }));
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        all
    };
    let open = |changes: Json| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), published(changes).to_string()).unwrap();
        let ones = [0u8; 96];
        let conv = TensorView::new(Dtype::F32, vec![8, 1, 3], &ones).unwrap();
        let file = folder.path().join("model.safetensors");
        safetensors::serialize_to_file([("model.layers.0.conv.conv.weight", conv)], None, &file).unwrap();
        Gguf::open(folder.path()).map_err(|e| e.to_string())
    };
    for (changes, kv_heads, hidden) in [
        (json!({}), [0, 1, 0], 48),
        (json!({ "full_attn_idxs": null }), [1, 1, 1], 48),
        (json!({ "layer_types": ["full_attention", "conv", "conv"], "full_attn_idxs": null }), [1, 0, 0], 48),
        // Two thirds of 48 are 32.
        (json!({ "block_multiple_of": 5 }), [0, 1, 0], 35),
        (json!({ "block_ffn_dim_multiplier": 0.5, "block_multiple_of": 1 }), [0, 1, 0], 16),
        (json!({ "block_ffn_dim_multiplier": null, "block_multiple_of": 5 }), [0, 1, 0], 32),
        (json!({ "block_ff_dim": null, "intermediate_size": 3, "block_multiple_of": 1 }), [0, 1, 0], 2),
        (json!({ "block_auto_adjust_ff_dim": false }), [0, 1, 0], 48),
        (json!({ "tie_embedding": true, "tie_word_embeddings": false }), [0, 1, 0], 48),
    ] {
        let gguf = open(changes.clone()).unwrap();
        let metadata = gguf.metadata();
        assert_eq!(metadata.get::<Vec<u32>>("lfm2.attention.head_count_kv").unwrap(), kv_heads, "{changes}");
        assert_eq!(metadata.get::<u32>("lfm2.feed_forward_length").unwrap(), hidden, "{changes}");
        assert_eq!(metadata.get::<u32>("lfm2.shortconv.l_cache").unwrap(), 3);
        assert_eq!(gguf.tensor("blk.0.shortconv.conv.weight").unwrap().shape(), [3, 8]);
    }
    for (changes, named) in [
        (json!({ "full_attn_idxs": [3] }), "full_attn_idxs"),
        (json!({ "full_attn_idxs": 1 }), "full_attn_idxs"),
        (json!({ "layer_types": ["conv", "full_attention"] }), "layer_types"),
        (json!({ "layer_types": ["conv", "conv", "sliding_attention"] }), "layer_types"),
        (json!({ "conv_bias": true }), "conv_bias"),
        (json!({ "conv_dim": 16 }), "conv_dim"),
        (json!({ "block_norm_eps": 1e-6 }), "block_norm_eps"),
        (json!({ "block_use_swiglu": false }), "block_use_swiglu"),
        (json!({ "use_pos_enc": false }), "use_pos_enc"),
        (json!({ "block_multiple_of": 0 }), "block_multiple_of"),
        (json!({ "block_ffn_dim_multiplier": 1e300 }), "intermediate_size"),
        (json!({ "tie_embedding": false }), "lm_head.weight"),
    ] {
        let error = open(changes.clone()).unwrap_err();
        assert!(error.contains(named) && error.contains("config.json"), "{changes}: {error}");
    }
}

#[test]
fn what_is_broken_is_named() {
    let open = |change: &dyn Fn(&Path)| -> GgufError {
        let folder = folder(&config(json!({})));
        change(folder.path());
        Gguf::open(folder.path()).unwrap_err()
    };
    let file = |folder: &Path| folder.join("model.safetensors");
    let write = |folder: &Path, name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let index = "model.safetensors.index.json";
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Change<'_>); 10] = [
        ("config.json", &|f| std::fs::remove_file(f.join("config.json")).unwrap()),
        ("model.safetensors", &|f| std::fs::remove_file(file(f)).unwrap()),
        ("download it again", &|f| {
            std::fs::File::options().write(true).open(file(f)).unwrap().set_len(900).unwrap()
        }),
        ("download it again", &|f| write(f, "model.safetensors", "version https://git-lfs")),
        ("JSON", &|f| write(f, "config.json", "{")),
        ("vision.weight", &|f| weights(&file(f), Some(("vision.weight", Dtype::BF16)))),
        ("F8_E4M3", &|f| weights(&file(f), Some(("lm_head.weight", Dtype::F8_E4M3)))),
        ("../secret", &|f| write(f, index, r#"{"weight_map": {"a": "../secret"}}"#)),
        ("b.safetensors", &|f| write(f, index, r#"{"weight_map": {"a": "b.safetensors"}}"#)),
        ("tokenizer.json", &|f| write(f, "tokenizer.model", "")),
    ];
    for (named, change) in cases {
        let error = open(change).to_string();
        assert!(error.contains(named), "expected {named}: {error}");
    }
}

#[test]
fn quantised_matrices_without_all_their_tensors_are_refused() {
    let fp8 = json!({ "quant_method": "fp8", "weight_block_size": [128, 128] });
    let gptq = json!({ "quant_method": "gptq", "bits": 4, "group_size": -1 });
    for (quantization, tensor, dtype, named) in [
        (&fp8, "lm_head.weight", Dtype::F8_E4M3, "lm_head.weight_scale"),
        (&fp8, "lm_head.weight_scale_inv", Dtype::F32, "lm_head.weight"),
        (&gptq, "lm_head.qweight", Dtype::I32, "lm_head.scales"),
        (&gptq, "lm_head.g_idx", Dtype::I32, "lm_head.qweight"),
        (&gptq, "vision.qweight", Dtype::I32, "vision.weight"),
        // Another scheme's.
        (&fp8, "lm_head.qweight", Dtype::I32, "lm_head.qweight"),
    ] {
        let config = json!({ "tie_word_embeddings": false, "quantization_config": quantization });
        let folder = folder(&self::config(config));
        weights(&folder.path().join("model.safetensors"), Some((tensor, dtype)));
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("\"{named}\"")), "{tensor}: {error}");
    }
}

/// tokenizer.json of a vocabulary in a model file, with these components.
fn tokenizer_json(spec: &VocabSpec, parts: Json, bytes: bool) -> Json {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let types = spec.types.clone().unwrap();
    let mut vocab = BTreeMap::new();
    let mut added = Vec::new();
    for (id, token) in spec.tokens.iter().enumerate() {
        match types[id] {
            3 | 4 => added.push(json!({ "id": id, "content": text(token), "special": types[id] == 3 })),
            _ => drop(vocab.insert(text(token), id)),
        }
    }
    let merges: Vec<Json> = match &spec.scores {
        None => spec.merges.iter().map(|m| json!(text(m))).collect(),
        // All pairs of each text, the best scores first.
        Some(scores) => {
            let plain = |piece: &str| vocab.get(piece).is_some_and(|&id| types[id] == 1);
            let mut pieces: Vec<_> = vocab.iter().filter(|(p, _)| plain(p)).collect();
            pieces.sort_by(|a, b| scores[*b.1].total_cmp(&scores[*a.1]));
            let splits = |piece: &String| {
                let at: Vec<usize> = piece.char_indices().skip(1).map(|(at, _)| at).collect();
                let pair = |at: usize| (piece[..at].to_owned(), piece[at..].to_owned());
                at.into_iter().map(pair).filter(|(l, r)| plain(l) && plain(r)).collect::<Vec<_>>()
            };
            pieces.into_iter().flat_map(|(p, _)| splits(p)).map(|(l, r)| json!([l, r])).collect()
        }
    };
    let unk = spec.unk.map(|id| text(spec.tokens.get(id as usize).unwrap()));
    let mut model =
        json!({ "type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": bytes, "unk_token": unk });
    model.as_object_mut().unwrap().extend(parts["model"].as_object().cloned().unwrap_or_default());
    json!({ "added_tokens": added, "normalizer": parts["normalizer"], "pre_tokenizer": parts["pre_tokenizer"],
        "post_processor": parts["post_processor"], "model": model })
}

/// The tokenizer of a folder with this tokenizer.json.
fn open_tokenizer(json: &Json, config: &Json, rows: usize) -> Result<Tokenizer, GgufError> {
    let folder = folder(&self::config(json!({ "vocab_size": rows })));
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let gguf = Gguf::open(folder.path())?;
    Ok(Tokenizer::new(&VocabSpec::from_metadata(gguf.metadata())?).unwrap())
}

fn split(pattern: &str) -> Json {
    json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
    ] })
}

#[test]
fn tokenizers_give_the_ids_of_the_same_vocabulary_in_a_model_file() {
    const TAIL: &str = r"|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let words =
        |digits: &str| split(&format!("(?i:'s|'t|'re|'ve|'m|'ll|'d){}", TAIL.replace("DIGITS", digits)));
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let digits = json!({ "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": true }, bytes] });
    let spaces =
        |content: &str| json!({ "type": "Replace", "pattern": { "String": " " }, "content": content });
    let prepend =
        json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, spaces("▁")] });
    let falcon = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Punctuation", "behavior": "Contiguous" }, bytes,
        { "type": "Digits", "individual_digits": false },
        { "type": "Split", "pattern": { "Regex": "[0-9][0-9][0-9]" }, "behavior": "Isolated", "invert": false },
    ] });
    let sets = [
        ("gpt-2", json!({ "pre_tokenizer": bytes })),
        ("starcoder", json!({ "pre_tokenizer": digits })),
        ("qwen2", json!({ "pre_tokenizer": words(r"\p{N}"), "normalizer": { "type": "NFC" } })),
        ("llama-bpe", json!({ "pre_tokenizer": words(r"\p{N}{1,3}"), "model": { "ignore_merges": true } })),
        // Normal form C, which files with these do not ask for.
        ("mpt", json!({ "pre_tokenizer": bytes, "normalizer": { "type": "NFC" } })),
        ("command-r", json!({ "pre_tokenizer": digits, "normalizer": { "type": "NFC" } })),
        ("falcon", json!({ "pre_tokenizer": falcon })),
        ("llama-spm", json!({ "normalizer": prepend })),
        ("phi-3", json!({ "normalizer": prepend })),
    ];
    for (set, parts) in sets {
        let path = common::vocab(&format!("ggml-vocab-{set}.gguf"));
        let spec = VocabSpec::from_metadata(Gguf::open(&path).unwrap().metadata()).unwrap();
        let json = tokenizer_json(&spec, parts, set.ends_with("spm") || set == "phi-3");
        let got = open_tokenizer(&json, &json!({}), spec.tokens.len()).unwrap();
        let want = common::tokenizer(&path);
        let texts = std::fs::read_to_string(format!("{}.inp", path.display())).unwrap();
        for text in texts.split("\n__ggml_vocab_test__\n") {
            let ids = |t: &Tokenizer| t.encode(text, Encode::text()).unwrap();
            assert_eq!(ids(&got), ids(&want), "{set} {text:?}");
        }
        if json["normalizer"]["type"] == "NFC" {
            let ids = |text| got.encode(text, Encode::text()).unwrap();
            assert_eq!(ids("cafe\u{301}"), ids("caf\u{e9}"), "{set}");
        }
    }
}

/// Digits are parted after the text has become bytes, whose alphabet has digits of its own.
#[test]
fn digits_that_a_merge_joins_are_refused() {
    let path = common::vocab("ggml-vocab-falcon.gguf");
    let spec = VocabSpec::from_metadata(Gguf::open(&path).unwrap().metadata()).unwrap();
    let digits = |each: bool| {
        json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
            { "type": "Digits", "individual_digits": each } ] } })
    };
    let mut json = tokenizer_json(&spec, digits(false), false);
    let rows = spec.tokens.len();
    assert!(open_tokenizer(&json, &json!({}), rows).is_ok());
    json["model"]["merges"].as_array_mut().unwrap().push(json!("Ġ 7"));
    for json in [json, tokenizer_json(&spec, digits(true), false)] {
        let error = open_tokenizer(&json, &json!({}), rows).unwrap_err().to_string();
        assert!(error.contains("pre_tokenizer") && error.contains("Digits"), "{error}");
    }
}

#[test]
fn frames_ends_and_stripping_are_read() {
    let path = common::vocab("ggml-vocab-gpt-2.gguf");
    let spec = VocabSpec::from_metadata(Gguf::open(&path).unwrap().metadata()).unwrap();
    let bos = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
    let frame =
        json!({ "type": "TemplateProcessing", "single": [bos, { "Sequence": { "id": "A", "type_id": 0 } }] });
    let parts =
        json!({ "pre_tokenizer": { "type": "ByteLevel", "use_regex": true }, "post_processor": frame });
    let mut json = tokenizer_json(&spec, parts, false);
    let rows = spec.tokens.len() + 2;
    let added = json["added_tokens"].as_array_mut().unwrap();
    added.push(json!({ "id": rows - 2, "content": "<s>", "special": true }));
    added.push(json!({ "id": rows - 1, "content": "<|end|>", "special": true, "rstrip": true }));
    // A token that the model has no row for.
    added.push(json!({ "id": rows, "content": "<image>", "special": true }));
    let config = json!({ "bos_token": "<s>", "eos_token": { "content": "<|end|>" } });
    let tokenizer = open_tokenizer(&json, &config, rows).unwrap();
    let (bos, end) = (rows as u32 - 2, rows as u32 - 1);
    let ids = |text| tokenizer.encode(text, Encode { special: true, ..Encode::default() }).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.is_end(end)), (rows, true));
    assert_eq!(ids("<|end|> \n a"), [&[bos, end], &ids("a")[1..]].concat());
    let a = ids("a")[1];

    // A text that another token ends than the one that ends an answer.
    let ending = json!({ "type": "TemplateProcessing", "single": [{ "Sequence": { "id": "A" } },
        { "SpecialToken": { "id": "<|end|>" } }] });
    let roberta = json!({ "type": "RobertaProcessing", "sep": ["<|end|>", end], "cls": ["<s>", bos],
        "trim_offsets": true, "add_prefix_space": false });
    for (processor, eos, want) in [(&ending, "<s>", &[a, end][..]), (&roberta, "<|end|>", &[bos, a, end])] {
        let mut json = json.clone();
        json["post_processor"] = processor.clone();
        let config = json!({ "bos_token": "<s>", "eos_token": eos });
        let tokenizer = open_tokenizer(&json, &config, rows).unwrap();
        assert_eq!(tokenizer.encode("a", Encode::default()).unwrap(), want, "{processor}");
        assert!(tokenizer.is_end(end) && tokenizer.is_end(bos) == (eos == "<s>"));
    }

    for (part, wrong) in [
        ("model", json!({ "type": "Unigram", "vocab": { "a": 0 } })),
        ("model", json!({ "type": "WordPiece", "vocab": {} })),
        ("normalizer", json!({ "type": "Lowercase" })),
        (
            "pre_tokenizer",
            json!({ "type": "Sequence", "pretokenizers": [{ "type": "ByteLevel" }, { "type": "Punctuation" }] }),
        ),
        ("post_processor", json!({ "type": "BertProcessing" })),
        ("added_tokens", json!([{ "id": 1, "content": "x", "single_word": true }])),
    ] {
        let mut json = json.clone();
        json[part] = wrong;
        let error = open_tokenizer(&json, &config, rows).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("tokenizer.json"), "{part}: {error}");
    }
}

#[test]
fn merges_that_sentencepiece_did_not_make_are_refused() {
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let vocab = json!({ "<unk>": 0, "a": 1, "b": 2, "ab": 3, "aba": 4 });
    let open = |merges: Json| {
        let model = json!({ "type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab, "merges": merges });
        open_tokenizer(&json!({ "normalizer": spaces, "model": model }), &json!({}), 5)
    };
    // Without BOS there is nothing that could come first, which a SentencePiece vocabulary needs unless it says otherwise.
    assert!(open(json!([["a", "b"], ["ab", "a"]])).is_ok());
    for merges in [json!([["a", "b"]]), json!([["a", "b"], ["ab", "a"], ["a", "b"]]), json!([["a", "x"]])] {
        let error = open(merges.clone()).unwrap_err().to_string();
        assert!(error.contains("model.merges"), "{merges}: {error}");
    }
}

/// A tokenizer.json of BERT.
fn wordpiece(changes: Json) -> Json {
    let vocab =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "cafe", "!", "한국", "##어"];
    let vocab: BTreeMap<&str, usize> = vocab.into_iter().zip(0..).collect();
    let added: Vec<Json> = (0..5)
        .map(|i| vocab.iter().find(|(_, id)| **id == i).unwrap().0)
        .zip(0..)
        .map(|(content, id)| json!({ "id": id, "content": content, "special": true, "lstrip": id == 4 }))
        .collect();
    let mut json = json!({
        "added_tokens": added,
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing", "single": [
            { "SpecialToken": { "id": "[CLS]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
            { "SpecialToken": { "id": "[SEP]", "type_id": 0 } } ] },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": vocab },
    });
    json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json
}

#[test]
fn wordpiece_is_read_from_tokenizer_json() {
    let read = |tokenizer: Json, text: &str| {
        let folder = folder(&config(json!({})));
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let gguf = Gguf::open(folder.path()).map_err(|e| e.to_string())?;
        let spec = VocabSpec::from_metadata(gguf.metadata()).unwrap();
        let options = Encode { special: false, bos: None, eos: None };
        Ok::<_, String>(Tokenizer::new(&spec).unwrap().encode(text, options).unwrap())
    };
    assert_eq!(read(wordpiece(json!({})), "The CATS café! dog").unwrap(), [2, 5, 6, 7, 8, 9, 1, 3]);
    let cased = json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": false });
    assert_eq!(
        read(wordpiece(json!({ "normalizer": cased })), "The cats café 한국어").unwrap(),
        [2, 1, 6, 7, 1, 10, 11, 3]
    );
    let processing = json!({ "type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3] });
    assert_eq!(read(wordpiece(json!({ "post_processor": processing })), "the").unwrap(), [2, 5, 3]);
    for (part, value) in [
        ("normalizer", json!({ "type": "Lowercase" })),
        ("pre_tokenizer", json!({ "type": "Whitespace" })),
        ("post_processor", json!(null)),
    ] {
        let error = read(wordpiece(json!({ part: value })), "the").unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn poolings_of_sentence_transformers() {
    let read = |pooling: Json| {
        let folder = folder(&config(json!({})));
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        std::fs::write(folder.path().join("1_Pooling/config.json"), pooling.to_string()).unwrap();
        let gguf = Gguf::open(folder.path()).map_err(|e| e.to_string())?;
        Ok::<_, String>(gguf.metadata().get::<u32>("llama.pooling_type").unwrap())
    };
    let of = |mode: &str| {
        read(json!({ "word_embedding_dimension": 8, "pooling_mode_cls_token": false, mode: true }))
    };
    assert_eq!(of("pooling_mode_mean_tokens"), Ok(1));
    assert_eq!(of("pooling_mode_cls_token"), Ok(2));
    assert_eq!(of("pooling_mode_lasttoken"), Ok(3));
    assert_eq!(read(json!({ "pooling_mode": "mean" })), Ok(1));
    for wrong in [
        json!({ "pooling_mode_max_tokens": true }),
        json!({ "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true }),
        json!({}),
    ] {
        let error = read(wrong).unwrap_err();
        assert!(error.contains("1_Pooling") && error.contains("lasttoken"), "{error}");
    }
}

/// Vocabularies of `data/small_vocabularies.json` (origin inside), and the ids of the packages that they belong to.
fn small() -> (Json, Vec<String>) {
    let all: Json = serde_json::from_str(include_str!("data/small_vocabularies.json")).unwrap();
    let texts = all["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    (all, texts)
}

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn unigram_gives_the_ids_of_sentencepiece() {
    use base64::Engine;
    let (all, texts) = small();
    let charsmap = all["charsmap"].as_str().unwrap();
    for set in all["unigram"].as_array().unwrap() {
        let (name, model) = (set["name"].as_str().unwrap(), &set["tokenizer"]["model"]);
        let pieces = model["vocab"].as_array().unwrap();
        let spec = VocabSpec {
            model: "t5".into(),
            tokens: pieces.iter().map(|p| p[0].as_str().unwrap()).collect(),
            scores: Some(pieces.iter().map(|p| p[1].as_f64().unwrap() as f32).collect()),
            types: Some(ids(&set["types"]).into_iter().map(|t| t as i32).collect()),
            precompiled_charsmap: base64::engine::general_purpose::STANDARD.decode(charsmap).unwrap(),
            add_space_prefix: set["add_dummy_prefix"].as_bool(),
            remove_extra_whitespaces: set["remove_extra_whitespaces"].as_bool(),
            ..VocabSpec::default()
        };
        let squeezes = spec.remove_extra_whitespaces == Some(true);
        let mut tokenizers = vec![Tokenizer::new(&spec).unwrap()];
        // tokenizer.json is made for models that put a space before a text and squeeze the others.
        if squeezes && spec.add_space_prefix == Some(true) {
            let mut json = set["tokenizer"].clone();
            json["normalizer"]["normalizers"][0]["precompiled_charsmap"] = charsmap.into();
            tokenizers.push(open_tokenizer(&json, &json!({}), pieces.len()).unwrap());
        }
        for tokenizer in &tokenizers {
            for (text, want) in texts.iter().zip(set["ids"].as_array().unwrap()) {
                assert_eq!(tokenizer.encode(text, Encode::text()).unwrap(), ids(want), "{name} {text:?}");
            }
        }
        let text = "대한민국의 수도는 서울이다.";
        let got = tokenizers[0].decode(&tokenizers[0].encode(text, Encode::text()).unwrap(), true).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), text);
        for (cut, reason) in [(2, "no length"), (40, "longer than the table")] {
            let broken =
                VocabSpec { precompiled_charsmap: spec.precompiled_charsmap[..cut].to_vec(), ..spec.clone() };
            let error = Tokenizer::new(&broken).unwrap_err().to_string();
            assert!(error.contains("precompiled_charsmap") && error.contains(reason), "{error}");
        }
        // A trie that leads nowhere, or in circles, changes nothing and ends.
        for fill in [0u8, 0xff, 0x61] {
            let mut blob = spec.precompiled_charsmap.clone();
            let trie = u32::from_le_bytes(blob[..4].try_into().unwrap()) as usize;
            blob[4..4 + trie].fill(fill);
            let tokenizer =
                Tokenizer::new(&VocabSpec { precompiled_charsmap: blob, ..spec.clone() }).unwrap();
            texts.iter().for_each(|text| drop(tokenizer.encode(text, Encode::text()).unwrap()));
        }
    }
}

#[test]
fn lists_of_ranks_are_byte_level_vocabularies() {
    let (all, texts) = small();
    let byte_level = &all["byte_level"];
    let tokens = byte_level["tokens"].as_array().unwrap();
    let open = |file: &str, content: String, config: &Json, rows: usize| {
        let folder = folder(&self::config(json!({ "vocab_size": rows })));
        std::fs::write(folder.path().join(file), content).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let gguf = Gguf::open(folder.path())?;
        Ok::<_, GgufError>(Tokenizer::new(&VocabSpec::from_metadata(gguf.metadata())?).unwrap())
    };
    let mut tekken = byte_level["tekken"].clone();
    let token =
        |(rank, bytes): (usize, &Json)| json!({ "rank": rank, "token_bytes": bytes, "token_str": null });
    tekken["vocab"] = tokens.iter().enumerate().map(token).collect();
    let rows = tekken["config"]["default_vocab_size"].as_u64().unwrap() as usize;
    let tokenizer = open("tekken.json", tekken.to_string(), &json!({}), rows).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()), (rows, Some(1), Some(2)));
    assert_eq!(tokenizer.special_id("<SPECIAL_5>"), Some(5));
    for (text, want) in texts.iter().zip(byte_level["tekken_ids"].as_array().unwrap()) {
        assert_eq!(tokenizer.encode(text, Encode::default()).unwrap(), ids(want), "{text:?}");
    }
    tekken["vocab"][300]["rank"] = 3.into();
    let error = open("tekken.json", tekken.to_string(), &json!({}), rows).unwrap_err().to_string();
    assert!(error.contains("tekken.json") && error.contains("place 300"), "{error}");

    let lines: Vec<String> =
        tokens.iter().enumerate().map(|(i, t)| format!("{} {i}\n", t.as_str().unwrap())).collect();
    let special = json!({ "content": "[BOS]", "special": true });
    let config = json!({ "auto_map": { "AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", null] },
        "added_tokens_decoder": { "360": special }, "bos_token": "[BOS]" });
    let tokenizer = open("tiktoken.model", lines.concat(), &config, 361).unwrap();
    for (text, want) in texts.iter().zip(byte_level["tiktoken_ids"].as_array().unwrap()) {
        assert_eq!(tokenizer.encode(text, Encode::text()).unwrap(), ids(want), "{text:?}");
    }
    assert_eq!((tokenizer.bos(), tokenizer.special_id("[BOS]")), (Some(360), Some(360)));
    let bos = json!({ "360": { "content": "<|begin_of_text|>", "special": true } });
    let config = json!({ "added_tokens_decoder": bos });
    let tokenizer = open("tokenizer.model", lines.concat(), &config, 361).unwrap();
    assert_eq!(tokenizer.encode("", Encode::default()).unwrap(), [360]);
    // Nobody says how text is split, or which tokens are special.
    let error = open("tokenizer.model", lines.concat(), &json!({}), 360).unwrap_err().to_string();
    assert!(error.contains("tokenizer.model") && error.contains("added_tokens_decoder"), "{error}");
}
