//! Which of a repository's GGUF files a quantization name means.

use std::fmt;

use super::reference::is_gguf;

/// The quantization taken when none is named: the usual trade of size against quality.
pub const DEFAULT_QUANT: &str = "Q4_K_M";

/// One model that a repository offers: a GGUF file, all parts of a split one, or safetensors and what belongs to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The quantization as the file name states it, in upper case (`Q4_K_M`, `UD-Q4_K_XL`); none of safetensors.
    pub quant: Option<String>,
    /// Paths inside the repository, in part order.
    pub files: Vec<String>,
    /// Size of all parts together, in bytes.
    pub size: u64,
    /// How many parts the file names promise; more than `files.len()` when some are missing.
    pub parts: usize,
}

impl Choice {
    /// Whether every part is there.
    pub fn is_complete(&self) -> bool {
        self.files.len() == self.parts
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quant = self.quant.as_deref().unwrap_or("-");
        let file = self.files.first().map_or("", String::as_str);
        write!(f, "{quant:<10} {:>9}  {file}", human_size(self.size))?;
        if self.parts > 1 {
            write!(f, " ({} of {} parts)", self.files.len(), self.parts)?;
        }
        Ok(())
    }
}

/// Bytes in the decimal units that the hub shows.
pub fn human_size(bytes: u64) -> String {
    let b = bytes as f64;
    match bytes {
        1_000_000_000.. => format!("{:.2} GB", b / 1e9),
        1_000_000.. => format!("{:.1} MB", b / 1e6),
        1_000.. => format!("{:.1} kB", b / 1e3),
        _ => format!("{bytes} B"),
    }
}

/// Why no choice, or more than one, was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPick {
    /// There is no model file at all.
    Empty,
    /// No file states the quantization that was asked for.
    NoMatch,
    /// Several files would do.
    Ambiguous,
}

/// Groups a repository's files into models; leaves out what is not one: vision projectors (`mmproj`), and importance
/// matrices. A repository without GGUF files may be one model in transformers' format.
pub fn choices<'a>(files: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<Choice> {
    let all: Vec<_> = files.into_iter().collect();
    let mut files: Vec<_> = all.iter().copied().filter(|(path, _)| is_model(path)).collect();
    files.sort_unstable();
    let mut found: Vec<(&str, Choice)> = Vec::new();
    for (path, size) in files {
        let split = split_part(path);
        let key = split.map_or(path, |s| s.prefix);
        let parts = split.map_or(1, |s| s.count);
        match found.iter_mut().find(|(k, c)| *k == key && c.parts == parts && split.is_some()) {
            Some((_, choice)) => {
                choice.files.push(path.to_owned());
                choice.size += size;
            }
            None => {
                let choice = Choice { quant: quant_label(path), files: vec![path.to_owned()], size, parts };
                found.push((key, choice));
            }
        }
    }
    if found.is_empty() {
        return folder(&all).into_iter().collect();
    }
    found.into_iter().map(|(_, choice)| choice).collect()
}

/// The files of a model in transformers' format at a repository's root: its weights first, all parts or the whole.
fn folder(files: &[(&str, u64)]) -> Option<Choice> {
    /// What a tokenizer is read from, the first that there is.
    const TOKENIZERS: [&str; 3] = ["tokenizer.json", "tekken.json", "tiktoken.model"];
    const COMPANIONS: [&str; 11] = [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "3_Dense/config.json",
        "3_Dense/model.safetensors",
    ];
    let parts = |path: &str| {
        let rest = path.strip_prefix("model")?.strip_suffix(".safetensors")?;
        match rest.is_empty() {
            true => Some(1),
            false => rest.strip_prefix('-')?.split_once("-of-")?.1.parse::<usize>().ok(),
        }
    };
    let mut weights: Vec<_> = files.iter().filter(|(path, _)| parts(path).is_some()).collect();
    weights.sort_unstable();
    let whole = weights.iter().any(|(path, _)| parts(path) == Some(1));
    let expected = weights.first().and_then(|(path, _)| parts(path))?;
    if whole {
        // Some repositories have both.
        weights.retain(|(path, _)| parts(path) == Some(1));
    }
    let find = |name: &&str| files.iter().find(|(path, _)| path == name);
    let (config, tokenizer) = (find(&"config.json"), TOKENIZERS.iter().find_map(find));
    let missing = usize::from(config.is_none()) + usize::from(tokenizer.is_none());
    let companions: Vec<_> = COMPANIONS.iter().filter_map(find).chain(tokenizer).collect();
    let parts = if whole { 1 } else { expected } + companions.len() + missing;
    let all = || weights.iter().chain(&companions);
    Some(Choice {
        quant: None,
        files: all().map(|(path, _)| (*path).to_owned()).collect(),
        size: all().map(|(_, size)| size).sum(),
        parts,
    })
}

