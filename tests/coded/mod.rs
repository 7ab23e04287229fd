//! Checkpoints that are quantised already against the same ones with the values that their formats define: the rows bit for
//! bit, and the logits.

use crate::saved::Mxfp4;
use crate::{Numerics, Toy, cpu, fnv, run};
use half::{bf16, f16};
use kinfer::quantize::{self, Recipe};
use kinfer_core::{Format, dequantize};
use kinfer_load::gguf::Gguf;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A tensor to be written.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % n
    }
    /// A scale near `size` that is exact in each of the formats of scales.
    fn scale(&mut self, size: f32) -> f32 {
        size * (1.0 + self.below(128) as f32 / 128.0)
    }
}

/// The tensors of module `name`, a matrix of `rows` by `cols`, and the values that it has.
type Coder = fn(&mut Random, &str, rows: usize, cols: usize) -> (Vec<(String, Tensor)>, Tensor);

const GROUP: usize = 32;

fn floats(ty: Dtype, values: &[f32]) -> Vec<u8> {
    match ty {
        Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// 8-bit floats whose scale is that of `scale_of(row, column)` in `scales`.
fn fp8(
    random: &mut Random,
    (name, rows, cols): (&str, usize, usize),
    (suffix, ty, shape): (&str, Dtype, Vec<usize>),
    scale_of: impl Fn(usize, usize) -> usize,
    result: Dtype,
) -> (Vec<(String, Tensor)>, Tensor) {
    let scales: Vec<f32> = (0..shape.iter().product::<usize>()).map(|_| random.scale(1.0 / 2048.0)).collect();
    // All but the two NaNs.
    let codes: Vec<u8> = (0..rows * cols)
        .map(|_| match random.below(256) as u8 {
            0x7f | 0xff => 0,
            code => code,
        })
        .collect();
    // Exponent and mantissa are those of a half-precision float that is smaller by 2^8.
    let value = |code: u8| {
        let half = u16::from(code & 0x80) << 8 | u16::from(code & 0x7f) << 7;
        f16::from_bits(half).to_f32() * 256.0
    };
    let values: Vec<f32> =
        (0..rows * cols).map(|i| value(codes[i]) * scales[scale_of(i / cols, i % cols)]).collect();
    let tensors = vec![
        (format!("{name}.weight"), (Dtype::F8_E4M3, vec![rows, cols], codes)),
        (format!("{name}.{suffix}"), (ty, shape, floats(ty, &scales))),
    ];
    (tensors, (result, vec![rows, cols], floats(result, &values)))
}

fn fp8_blocks(random: &mut Random, name: &str, rows: usize, cols: usize) -> (Vec<(String, Tensor)>, Tensor) {
    let across = cols.div_ceil(64);
    let scales = ("weight_scale_inv", Dtype::F32, vec![rows.div_ceil(48), across]);
    fp8(random, (name, rows, cols), scales, |r, c| r / 48 * across + c / 64, Dtype::BF16)
}

fn fp8_rows(random: &mut Random, name: &str, rows: usize, cols: usize) -> (Vec<(String, Tensor)>, Tensor) {
    fp8(random, (name, rows, cols), ("weight_scale", Dtype::BF16, vec![rows, 1]), |r, _| r, Dtype::F32)
}

fn fp8_whole(random: &mut Random, name: &str, rows: usize, cols: usize) -> (Vec<(String, Tensor)>, Tensor) {
    let (mut tensors, values) =
        fp8(random, (name, rows, cols), ("weight_scale", Dtype::F32, vec![]), |_, _| 0, Dtype::F16);
    tensors.push((format!("{name}.input_scale"), (Dtype::F32, vec![], floats(Dtype::F32, &[0.5]))));
    (tensors, values)
}

/// Codes and zeros of `bits` in words: of consecutive columns, and of consecutive rows. A stored zero is less by `offset`.
fn gptq(
    random: &mut Random,
    (name, rows, cols): (&str, usize, usize),
    bits: u32,
    offset: u32,
    shuffled: bool,
    ty: Dtype,
) -> (Vec<(String, Tensor)>, Tensor) {
    let (count, limit, per_word) = (cols / GROUP, 1 << bits, (32 / bits) as usize);
    let mut numbers = |n: usize, below: u32| (0..n).map(|_| random.below(below)).collect::<Vec<u32>>();
    let (codes, zeros) = (numbers(rows * cols, limit), numbers(rows * count, limit));
    let groups: Vec<u32> = match shuffled {
        true => numbers(cols, count as u32),
        false => (0..cols).map(|c| (c / GROUP) as u32).collect(),
    };
    let scales: Vec<f32> = (0..rows * count).map(|_| random.scale(0.25 / limit as f32)).collect();
    let (mut words, mut zero_words) =
        (vec![0u32; rows * cols / per_word], vec![0u32; rows * count / per_word]);
    let mut values = vec![0.0; rows * cols];
    for r in 0..rows {
        for c in 0..cols {
            words[c / per_word * rows + r] |= codes[r * cols + c] << (bits as usize * (c % per_word));
            let at = groups[c] as usize * rows + r;
            values[r * cols + c] = (codes[r * cols + c] as f32 - zeros[at] as f32) * scales[at];
        }
        for g in 0..count {
            let stored = zeros[g * rows + r].wrapping_sub(offset) % limit;
            zero_words[g * rows / per_word + r / per_word] |= stored << (bits as usize * (r % per_word));
        }
    }
    let int = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![
        (format!("{name}.qweight"), (Dtype::I32, vec![cols / per_word, rows], int(&words))),
        (format!("{name}.qzeros"), (Dtype::I32, vec![count, rows / per_word], int(&zero_words))),
        (format!("{name}.scales"), (ty, vec![count, rows], floats(ty, &scales))),
    ];
    if shuffled {
        tensors.push((format!("{name}.g_idx"), (Dtype::I32, vec![cols], int(&groups))));
    }
    (tensors, (ty, vec![rows, cols], floats(ty, &values)))
}

fn gptq_first(random: &mut Random, name: &str, rows: usize, cols: usize) -> (Vec<(String, Tensor)>, Tensor) {
    gptq(random, (name, rows, cols), 4, 1, true, Dtype::F16)
}

fn gptq_second(random: &mut Random, name: &str, rows: usize, cols: usize) -> (Vec<(String, Tensor)>, Tensor) {
    gptq(random, (name, rows, cols), 8, 0, false, Dtype::BF16)
}

/// Words of eight rows: the even ones in the low half, the odd ones in the high half.
fn awq(random: &mut Random, name: &str, rows: usize, cols: usize) -> (Vec<(String, Tensor)>, Tensor) {
    let count = cols / GROUP;
    let mut pack = |lines: usize| {
        let codes: Vec<u32> = (0..lines * rows).map(|_| random.below(16)).collect();
        let word = |eight: &[u32]| {
            let nibbles = [0, 2, 4, 6, 1, 3, 5, 7].map(|row| eight[row]);
            nibbles.iter().rev().fold(0, |word, n| word << 4 | n)
        };
        let words: Vec<u8> = codes.chunks_exact(8).flat_map(|eight| word(eight).to_le_bytes()).collect();
        (codes, words)
    };
    let ((codes, words), (zeros, zero_words)) = (pack(cols), pack(count));
    let scales: Vec<f32> = (0..rows * count).map(|_| random.scale(1.0 / 64.0)).collect();
    let value = |r: usize, c: usize| {
        let at = c / GROUP * rows + r;
        (codes[c * rows + r] as f32 - zeros[at] as f32) * scales[at]
    };
    let values: Vec<f32> = (0..rows * cols).map(|i| value(i / cols, i % cols)).collect();
    let tensors = vec![
        (format!("{name}.qweight"), (Dtype::I32, vec![cols, rows / 8], words)),
        (format!("{name}.qzeros"), (Dtype::I32, vec![count, rows / 8], zero_words)),
        (format!("{name}.scales"), (Dtype::F16, vec![count, rows], floats(Dtype::F16, &scales))),
    ];
    (tensors, (Dtype::F16, vec![rows, cols], floats(Dtype::F16, &values)))
}

/// Writes the folder of a model in two files.
fn write(folder: &Path, config: &Json, tensors: &BTreeMap<String, Tensor>) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let file = format!("model-{part}.safetensors");
        let of_part: Vec<_> =
            tensors.iter().enumerate().filter(|(i, _)| i % 2 == part).map(|(_, t)| t).collect();
        map.extend(of_part.iter().map(|(name, _)| ((*name).clone(), file.clone().into())));
        let views = of_part.iter().map(|(name, (ty, shape, bytes))| {
            (name.as_str(), TensorView::new(*ty, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.join(file)).unwrap();
    }
    let index = json!({ "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn quantised_checkpoints_are_what_their_formats_define() {
    let compressed = |strategy: &str| {
        let weights = json!({ "num_bits": 8, "type": "float", "strategy": strategy, "symmetric": true });
        json!({ "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
            "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } } })
    };
    let gptq = |bits: u32, version: &str| {
        json!({ "quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": true, "sym": false,
            "checkpoint_format": version })
    };
    let blocks = || json!({ "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [48, 64] });
    let cases: [(&str, &str, Coder, &str, Json); 11] = [
        ("llama", "FP8", fp8_blocks, "bfloat16", blocks()),
        // What makes keys and values of a latent is one matrix there, of which each head has a part of either.
        ("deepseek2-sigmoid", "FP8", fp8_blocks, "bfloat16", blocks()),
        // Rows and columns of heads stand in another order in the file.
        ("qwen35", "FP8", fp8_blocks, "bfloat16", blocks()),
        ("qwen3next", "FP8", fp8_blocks, "bfloat16", blocks()),
        ("llama", "FP8", fp8_rows, "float32", compressed("channel")),
        ("llama", "FP8", fp8_whole, "float16", compressed("tensor")),
        ("llama", "GPTQ 4-bit", gptq_first, "float16", gptq(4, "gptq")),
        // Queries, keys and values are one matrix, group by group.
        ("gptneox", "GPTQ 4-bit", gptq_first, "float16", gptq(4, "gptq")),
        ("falcon-grouped", "FP8", fp8_blocks, "bfloat16", blocks()),
        ("llama", "GPTQ 8-bit", gptq_second, "bfloat16", gptq(8, "gptq_v2")),
        (
            "llama",
            "AWQ 4-bit",
            awq,
            "float16",
            json!({ "quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": true }),
        ),
    ];
    for (toy, kind, coder, dtype, quantization) in cases {
        let toy = Toy::all().into_iter().find(|other| other.name == toy).unwrap();
        let original = toy.folder().unwrap();
        let mut expected = 0;
        let (mut coded, mut plain) = (BTreeMap::new(), BTreeMap::new());
        let mut random = Random(7);
        for part in 0..2 {
            let bytes = std::fs::read(original.path().join(format!("model-{part}.safetensors"))).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                let shape = view.shape().to_vec();
                let is_coded = |module: &&str| {
                    ["_proj", ".query_key_value"].iter().any(|end| module.ends_with(end))
                        || module.contains(".in_proj_")
                };
                let Some(module) = name.strip_suffix(".weight").filter(is_coded).map(str::to_owned) else {
                    let tensor = (view.dtype(), shape, view.data().to_vec());
                    coded.insert(name.clone(), tensor.clone());
                    plain.insert(name, tensor);
                    continue;
                };
                expected +=
                    if [".kv_b_proj", "_qkvz"].iter().any(|end| module.ends_with(end)) { 2 } else { 1 };
                let (tensors, values) = coder(&mut random, &module, shape[0], shape[1]);
                coded.extend(tensors);
                plain.insert(name, values);
            }
        }
        let mut config = toy.json["config"].clone();
        config["dtype"] = dtype.into();
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        write(folders[1].path(), &config, &plain);
        config["quantization_config"] = quantization;
        write(folders[0].path(), &config, &coded);
        let [coded, plain] = folders.each_ref().map(|folder| Gguf::open(folder.path()).unwrap());
        let mut decoded = 0;
        for want in plain.tensors() {
            let got = coded.tensor(want.name()).unwrap();
            assert_eq!((got.shape(), got.format().unwrap()), (want.shape(), want.format().unwrap()));
            let rows = want.shape()[1..].iter().product::<u64>() as usize;
            let all = want.rows(0..rows);
            assert_eq!(got.rows(0..rows), all, "{kind} {}", want.name());
            assert_eq!(got.rows(1..rows.min(70)), want.rows(1..rows.min(70)), "{kind} {}", want.name());
            assert_eq!((got.bytes(), want.bytes()), (all.len(), all.len()));
            if got.is_coded() {
                decoded += 1;
                assert_eq!(got.type_name(), kind);
                assert!(got.stored_bytes() < all.len());
            }
        }
        assert_eq!(decoded, expected, "{kind}");
        let tokens = toy.tokens();
        let [got, want] = [&coded, &plain].map(|gguf| {
            run(
                &kinfer_models::load(cpu(Numerics::F32), gguf, &mut |_, _| {}).unwrap(),
                &tokens,
                tokens.len(),
                true,
            )
        });
        assert!(want.iter().all(|v| v.is_finite()) && got == want, "{kind}");

        // Quantised again, rows of queries and keys in another order.
        // The values' heads of the toys with delta nets are no whole blocks wide.
        let recipe = Recipe::parse(if toy.name.starts_with("qwen3") { "f32" } else { "q8_0" }).unwrap();
        let [got, want] = [&coded, &plain].map(|gguf| {
            let path = folders[0].path().join("out.gguf");
            quantize::write(gguf, &recipe, &quantize::Options::default(), &path, &mut |_, _| {}).unwrap();
            Gguf::open(&path).unwrap()
        });
        for want in want.tensors() {
            let got = got.tensor(want.name()).unwrap();
            assert_eq!(
                (got.data(), got.type_name()),
                (want.data(), want.type_name()),
                "{kind} {}",
                want.name()
            );
        }
    }
}

#[test]
fn experts_in_mxfp4_stay_as_they_are() {
    let toy = Toy::all().into_iter().find(|toy| toy.name == "gpt-oss-mxfp4").unwrap();
    let folder = toy.folder().unwrap();
    let saved = Gguf::open(folder.path()).unwrap();
    let path = folder.path().join("out.gguf");
    let write = |recipe: Recipe, requantize| {
        let options = quantize::Options { requantize, ..Default::default() };
        quantize::write(&saved, &recipe, &options, &path, &mut |_, _| {}).map(|_| Gguf::open(&path).unwrap())
    };
    let written =
        write(Recipe::parse("f32").unwrap().with("*_exps.weight", "mxfp4").unwrap(), false).unwrap();
    let experts = || saved.tensors().filter(|t| t.name().ends_with("_exps.weight"));
    assert_eq!(experts().count(), 4 * 3);
    for tensor in experts() {
        let shape: Vec<usize> = tensor.shape().iter().rev().map(|&n| n as usize).collect();
        let (rows, bytes) = (shape[0] * shape[1], shape[2] / 32 * 17);
        assert_eq!((tensor.format().unwrap(), tensor.is_coded()), (Format::MXFP4, false));
        assert_eq!((tensor.bytes(), tensor.stored_bytes()), (rows * bytes, rows * bytes));
        let all = tensor.rows(0..rows);
        let mut values = vec![0.0; shape.iter().product()];
        dequantize(Format::MXFP4, &all, &mut values);
        assert_eq!(values, Mxfp4::new(tensor.name(), &shape).values(), "{}", tensor.name());
        assert_eq!(*tensor.rows(3..shape[1] + 9), all[3 * bytes..(shape[1] + 9) * bytes]);
        assert!(tensor.rows(rows..rows + 1).is_empty());
        // The bytes that llama.cpp's converter writes.
        assert_eq!(
            toy.json["mxfp4"][tensor.name()].as_u64(),
            Some(u64::from(fnv(&all))),
            "{}",
            tensor.name()
        );
        let other = written.tensor(tensor.name()).unwrap();
        assert_eq!(
            (other.type_name().as_ref(), other.shape(), other.data()),
            ("MXFP4", tensor.shape(), &*all)
        );
    }
    let [got, want] = [&written, &saved].map(|gguf| {
        let model = kinfer_models::load(cpu(Numerics::F32), gguf, &mut |_, _| {}).unwrap();
        run(&model, &toy.tokens(), 40, true)
    });
    assert_eq!(got, want);
    // Other 4-bit formats would lose twice.
    let error = write(Recipe::parse("q4_0").unwrap(), false).unwrap_err().to_string();
    assert!(error.contains("MXFP4") && error.contains("--requantize"), "{error}");
    let again = write(Recipe::parse("q4_0").unwrap(), true).unwrap();
    assert_eq!(again.tensor("blk.3.ffn_up_exps.weight").unwrap().type_name(), "Q4_0");
}
