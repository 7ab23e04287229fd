//! Model files of random weights in the shapes and formats of real models, to measure speed without fetching any.
//!
//! Weights are not quantised from floats: codes and sub-block scales are random bits, and block scales are such that
//! activations stay in range (see [`Blocks`]), so a file is written about as fast as the disk takes it. The same name
//! gives the same bytes. The vocabulary has a token for each byte and fillers; llama.cpp loads these files, too.

mod blocks;

pub use blocks::{Blocks, Random};

use crate::arch::Names;
use kinfer_core::{Error, Format, Result};
use kinfer_load::gguf::Problem;
use kinfer_load::gguf::write::Writer;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

/// Changes with the content of the files, so that an old one is not taken for a new one.
pub const VERSION: u32 = 1;

/// The dimensions of a model.
#[derive(Debug)]
pub struct Shape {
    /// What users call it.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    arch: &'static str,
    layers: usize,
    dim: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    /// The head is the embedding.
    tied: bool,
    context: u32,
    rope_base: f32,
    window: Option<u32>,
    /// Experts of each layer, and how many of them a token goes to; `hidden` is the width of one.
    experts: Option<(usize, usize)>,
}

/// Shapes to choose from.
#[rustfmt::skip]
pub static SHAPES: &[Shape] = &[
    Shape {
        name: "tiny", about: "two layers, for tests", arch: "llama", layers: 2, dim: 256, hidden: 512, heads: 4, kv_heads: 2,
        head_dim: 64, vocab: 512, tied: true, context: 8192, rope_base: 1e4, window: None, experts: None,
    },
    Shape {
        name: "tiny-gemma3", about: "two layers with a window, for tests", arch: "gemma3", layers: 2, dim: 256, hidden: 512, heads: 2,
        kv_heads: 1, head_dim: 256, vocab: 512, tied: true, context: 8192, rope_base: 1e6, window: Some(32), experts: None,
    },
    Shape {
        name: "tiny-moe", about: "two layers with experts, for tests", arch: "granitemoe", layers: 2, dim: 256, hidden: 256, heads: 4,
        kv_heads: 2, head_dim: 64, vocab: 512, tied: true, context: 8192, rope_base: 1e4, window: None, experts: Some((8, 2)),
    },
    Shape {
        name: "smollm2-135m", about: "SmolLM2 135M", arch: "llama", layers: 30, dim: 576, hidden: 1536, heads: 9, kv_heads: 3,
        head_dim: 64, vocab: 49152, tied: true, context: 8192, rope_base: 1e5, window: None, experts: None,
    },
    Shape {
        name: "gemma3-270m", about: "Gemma 3 270M", arch: "gemma3", layers: 18, dim: 640, hidden: 2048, heads: 4, kv_heads: 1,
        head_dim: 256, vocab: 262_144, tied: true, context: 32768, rope_base: 1e6, window: Some(512), experts: None,
    },
    Shape {
        name: "llama-1b", about: "Llama 3.2 1B", arch: "llama", layers: 16, dim: 2048, hidden: 8192, heads: 32, kv_heads: 8,
        head_dim: 64, vocab: 128_256, tied: true, context: 131_072, rope_base: 5e5, window: None, experts: None,
    },
    Shape {
        name: "llama-8b", about: "Llama 3.1 8B", arch: "llama", layers: 32, dim: 4096, hidden: 14336, heads: 32, kv_heads: 8,
        head_dim: 128, vocab: 128_256, tied: false, context: 131_072, rope_base: 5e5, window: None, experts: None,
    },
    Shape {
        name: "granite-1b-a400m", about: "Granite 3.1 1B A400M, a mixture of experts", arch: "granitemoe", layers: 24, dim: 1024,
        hidden: 512, heads: 16, kv_heads: 8, head_dim: 64, vocab: 49155, tied: true, context: 131_072, rope_base: 1.5e6, window: None,
        experts: Some((32, 8)),
    },
];