/// Picks by quantization name, without regard to case; without a name [`DEFAULT_QUANT`], else the
/// only choice there is. A dynamic quantization (`UD-Q4_K_M`) answers to its plain name where no
/// file has exactly that.
///
/// # Errors
/// [`NoPick`] when nothing, or more than one thing, fits.
pub fn pick<'a>(choices: &'a [Choice], quant: Option<&str>) -> Result<&'a Choice, NoPick> {
    if choices.is_empty() {
        return Err(NoPick::Empty);
    }
    match by_quant(choices, quant.unwrap_or(DEFAULT_QUANT)) {
        Err(NoPick::NoMatch) if quant.is_none() => match choices {
            [only] => Ok(only),
            _ => Err(NoPick::Ambiguous),
        },
        other => other,
    }
}

fn by_quant<'a>(choices: &'a [Choice], quant: &str) -> Result<&'a Choice, NoPick> {
    let dynamic = format!("UD-{quant}");
    for name in [quant, &dynamic] {
        let mut hits =
            choices.iter().filter(|c| c.quant.as_deref().is_some_and(|q| q.eq_ignore_ascii_case(name)));
        if let Some(first) = hits.next() {
            return if hits.next().is_none() { Ok(first) } else { Err(NoPick::Ambiguous) };
        }
    }
    Err(NoPick::NoMatch)
}

/// A file name of the form `PREFIX-00002-of-00005.gguf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitPart<'a> {
    pub prefix: &'a str,
    /// From 1.
    pub index: usize,
    pub count: usize,
}

/// Reads the part number that llama.cpp's split writes into a file name.
pub(crate) fn split_part(path: &str) -> Option<SplitPart<'_>> {
    let stem = if is_gguf(path) { &path[..path.len() - 5] } else { return None };
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, index) = rest.rsplit_once('-')?;
    let number = |s: &str| -> Option<usize> {
        (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten()
    };
    let (index, count) = (number(index)?, number(count)?);
    (1..=count).contains(&index).then_some(SplitPart { prefix, index, count })
}

fn is_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    // A model quantized *with* an importance matrix may say so in its name; the matrix itself
    // names no quantization.
    let matrix = name.contains("imatrix") && quant_label(&name).is_none();
    is_gguf(path) && !name.contains("mmproj") && !matrix
}

/// The quantization that a file name states: the last piece between `-`, `.` or a leading `_` that
/// has the shape of one.
fn quant_label(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem =
        split_part(name).map_or_else(|| name.get(..name.len().saturating_sub(5)), |s| Some(s.prefix))?;
    let pieces: Vec<&str> = stem.split(['-', '.', ' ']).collect();
    pieces.iter().enumerate().rev().find_map(|(i, piece)| {
        let starts = std::iter::once(0).chain(piece.match_indices('_').map(|(at, _)| at + 1));
        let quant = starts.map(|at| &piece[at..]).find(|tail| is_quant(tail))?.to_ascii_uppercase();
        let dynamic = i > 0 && pieces[i - 1].eq_ignore_ascii_case("UD");
        Some(if dynamic { format!("UD-{quant}") } else { quant })
    })
}

