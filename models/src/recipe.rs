//! Which tensor gets which format when a model is quantised.

use crate::build::SHORT_CONV;
use crate::source::{Source, Value};
use kinfer_core::{Error, Format, Result};
use std::collections::BTreeMap;

/// A recipe by name, and what the user wants otherwise.
///
/// A recipe has one format for most matrices. Vectors, routers, convolutions and learned positions stay in F32, and other parts of the file, such
/// as an image encoder, as they are. Of the block-quantised recipes:
///
/// - The output head, or the embedding that takes its place, gets Q6_K (in recipes below 8 bits): its errors are the logits'.
/// - The K mixes give more bits to what hurts most. With `n` layers, and "some" meaning the first and the last eighth and
///   every third one between them:
///
/// | recipe | most | `attn_v` | `ffn_down` | `attn_output` | fused q, k, v |
/// |---|---|---|---|---|---|
/// | `q2_k` | Q2_K | Q4_K where 4 query heads or more share it, else Q3_K | Q3_K | Q3_K | |
/// | `q3_k_s` | Q3_K | | | | |
/// | `q3_k_m` | Q3_K | Q5_K in 2 layers, then Q4_K | Q5_K in n/16 layers, then Q4_K | Q4_K | Q4_K |
/// | `q3_k_l` | Q3_K | Q5_K | Q5_K | Q5_K | Q4_K |
/// | `q4_k_s` | Q4_K | Q5_K in 4 layers | Q5_K in n/8 layers | | |
/// | `q4_k_m` | Q4_K | Q6_K in some | Q6_K in some | | Q5_K |
/// | `q5_k_s` | Q5_K | | | | |
/// | `q5_k_m` | Q5_K | Q6_K in some | Q6_K in some | | Q6_K |
/// | `iq4_nl`, `iq4_xs` | themselves | Q5_K where 4 query heads or more share it | Q5_K in n/8 layers | | |
///
/// - Where 8 experts or more share the attention, its keys and values get Q8_0 in the K mixes: they are a small part.
/// - Rows that are no multiple of 256 cannot have a format with blocks of 256. In the K mixes such a matrix gets the next
///   better format with blocks of 32, which [`Targets::replaced`] tells; a format that the user names is an error then.
#[derive(Clone, Debug)]
pub struct Recipe {
    name: &'static str,
    base: Format,
    overrides: Vec<(String, Format)>,
}

/// Name, format of most matrices, `general.file_type`.
const RECIPES: &[(&str, Format, u32)] = &[
    ("f32", Format::F32, 0),
    ("f16", Format::F16, 1),
    ("bf16", Format::BF16, 32),
    ("q4_0", Format::Q4_0, 2),
    ("q4_1", Format::Q4_1, 3),
    ("q5_0", Format::Q5_0, 8),
    ("q5_1", Format::Q5_1, 9),
    ("q8_0", Format::Q8_0, 7),
    ("q2_k", Format::Q2_K, 10),
    ("q3_k_s", Format::Q3_K, 11),
    ("q3_k_m", Format::Q3_K, 12),
    ("q3_k_l", Format::Q3_K, 13),
    ("q4_k_s", Format::Q4_K, 14),
    ("q4_k_m", Format::Q4_K, 15),
    ("q5_k_s", Format::Q5_K, 16),
    ("q5_k_m", Format::Q5_K, 17),
    ("q6_k", Format::Q6_K, 18),
    ("iq4_nl", Format::IQ4_NL, 25),
    ("iq4_xs", Format::IQ4_XS, 30),
    ("mxfp4", Format::MXFP4, 38),
];

/// The format of each tensor.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// By the source's names.
    pub formats: BTreeMap<String, Format>,
    /// How many matrices have another format than the recipe's, because of the length of their rows: what it wanted, and what
    /// they get.
    pub replaced: BTreeMap<(&'static str, &'static str), usize>,
    /// Patterns that fit no tensor.
    pub unmatched: Vec<String>,
}