/// Which format each matrix has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mix {
    most: Format,
    /// Half of `attn_v` and `ffn_down` in Q6_K.
    medium: bool,
}

/// What the format of a matrix depends on.
#[derive(Clone, Copy)]
enum Role {
    /// Gives the logits.
    Head,
    /// Value or down projection of a layer.
    Sensitive(usize),
    Other,
}

impl Mix {
    const MEDIUM: [(&'static str, Format); 2] = [("q4_k_m", Format::Q4_K), ("q5_k_m", Format::Q5_K)];

    fn parse(name: &str) -> Option<Mix> {
        let medium = Mix::MEDIUM.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        match medium {
            Some(&(_, most)) => Some(Mix { most, medium: true }),
            None => Format::all()
                .find(|f| f.name().eq_ignore_ascii_case(name))
                .map(|most| Mix { most, medium: false }),
        }
    }

    fn name(self) -> String {
        let medium = Mix::MEDIUM.iter().find(|&&(_, most)| self.medium && most == self.most);
        medium.map_or_else(|| self.most.name().to_lowercase(), |(name, _)| (*name).into())
    }

    /// The format of a matrix with rows of `cols` elements, one of `layers` layers' or none's.
    fn format(self, role: Role, layers: usize, cols: usize) -> Format {
        let eighth = layers / 8;
        let more = match role {
            // Logits suffer most from coarse weights.
            Role::Head => self.most.bits_per_weight() < Format::Q6_K.bits_per_weight(),
            Role::Sensitive(i) => self.medium && (i < eighth || i >= 7 * layers / 8 || (i - eighth) % 3 == 2),
            Role::Other => false,
        };
        let format = if more { Format::Q6_K } else { self.most };
        if cols.is_multiple_of(format.block_len()) {
            return format;
        }
        // What quantisers take where blocks of 256 do not fit; for the smallest, IQ4_NL, which Q4_0 equals in size.
        match format {
            f if f.bits_per_weight() < Format::Q4_K.bits_per_weight() => Format::Q4_0,
            Format::Q4_K => Format::Q5_0,
            Format::Q5_K => Format::Q5_1,
            _ => Format::Q8_0,
        }
    }
}

/// A model of random weights: a shape and a quantisation, written `llama-1b:q4_k_m`.
#[derive(Clone, Copy, Debug)]
pub struct Synthetic {
    shape: &'static Shape,
    mix: Mix,
}

impl FromStr for Synthetic {
    type Err = Error;

    /// # Errors
    /// [`Error::Unsupported`], which lists what can be had.
    fn from_str(text: &str) -> Result<Self> {
        let unsupported = |what: String, supported: String| Err(Error::Unsupported { what, supported });
        let Some((shape, quant)) = text.split_once(':') else {
            return unsupported(
                format!("`{text}` without a quantisation"),
                "SHAPE:QUANT, as llama-1b:q4_k_m".into(),
            );
        };
        let Some(shape) = SHAPES.iter().find(|s| s.name.eq_ignore_ascii_case(shape)) else {
            let names: Vec<&str> = SHAPES.iter().map(|s| s.name).collect();
            return unsupported(format!("the shape `{shape}`"), names.join(", "));
        };
        let Some(mix) = Mix::parse(quant) else {
            return unsupported(format!("the quantisation `{quant}`"), quants().join(", "));
        };
        Ok(Synthetic { shape, mix })
    }
}

impl fmt::Display for Synthetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.shape.name, self.mix.name())
    }
}

/// Names of the quantisations to choose from.
pub fn quants() -> Vec<String> {
    let formats = Format::all().map(|f| f.name().to_lowercase());
    Mix::MEDIUM.iter().map(|(name, _)| (*name).into()).chain(formats).collect()
}

/// A tensor to write.
struct Tensor {
    format: Format,
    elements: usize,
    /// Root mean square of the elements; `None`: all 1, as norms are.
    rms: Option<f32>,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        self.format.bytes_for(self.elements).unwrap_or(0) as u64
    }
}