/// `F16`, `BF16`, `MXFP4`, or `[I|T]Q`, a digit, and groups of `_` and letters or digits.
fn is_quant(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    if ["F16", "BF16", "F32", "FP16", "FP32", "MXFP4", "MXFP4_MOE", "NVFP4"].contains(&text.as_str()) {
        return true;
    }
    let rest = text.strip_prefix(['I', 'T']).unwrap_or(&text);
    let Some(rest) = rest.strip_prefix('Q') else { return false };
    let mut groups = rest.split('_');
    let bits = groups.next().unwrap_or("");
    bits.len() == 1
        && bits.bytes().all(|b| b.is_ascii_digit())
        && groups.all(|g| (1..=3).contains(&g.len()) && g.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantizations_as_repositories_write_them() {
        let cases = [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("Q4_1")),
            ("gemma-3-270m-q4_k_m.gguf", Some("Q4_K_M")),
            ("Qwen3-4B-UD-Q4_K_XL.gguf", Some("UD-Q4_K_XL")),
            ("Q8_0/model-Q8_0-00001-of-00003.gguf", Some("Q8_0")),
            ("model_Q5_K_S.gguf", Some("Q5_K_S")),
            ("ggml-model-f16.gguf", Some("F16")),
            ("gpt-oss-20b-mxfp4.gguf", Some("MXFP4")),
            ("model.i1-IQ4_XS.gguf", Some("IQ4_XS")),
            ("bitnet-TQ2_0.gguf", Some("TQ2_0")),
            ("model-Q4_0_4_8.gguf", Some("Q4_0_4_8")),
            ("model-Q4_K_M-imat.gguf", Some("Q4_K_M")),
            ("llama-3.2-1b.gguf", None),
            ("Q-instruct.gguf", None),
        ];
        for (name, want) in cases {
            assert_eq!(quant_label(name).as_deref(), want, "{name}");
        }
    }

    #[test]
    fn leaves_out_what_is_no_model() {
        let files =
            ["README.md", "mmproj-model-f16.gguf", "m.imatrix.gguf", "m-imatrix-Q4_0.gguf", "m-Q8_0.gguf"];
        let found = choices(files.map(|f| (f, 1)));
        let names: Vec<_> = found.iter().map(|c| c.files[0].as_str()).collect();
        assert_eq!(names, ["m-Q8_0.gguf", "m-imatrix-Q4_0.gguf"]);
    }

    #[test]
    fn parts_are_one_choice_in_order() {
        let found = choices([
            ("q/m-Q8_0-00002-of-00003.gguf", 2),
            ("q/m-Q8_0-00001-of-00003.gguf", 1),
            ("q/m-Q8_0-00003-of-00003.gguf", 4),
            ("m-Q4_0-00001-of-00002.gguf", 9),
        ]);
        assert_eq!(found.len(), 2);
        let whole = found.iter().find(|c| c.quant.as_deref() == Some("Q8_0")).unwrap();
        assert_eq!((whole.size, whole.parts, whole.is_complete()), (7, 3, true));
        assert!(whole.files.is_sorted());
        assert!(!found.iter().find(|c| c.quant.as_deref() == Some("Q4_0")).unwrap().is_complete());
    }

    #[test]
    fn picks_by_the_rules() {
        let all = choices([("m-Q4_K_M.gguf", 1), ("m-Q8_0.gguf", 2), ("m-UD-Q2_K_XL.gguf", 3)]);
        let quant = |q| pick(&all, q).map(|c| c.quant.clone().unwrap());
        assert_eq!(quant(None).unwrap(), "Q4_K_M");
        assert_eq!(quant(Some("q8_0")).unwrap(), "Q8_0");
        assert_eq!(quant(Some("q2_k_xl")).unwrap(), "UD-Q2_K_XL");
        assert_eq!(quant(Some("Q6_K")), Err(NoPick::NoMatch));

        let only = choices([("m-Q8_0.gguf", 2)]);
        assert_eq!(pick(&only, None).unwrap().quant.as_deref(), Some("Q8_0"));
        let two = choices([("m-Q8_0.gguf", 2), ("m-F16.gguf", 2)]);
        assert_eq!(pick(&two, None), Err(NoPick::Ambiguous));
        let twice = choices([("a-Q4_K_M.gguf", 2), ("b-Q4_K_M.gguf", 2)]);
        assert_eq!(pick(&twice, None), Err(NoPick::Ambiguous));
        assert_eq!(pick(&twice, Some("q4_k_m")), Err(NoPick::Ambiguous));
        assert_eq!(pick(&[], None), Err(NoPick::Empty));
    }

    #[test]
    fn a_repository_of_safetensors_is_one_model() {
        let shard = |i| format!("model-0000{i}-of-00002.safetensors");
        let (first, second) = (shard(1), shard(2));
        let names =
            ["config.json", "README.md", &second, "tokenizer.json", &first, "original/model.safetensors"];
        let found = choices(names.map(|n| (n, 1)));
        assert_eq!(found[0].files, [&first, &second, "config.json", "tokenizer.json"]);
        assert!(found.len() == 1 && found[0].is_complete());
        assert!(!choices(names[..4].iter().map(|&n| (n, 1)))[0].is_complete(), "a part is missing");
        let without = choices([("config.json", 1), ("model.safetensors", 1)]);
        assert!(!without[0].is_complete(), "there is no tokenizer");
        let ranks = choices(["config.json", "model.safetensors", "tiktoken.model"].map(|n| (n, 1)));
        assert!(ranks[0].is_complete() && ranks[0].files.iter().any(|f| f == "tiktoken.model"));
        assert_eq!(choices([("m-Q8_0.gguf", 1), ("config.json", 1), ("model.safetensors", 9)])[0].size, 1);
        assert!(choices([("config.json", 1), ("pytorch_model.bin", 1)]).is_empty());
    }

    #[test]
    fn part_numbers_must_make_sense() {
        assert_eq!(split_part("m-00000-of-00002.gguf"), None);
        assert_eq!(split_part("m-00003-of-00002.gguf"), None);
        assert_eq!(split_part("m-1-of-2.gguf"), None);
        assert_eq!(
            split_part("m-00001-of-00002.gguf").map(|s| (s.prefix, s.index, s.count)),
            Some(("m", 1, 2))
        );
    }
}