impl Recipe {
    /// The names that there are.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RECIPES.iter().map(|r| r.0)
    }

    /// The recipe called `name`, in any case.
    ///
    /// # Errors
    /// [`Error::Unsupported`], which lists the names.
    pub fn parse(name: &str) -> Result<Recipe> {
        let found = RECIPES.iter().find(|r| r.0.eq_ignore_ascii_case(name));
        let &(name, base, _) = found.ok_or_else(|| Error::Unsupported {
            what: format!("quantising to `{name}`"),
            supported: Recipe::names().collect::<Vec<_>>().join(", "),
        })?;
        Ok(Recipe { name, base, overrides: Vec::new() })
    }

    /// Gives `format` to the matrices whose names match `pattern`, in which `*` stands for any text; of several patterns
    /// that match, the last counts.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a format that values cannot be stored in.
    pub fn with(mut self, pattern: &str, format: &str) -> Result<Recipe> {
        let encodable = || Format::all().filter(|f| f.can_encode());
        let found = encodable().find(|f| f.name().eq_ignore_ascii_case(format));
        let found = found.ok_or_else(|| Error::Unsupported {
            what: format!("storing tensors in `{format}`"),
            supported: encodable().map(Format::name).collect::<Vec<_>>().join(", "),
        })?;
        self.overrides.push((pattern.into(), found));
        Ok(self)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What model files number it by, `general.file_type`.
    pub fn file_type(&self) -> u32 {
        RECIPES.iter().find(|r| r.0 == self.name).map_or(0, |r| r.2)
    }

    /// The format of each tensor of `source`.
    ///
    /// # Errors
    /// [`Error::Shape`] where rows are no multiple of the block of a format that was asked for.
    pub fn targets(&self, source: &dyn Source) -> Result<Targets> {
        let facts = Facts::of(source);
        let mut targets = Targets::default();
        for name in source.tensors() {
            let Some(tensor) = source.tensor(name)? else { continue };
            let kind = Kind::of(name);
            if tensor.shape.len() < 2 || kind == Kind::Foreign {
                let kept = tensor.format.quant().is_some() || kind == Kind::Foreign;
                targets.formats.insert(name.into(), if kept { tensor.format } else { Format::F32 });
                continue;
            }
            let row = tensor.shape[tensor.shape.len() - 1];
            let fits = |format: Format| row.is_multiple_of(format.block_len());
            let chosen = self.overrides.iter().rev().find(|(pattern, _)| matches(pattern, name));
            if let Some((_, format)) = chosen {
                if !fits(*format) {
                    return Err(misfit(name, row, *format));
                }
                targets.formats.insert(name.into(), *format);
                continue;
            }
            let wanted = if kind == Kind::Matrix { self.format(name, &facts) } else { Format::F32 };
            let format = match fits(wanted) {
                true => wanted,
                false => shorter(wanted).filter(|f| fits(*f)).ok_or_else(|| misfit(name, row, wanted))?,
            };
            if format != wanted {
                *targets.replaced.entry((wanted.name(), format.name())).or_default() += 1;
            }
            targets.formats.insert(name.into(), format);
        }
        // A pattern may also lose all it fits to a later one.
        let fits_none = |pattern: &String| !targets.formats.keys().any(|name| matches(pattern, name));
        targets.unmatched = self.overrides.iter().map(|(p, _)| p.clone()).filter(fits_none).collect();
        Ok(targets)
    }

    fn format(&self, name: &str, facts: &Facts) -> Format {
        use Format::*;
        let base = self.base;
        if base.quant().is_none() || base == MXFP4 && facts.experts == 0 {
            return base;
        }
        if name == "output.weight" || facts.tied && name == "token_embd.weight" {
            return if matches!(base, Q8_0 | MXFP4) { Q8_0 } else { Q6_K };
        }
        let mut parts = name.strip_prefix("blk.").unwrap_or_default().split('.');
        let (layer, part) = (parts.next().and_then(|i| i.parse().ok()), parts.next().unwrap_or_default());
        let (Some(i), n): (Option<usize>, usize) = (layer, facts.layers) else { return base };
        let some = i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
        let (early, shared) = (i < n / 8, facts.sharing >= 4);
        let mixed = self.name.contains("_k") || self.name.starts_with("iq4");
        match (part, self.name) {
            ("attn_k" | "attn_v", _) if mixed && facts.experts >= 8 => Q8_0,
            ("attn_v", "q2_k") => {
                if shared {
                    Q4_K
                } else {
                    Q3_K
                }
            }
            ("attn_v", "q3_k_m") => {
                if i < 2 {
                    Q5_K
                } else {
                    Q4_K
                }
            }
            ("attn_v", "q4_k_s") if i < 4 => Q5_K,
            ("attn_v", "iq4_nl" | "iq4_xs") if shared => Q5_K,
            ("attn_v" | "attn_output", "q3_k_l") => Q5_K,
            ("attn_v", "q4_k_m" | "q5_k_m") if some => Q6_K,
            ("ffn_down" | "ffn_down_exps", recipe) => match recipe {
                "q2_k" => Q3_K,
                "q3_k_m" => {
                    if i < n / 16 {
                        Q5_K
                    } else {
                        Q4_K
                    }
                }
                "q3_k_l" => Q5_K,
                "q4_k_s" | "iq4_nl" | "iq4_xs" if early => Q5_K,
                "q4_k_m" | "q5_k_m" if some => Q6_K,
                _ => base,
            },
            ("attn_output", "q2_k") => Q3_K,
            ("attn_output", "q3_k_m") => Q4_K,
            ("attn_qkv", "q3_k_m" | "q3_k_l") => Q4_K,
            ("attn_qkv", "q4_k_m") => Q5_K,
            ("attn_qkv", "q5_k_m") => Q6_K,
            _ => base,
        }
    }
}