/// Bytes made at a time, about.
const PIECE: usize = 1 << 20;

impl Synthetic {
    /// The file's name.
    pub fn file_name(&self) -> String {
        format!("{}.{}.v{VERSION}.gguf", self.shape.name, self.mix.name())
    }

    /// Bytes of all tensors: the file's size but for its header.
    ///
    /// # Errors
    /// As [`Synthetic::write`], but for those of `out`.
    pub fn tensor_bytes(&self) -> Result<u64, Problem> {
        Ok(self.layout()?.1.iter().map(Tensor::bytes).sum())
    }

    /// Writes the file. `written` is told the bytes of tensors written so far.
    ///
    /// # Errors
    /// [`Problem::Io`] when `out` refuses or `written` does; the others would be a shape that no file can have.
    pub fn write(
        &self,
        out: &mut impl Write,
        mut written: impl FnMut(u64) -> io::Result<()>,
    ) -> Result<(), Problem> {
        let (writer, tensors) = self.layout()?;
        let (mut done, mut piece) = (0, Vec::new());
        writer.write_with(out, |i, out| {
            let Tensor { format, elements, rms } = tensors[i];
            let Some(rms) = rms else {
                done += 4 * elements as u64;
                return (0..elements).try_for_each(|_| out.write_all(&1f32.to_le_bytes()));
            };
            let (blocks, mut random) = (Blocks::new(format, rms), Random::new(i as u64));
            let mut left = tensors[i].bytes() as usize;
            while left > 0 {
                piece.resize(left.min(PIECE / format.block_bytes() * format.block_bytes()), 0);
                blocks.fill(&mut random, &mut piece);
                out.write_all(&piece)?;
                left -= piece.len();
                done += piece.len() as u64;
                written(done)?;
            }
            Ok(())
        })
    }

    /// The header, and what its tensors hold.
    fn layout(&self) -> Result<(Writer, Vec<Tensor>), Problem> {
        let Shape { layers, dim, hidden, heads, kv_heads, head_dim, vocab, tied, experts, .. } = *self.shape;
        let mut writer = Writer::default();
        self.metadata(&mut writer);
        let mut tensors = Vec::new();
        let mut add = |name: &str, shape: &[usize], format: Format, rms| {
            let dims: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
            tensors.push(Tensor { format, elements: shape.iter().product(), rms });
            writer.tensor(name, &dims, format.tensor_type()).map(|_| ())
        };
        let names = Names::GGUF;
        // Inputs of root mean square 1 give such outputs.
        let matrix =
            |cols: usize, role| (self.mix.format(role, layers, cols), Some((cols as f32).sqrt().recip()));
        let (format, rms) = matrix(dim, if tied { Role::Head } else { Role::Other });
        add(&format!("{}.weight", names.embed), &[dim, vocab], format, rms)?;
        for i in 0..layers {
            let gemma3 = self.shape.arch == "gemma3";
            let norms = ["attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"];
            for norm in &norms[..if gemma3 { 4 } else { 2 }] {
                add(&format!("blk.{i}.{norm}.weight"), &[dim], Format::F32, None)?;
            }
            for norm in ["attn_q_norm", "attn_k_norm"].iter().filter(|_| gemma3) {
                add(&format!("blk.{i}.{norm}.weight"), &[head_dim], Format::F32, None)?;
            }
            for (part, cols, rows, role) in [
                (names.qkv[0], dim, heads * head_dim, Role::Other),
                (names.qkv[1], dim, kv_heads * head_dim, Role::Other),
                (names.qkv[2], dim, kv_heads * head_dim, Role::Sensitive(i)),
                (names.attn_out, heads * head_dim, dim, Role::Other),
            ] {
                let (format, rms) = matrix(cols, role);
                add(&format!("blk.{i}.{part}.weight"), &[cols, rows], format, rms)?;
            }
            for (part, cols, rows, role) in [
                (names.gate_up[0], dim, hidden, Role::Other),
                (names.gate_up[1], dim, hidden, Role::Other),
                (names.down, hidden, dim, Role::Sensitive(i)),
            ] {
                let (format, rms) = matrix(cols, role);
                match experts {
                    None => add(&format!("blk.{i}.{part}.weight"), &[cols, rows], format, rms)?,
                    Some((count, _)) => {
                        add(&format!("blk.{i}.{part}_exps.weight"), &[cols, rows, count], format, rms)?;
                    }
                }
            }
            if let Some((count, _)) = experts {
                let rms = Some((dim as f32).sqrt().recip());
                add(&format!("blk.{i}.ffn_gate_inp.weight"), &[dim, count], Format::F32, rms)?;
            }
        }
        add(&format!("{}.weight", names.norm), &[dim], Format::F32, None)?;
        if !tied {
            let (format, rms) = matrix(dim, Role::Head);
            add(&format!("{}.weight", names.head), &[dim, vocab], format, rms)?;
        }
        Ok((writer, tensors))
    }

