//! `quantization_config` of config.json: how the matrices of a quantised checkpoint are stored.

use kinfer_kernels::quant::Format;
use serde_json::{Map, Value as Json};

use super::coded::{Scheme, Storage};
use super::config::{shortened, text, wrong};
use crate::gguf::Problem;

/// How `quantization_config` says that matrices are stored. Settings of how they were quantised are passed over.
pub(super) fn storage(map: &Map<String, Json>, format: Format) -> Result<Storage, Problem> {
    const KEY: &str = "quantization_config";
    let bad = |key: &str, fine: &str| {
        let got = map.get(key).map_or("missing".into(), shortened);
        wrong(KEY, &format!("has `{key}` {got}; kinfer can read {fine}"))
    };
    let known = |keys: &[&str]| {
        let passed = ["quant_method", "modules_to_not_convert", "ignored_layers", "meta", "quantizer"];
        let off = |v: &Json| {
            matches!(v, Json::Null | Json::Bool(false)) || v.as_object().is_some_and(Map::is_empty)
        };
        let unknown =
            map.iter().find(|(k, v)| !off(v) && !keys.contains(&k.as_str()) && !passed.contains(&k.as_str()));
        match unknown {
            None => Ok(()),
            Some((k, v)) => {
                Err(wrong(KEY, &format!("has `{k}` ({}), which kinfer does not know", shortened(v))))
            }
        }
    };
    let count = |key: &str| map.get(key).and_then(Json::as_i64);
    let group = || match count("group_size") {
        Some(-1) => Ok(0),
        Some(n @ 1..=0x1_0000) => Ok(n as usize),
        _ => Err(bad("group_size", "groups of columns, or -1 for one")),
    };
    let block = |value: Option<&Json>| match value {
        None | Some(Json::Null) => Ok(None),
        Some(v) => {
            let sides: Option<Vec<usize>> = v
                .as_array()
                .and_then(|a| a.iter().map(|n| n.as_u64().filter(|&n| n > 0).map(|n| n as usize)).collect());
            match sides.as_deref() {
                Some(&[rows, cols]) => Ok(Some((rows, cols))),
                _ => Err(wrong(KEY, "has a shape of blocks that is no pair of positive counts")),
            }
        }
    };
    match text(map, "quant_method") {
        Some("fp8") => {
            known(&["fmt", "weight_block_size", "activation_scheme", "scale_fmt"])?;
            if !matches!(text(map, "fmt"), None | Some("e4m3" | "float8_e4m3fn")) {
                return Err(bad("fmt", "e4m3"));
            }
            // DeepSeek V3.1's scales are powers of two, stored as floats nevertheless.
            if !matches!(text(map, "scale_fmt"), None | Some("ue8m0" | "float")) {
                return Err(bad("scale_fmt", "ue8m0 and float"));
            }
            Ok(Storage::Coded(Scheme::Fp8 { block: block(map.get("weight_block_size"))?, format }))
        }
        Some("fbgemm_fp8") => {
            known(&["activation_scale_ub"])?;
            Ok(Storage::Coded(Scheme::Fp8 { block: None, format }))
        }
        Some("compressed-tensors") => {
            known(&[
                "config_groups",
                "format",
                "ignore",
                "quantization_status",
                "global_compression_ratio",
                "version",
                "sparsity_config",
                "transform_config",
            ])?;
            if text(map, "format") != Some("float-quantized") {
                return Err(bad("format", "float-quantized"));
            }
            let groups = map.get("config_groups").and_then(Json::as_object);
            let mut blocks = groups.into_iter().flat_map(Map::values).map(|group| {
                let weights = group.get("weights").and_then(Json::as_object);
                let weights = weights.ok_or_else(|| bad("config_groups", "groups with `weights`"))?;
                let is_fp8 = text(weights, "type") == Some("float")
                    && weights.get("symmetric") != Some(&Json::Bool(false))
                    && weights.get("num_bits").and_then(Json::as_u64) == Some(8);
                match (is_fp8, text(weights, "strategy")) {
                    (true, Some("tensor" | "channel")) => Ok(None),
                    (true, Some("block")) => match block(weights.get("block_structure"))? {
                        None => Err(bad("config_groups", "blocks with a `block_structure`")),
                        some => Ok(some),
                    },
                    _ => Err(bad("config_groups", "8-bit floats with scales per tensor, channel or block")),
                }
            });
            let first = blocks.next().unwrap_or_else(|| Err(bad("config_groups", "at least one group")))?;
            match blocks.all(|other| other.is_ok_and(|other| other == first)) {
                true => Ok(Storage::Coded(Scheme::Fp8 { block: first, format })),
                false => Err(bad("config_groups", "groups that are all stored alike")),
            }
        }
        Some("gptq") => {
            known(&[
                "bits",
                "group_size",
                "checkpoint_format",
                "desc_act",
                "act_group_aware",
                "static_groups",
                "sym",
                "damp_percent",
                "damp_auto_increment",
                "true_sequential",
                "model_name_or_path",
                "model_file_base_name",
                "model_seqlen",
                "block_name_to_quantize",
                "module_name_preceding_first_block",
                "modules_in_block_to_quantize",
                "dataset",
                "tokenizer",
                "pack_dtype",
                "use_exllama",
                "exllama_config",
                "max_input_length",
                "cache_block_outputs",
                "use_cuda_fp16",
                "disable_exllama",
                "lm_head",
                "hyb_act",
                "batch_size",
                "pad_token_id",
                "mse",
                "backend",
            ])?;
            let bits = match count("bits") {
                Some(n @ (2 | 4 | 8)) => n as usize,
                _ => return Err(bad("bits", "2, 4 and 8")),
            };
            let offset = match text(map, "checkpoint_format") {
                None | Some("gptq") => 1,
                Some("gptq_v2") => 0,
                Some(_) => return Err(bad("checkpoint_format", "gptq and gptq_v2")),
            };
            if !matches!(text(map, "pack_dtype"), None | Some("int32")) {
                return Err(bad("pack_dtype", "int32"));
            }
            Ok(Storage::Coded(Scheme::Gptq { bits, group: group()?, offset }))
        }
        Some("awq") => {
            known(&[
                "bits",
                "group_size",
                "version",
                "zero_point",
                "backend",
                "do_fuse",
                "exllama_config",
                "fuse_max_seq_len",
                "modules_to_fuse",
            ])?;
            if count("bits") != Some(4) {
                return Err(bad("bits", "4"));
            }
            if !text(map, "version").is_none_or(|v| v.eq_ignore_ascii_case("gemm")) {
                return Err(bad("version", "gemm"));
            }
            if map.get("zero_point") != Some(&Json::Bool(true)) {
                return Err(bad("zero_point", "true"));
            }
            Ok(Storage::Coded(Scheme::Awq { group: group()? }))
        }
        Some("mxfp4") => {
            known(&[])?;
            Ok(Storage::Mxfp4)
        }
        _ => {
            let fine = "fp8, fbgemm_fp8, compressed-tensors of 8-bit floats, gptq, awq and mxfp4";
            Err(bad("quant_method", fine))
        }
    }
}