/// What the rules ask about a model.
struct Facts {
    layers: usize,
    /// Query heads to a key and value head.
    sharing: usize,
    experts: usize,
    tied: bool,
}

impl Facts {
    fn of(source: &dyn Source) -> Facts {
        let arch = match source.value("general.architecture") {
            Some(Value::Str(arch)) => arch,
            _ => "",
        };
        let count = |key: &str| match source.value(&format!("{arch}.{key}")) {
            Some(Value::Int(n)) => usize::try_from(n).unwrap_or(0),
            // A layer that is no attention has 0 of them.
            Some(Value::Ints(all)) => all.iter().max().and_then(|&n| usize::try_from(n).ok()).unwrap_or(0),
            _ => 0,
        };
        let (heads, kv) = (count("attention.head_count"), count("attention.head_count_kv"));
        Facts {
            layers: count("block_count"),
            sharing: heads.checked_div(kv).unwrap_or(1),
            experts: count("expert_count"),
            tied: !source.tensors().contains(&"output.weight"),
        }
    }
}

/// What a tensor is to a recipe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its products are what a model spends its time on.
    Matrix,
    /// Small, and felt everywhere: norms, routers, convolutions, what rules the states of delta nets, learned positions.
    Sensitive,
    /// Of another part of the file, such as an image encoder: it stays as it is.
    Foreign,
}

impl Kind {
    fn of(name: &str) -> Kind {
        let own = ["blk.", "token_embd", "output", "position_embd", "rope_f"];
        let sensitive = name.contains("norm")
            || name.contains("ffn_gate_inp")
            || name.contains(SHORT_CONV)
            || name.contains(".ssm_") && !name.contains("ssm_out")
            || name.starts_with("position_embd");
        match own.iter().any(|start| name.starts_with(start)) {
            false => Kind::Foreign,
            true if sensitive || !name.ends_with(".weight") => Kind::Sensitive,
            true => Kind::Matrix,
        }
    }
}

/// The next better format with blocks of 32, for rows that are no multiple of 256.
fn shorter(format: Format) -> Option<Format> {
    Some(match format {
        Format::Q2_K | Format::Q3_K => Format::Q4_0,
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        Format::IQ4_XS => Format::IQ4_NL,
        _ => return None,
    })
}

fn misfit(name: &str, row: usize, format: Format) -> Error {
    Error::Shape {
        name: name.into(),
        expected: format!("rows of a multiple of {} elements, the block of {format}", format.block_len()),
        got: format!("rows of {row}; choose another format for it with --tensor {name}=TYPE"),
    }
}

/// Whether all of `name` is `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, rest)) => name.strip_prefix(before).is_some_and(|name| {
            let starts = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            starts.into_iter().any(|at| matches(rest, &name[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, fits) in [
            ("blk.*.attn_v.weight", true),
            ("*", true),
            ("*attn_v*", true),
            ("blk.1.attn_v.weight", false),
            ("attn_v", false),
            ("blk.*.attn_v", false),
        ] {
            assert_eq!(matches(pattern, "blk.11.attn_v.weight"), fits, "{pattern}");
        }
    }

    #[test]
    fn mixes_give_more_bits_to_some_layers() {
        let facts = Facts { layers: 24, sharing: 8, experts: 0, tied: true };
        let of = |recipe: &str, name: &str| Recipe::parse(recipe).unwrap().format(name, &facts);
        let some: Vec<usize> =
            (0..24).filter(|i| of("Q4_K_M", &format!("blk.{i}.ffn_down.weight")) == Format::Q6_K).collect();
        assert_eq!(some, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
        assert_eq!(of("q4_k_m", "blk.3.attn_v.weight"), Format::Q4_K);
        assert_eq!(of("q2_k", "blk.3.attn_v.weight"), Format::Q4_K);
        assert_eq!(of("q4_k_m", "token_embd.weight"), Format::Q6_K);
        assert_eq!(of("q4_k_m", "blk.3.ffn_up.weight"), Format::Q4_K);
        assert_eq!(of("q8_0", "token_embd.weight"), Format::Q8_0);
        assert_eq!(of("f16", "token_embd.weight"), Format::F16);
        let error = Recipe::parse("q4_k_x").unwrap_err().to_string();
        assert!(error.contains("q4_k_x") && error.contains("q4_k_m"), "{error}");
    }
}