    fn metadata(&self, writer: &mut Writer) {
        let shape = self.shape;
        writer
            .set("general.architecture", shape.arch)
            .set("general.name", format!("{self}, random weights").as_str())
            .set("general.quantization_version", 2u32);
        let mut set = |key: &str, value: usize| {
            writer.set(format!("{}.{key}", shape.arch), value as u32);
        };
        set("context_length", shape.context as usize);
        set("embedding_length", shape.dim);
        set("block_count", shape.layers);
        set("feed_forward_length", shape.hidden);
        set("attention.head_count", shape.heads);
        set("attention.head_count_kv", shape.kv_heads);
        set("attention.key_length", shape.head_dim);
        set("attention.value_length", shape.head_dim);
        set("vocab_size", shape.vocab);
        if let Some(window) = shape.window {
            set("attention.sliding_window", window as usize);
        }
        if let Some((count, used)) = shape.experts {
            set("expert_count", count);
            set("expert_used_count", used);
        }
        if shape.arch == "granitemoe" {
            let scales: [(&str, f32); 4] = [
                ("embedding_scale", 12.0),
                ("residual_scale", 0.22),
                ("attention.scale", 1.0 / 64.0),
                ("logit_scale", 6.0),
            ];
            for (key, scale) in scales {
                writer.set(format!("{}.{key}", shape.arch), scale);
            }
        }
        writer
            .set(format!("{}.attention.layer_norm_rms_epsilon", shape.arch), 1e-5f32)
            .set(format!("{}.rope.freq_base", shape.arch), shape.rope_base);
        vocabulary(shape.vocab, writer);
    }
}

/// Byte-level BPE: the 256 bytes, one merge (an empty list is refused), fillers, and an end of text.
fn vocabulary(count: usize, writer: &mut Writer) {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const UNUSED: i32 = 5;
    let mut others = 256..;
    let byte = |b: u8| match b {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(b),
        // Bytes that do not print are spelled by the characters from U+0100 on, in order.
        _ => others.next().and_then(char::from_u32).unwrap_or_default(),
    };
    let mut tokens: Vec<String> = (0..=255).map(byte).map(String::from).collect();
    tokens.push("\u{120}t".into());
    tokens.extend((tokens.len()..count - 1).map(|i| format!("<|{i}|>")));
    tokens.push("<|end|>".into());
    let kind = |i| match i {
        0..=256 => NORMAL,
        _ if i == count - 1 => CONTROL,
        _ => UNUSED,
    };
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let kinds: Vec<i32> = (0..count).map(kind).collect();
    let end = count as u32 - 1;
    writer
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", "gpt-2")
        .set("tokenizer.ggml.tokens", tokens.as_slice())
        .set("tokenizer.ggml.token_type", kinds.as_slice())
        .set("tokenizer.ggml.merges", ["\u{120} t"].as_slice())
        .set("tokenizer.ggml.bos_token_id", end)
        .set("tokenizer.ggml.eos_token_id", end)
        .set("tokenizer.ggml.add_bos_token", false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinfer_load::gguf::Gguf;
    use kinfer_load::tokenizer::{Encode, Tokenizer, VocabSpec};

    fn made(name: &str) -> Gguf {
        let mut file = Vec::new();
        name.parse::<Synthetic>().unwrap().write(&mut file, |_| Ok(())).unwrap();
        Gguf::from_bytes(file).unwrap()
    }

    #[test]
    fn names_round_trip_and_unknown_ones_are_explained() {
        for (text, name) in [("llama-1b:Q4_K_M", "llama-1b:q4_k_m"), ("tiny:f16", "tiny:f16")] {
            assert_eq!(text.parse::<Synthetic>().unwrap().to_string(), name);
        }
        let error = |text: &str| text.parse::<Synthetic>().unwrap_err().to_string();
        assert!(error("llama-1b").contains("SHAPE:QUANT"));
        assert!(error("gpt-5:q4_0").contains("smollm2-135m"), "{}", error("gpt-5:q4_0"));
        assert!(error("tiny:q9").contains("q4_k_m"), "{}", error("tiny:q9"));
    }

    #[test]
    fn mixes_are_the_usual_ones() {
        let mix = Mix::parse("q4_k_m").unwrap();
        let format = |role, cols| mix.format(role, 16, cols);
        assert_eq!(format(Role::Head, 2048), Format::Q6_K);
        assert_eq!(format(Role::Other, 2048), Format::Q4_K);
        // Of 16 layers the first two, the last two, and every third between.
        let more = (0..16).filter(|&i| format(Role::Sensitive(i), 2048) == Format::Q6_K);
        assert_eq!(more.collect::<Vec<_>>(), [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!((format(Role::Other, 576), format(Role::Head, 576)), (Format::Q5_0, Format::Q8_0));
        assert_eq!(Mix::parse("q8_0").unwrap().format(Role::Head, 16, 2048), Format::Q8_0);
    }

    /// Sizes of the models whose shapes these are, in parameters.
    #[test]
    fn shapes_have_as_many_weights_as_their_models() {
        for (shape, parameters) in [
            ("smollm2-135m", 134_515_008u64),
            ("gemma3-270m", 268_098_176),
            ("llama-1b", 1_235_814_400),
            ("llama-8b", 8_030_261_248),
        ] {
            let model: Synthetic = format!("{shape}:f32").parse().unwrap();
            assert_eq!(model.tensor_bytes().unwrap(), 4 * parameters, "{shape}");
        }
    }

    #[test]
    fn files_are_the_same_each_time_and_as_large_as_said() {
        let (a, b) = (made("tiny:q4_k_m"), made("tiny:q4_k_m"));
        let bytes = |gguf: &Gguf| gguf.tensors().map(|t| t.data().to_vec()).collect::<Vec<_>>();
        assert_eq!(bytes(&a), bytes(&b));
        let said = "tiny:q4_k_m".parse::<Synthetic>().unwrap().tensor_bytes().unwrap();
        assert_eq!(bytes(&a).iter().map(|t| t.len() as u64).sum::<u64>(), said);
        assert_ne!(
            a.tensor("blk.0.attn_q.weight").unwrap().data(),
            a.tensor("blk.1.attn_q.weight").unwrap().data()
        );
    }

    #[test]
    fn any_text_can_be_encoded() {
        let gguf = made("tiny:q8_0");
        let spec = VocabSpec::from_metadata(gguf.metadata()).unwrap();
        let tokenizer = Tokenizer::new(&spec).unwrap();
        let text = "a test, 한국어\u{0}\u{7f}";
        let ids = tokenizer.encode(text, Encode::text()).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text.as_bytes());
        assert_eq!(ids.len(), text.len() - 1, "one merge");
    }
}
