//! `tokenizer.json` and its companions as the metadata of a GGUF file.
//!
//! Four kinds of vocabulary are read: byte-level BPE, whose way of splitting text is looked up in the table of
//! pre-tokenizers, SentencePiece BPE, whose scores are the order of its merges, Unigram, and WordPiece.

mod splits;
mod wordpiece;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value as Json};

use super::config::Entries;
use super::unigram::Preparation;
use super::{error, ranks, read_json};
use crate::gguf::{GgufError, Problem, Value};
use crate::tokenizer::pre_tokenizer_of;
use splits::{Split, stages};

const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// How `tokenizer.ggml.token_type` numbers kinds.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

#[derive(Deserialize)]
pub(super) struct Tokenizer {
    #[serde(default)]
    pub added_tokens: Vec<Added>,
    #[serde(default)]
    pub normalizer: Json,
    #[serde(default)]
    pub pre_tokenizer: Json,
    #[serde(default)]
    pub post_processor: Json,
    /// The name of the pre-tokenizer, if there is one, where it is known without a pattern.
    #[serde(skip)]
    pub pre: Option<Option<&'static str>>,
    pub model: Model,
}

#[derive(Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

impl Added {
    pub fn new(id: u32, content: String, special: bool) -> Added {
        Added { id, content, single_word: false, lstrip: false, rstrip: false, special }
    }
}

#[derive(Deserialize)]
pub(super) struct Model {
    // Absent in files of the first versions, which had BPE only.
    #[serde(rename = "type", default = "bpe")]
    kind: String,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocab,
    #[serde(default)]
    merges: Vec<Merge>,
}

impl Model {
    /// Byte-level BPE that takes a piece whole where it is a token.
    pub fn bytes(vocab: Vocab, merges: Vec<Merge>) -> Model {
        Model {
            kind: bpe(),
            unk_token: None,
            unk_id: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            byte_fallback: false,
            ignore_merges: true,
            vocab,
            merges,
        }
    }
}

fn bpe() -> String {
    "BPE".into()
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Vocab {
    Ids(HashMap<String, u32>),
    Scored(Vec<(String, f64)>),
    Other(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Pair([String; 2]),
    Line(String),
}

impl Merge {
    fn halves(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Pair([left, right]) => Some((left, right)),
            Merge::Line(line) => line.split_once(' '),
        }
    }
}

/// Adds the tokenizer, the chat template and the sampling defaults of a folder to `entries`; a folder without a tokenizer
/// gives none. `rows` is how many tokens the model computes.
pub(super) fn read(folder: &Path, rows: usize, entries: &mut Entries) -> Result<(), GgufError> {
    let mut config = read_json(folder, CONFIG)?.unwrap_or_default();
    let generation = read_json(folder, "generation_config.json")?.unwrap_or_default();
    sampling(&generation, entries);
    template(folder, &config, entries)?;
    let path = folder.join(FILE);
    let bytes = match super::read_file(&path)? {
        Some(bytes) => bytes,
        None if let Some((file, tokenizer)) = ranks::read(folder, &mut config)? => {
            let made = tokenizer.entries(&config, &generation, rows, entries);
            return made.map_err(|problem| error(&folder.join(file), problem));
        }
        None if folder.join("tokenizer.model").is_file() => {
            let hint = "of tokenizer.model, transformers makes one: AutoTokenizer.from_pretrained(F).save_pretrained(F)";
            return Err(error(folder, Problem::MissingFile { file: FILE, hint }));
        }
        None => return Ok(()),
    };
    let fail = |problem| error(&path, problem);
    let json: Tokenizer =
        serde_json::from_slice(&bytes).map_err(|e| fail(Problem::Json { reason: e.to_string() }))?;
    json.entries(&config, &generation, rows, entries).map_err(fail)
}

impl Tokenizer {
    fn entries(
        &self,
        config: &Map<String, Json>,
        generation: &Map<String, Json>,
        rows: usize,
        entries: &mut Entries,
    ) -> Result<(), Problem> {
        let model = &self.model;
        if model.kind == "WordPiece" {
            return self.wordpiece(config, rows, entries);
        }
        let of_scored: HashMap<String, u32>;
        let ids = match (model.kind.as_str(), &model.vocab) {
            ("BPE", Vocab::Ids(ids)) => ids,
            ("Unigram", Vocab::Scored(pieces)) => {
                of_scored = (0..).zip(pieces).map(|(id, (piece, _))| (piece.clone(), id)).collect();
                if of_scored.len() != pieces.len() {
                    return Err(unknown("model.vocab", &Json::from("a list with a piece in two places")));
                }
                &of_scored
            }
            ("BPE", _) => return Err(unknown("model.vocab", &Json::from("no object of ids"))),
            ("Unigram", _) => {
                return Err(unknown("model.vocab", &Json::from("no list of pieces with scores")));
            }
            (kind, _) => {
                let hint = "; BPE, Unigram and WordPiece are followed";
                return Err(Problem::Tokenizer { part: "model.type", got: kind.into(), hint });
            }
        };
        for (part, affix) in [
            ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
            ("model.end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            if let Some(affix) = affix.as_ref().filter(|a| !a.is_empty()) {
                return Err(unknown(part, &Json::from(affix.as_str())));
            }
        }
        // Ids that the model has no row for cannot be used: Gemma 3's text models have such a one.
        let added = || self.added_tokens.iter().filter(|t| rows == 0 || (t.id as usize) < rows);
        let last = ids.values().copied().chain(added().map(|t| t.id)).max().unwrap_or(0) as usize;
        if last >= MAX_IDS {
            let (what, got, limit) = ("ids of tokens", last as u64, MAX_IDS as u64);
            return Err(Problem::TooMany { what, got, limit });
        }
        let count = rows.min(MAX_IDS).max(last + 1);
        let fill: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
        let mut tokens: Vec<&str> = fill.iter().map(String::as_str).collect();
        let mut types = vec![UNUSED; count];
        for (text, &id) in ids {
            (tokens[id as usize], types[id as usize]) = (text, NORMAL);
        }
        for token in added() {
            if token.single_word {
                let got = format!("`{}` with single_word", token.content);
                return Err(Problem::Tokenizer { part: "added_tokens", got, hint: "" });
            }
            let kind = if token.special { CONTROL } else { USER_DEFINED };
            (tokens[token.id as usize], types[token.id as usize]) = (&token.content, kind);
        }
        let (mut whitespace_split, mut composed) = (false, false);
        let mut set = |key: &str, value: Value| entries.push((format!("tokenizer.ggml.{key}"), value));
        let scored = match &model.vocab {
            Vocab::Scored(pieces) => Some(pieces),
            _ => None,
        };
        match (stages(&self.pre_tokenizer, &model.merges)?, scored) {
            (Split::ByteLevel(_), Some(_)) => return Err(unknown("pre_tokenizer", &self.pre_tokenizer)),
            (Split::None, Some(pieces)) => {
                set("model", "t5".into());
                let unigram = Preparation::read(&self.normalizer, &self.pre_tokenizer)?;
                if let Some(charsmap) = unigram.charsmap {
                    set("precompiled_charsmap", charsmap.as_slice().into());
                }
                set("add_space_prefix", unigram.prefix.into());
                set("remove_extra_whitespaces", true.into());
                if unigram.split {
                    // A piece with a space behind its beginning is never within a word.
                    for (piece, &id) in ids {
                        if piece.chars().skip(1).any(|c| c == '▁') && types[id as usize] == NORMAL {
                            types[id as usize] = UNUSED;
                        }
                    }
                }
                let mut scores: Vec<f32> = pieces.iter().map(|(_, score)| *score as f32).collect();
                scores.resize(count, 0.0);
                set("scores", scores.as_slice().into());
                let unk = model.unk_id.filter(|&id| (id as usize) < pieces.len());
                let unk = unk.ok_or_else(|| unknown("model.unk_id", &Json::from(model.unk_id)))?;
                types[unk as usize] = UNKNOWN;
                set("unknown_token_id", unk.into());
                if model.byte_fallback {
                    mark_bytes(ids, &mut types);
                }
                whitespace_split = unigram.whitespace;
            }
            (Split::ByteLevel(stages), None) => {
                if model.byte_fallback {
                    return Err(unknown("model.byte_fallback", &Json::from(true)));
                }
                set("model", "gpt2".into());
                let nfc = self.is_nfc()?;
                let of = |nfc| pre_tokenizer_of(&stages, model.ignore_merges, nfc);
                // A key of kinfer's own asks for the normal form where none of that name does.
                let found = of(nfc).map(|name| (name, false));
                let found = || found.or_else(|| Some((of(false).filter(|_| nfc)?, true)));
                // Where none splits so, `--pre` can say which comes near enough.
                if let Some((name, own)) = self.pre.map_or_else(found, |name| Some((name?, false))) {
                    set("pre", name.into());
                    composed = own;
                }
                let lines: Option<Vec<String>> =
                    model.merges.iter().map(|m| m.halves().map(|(l, r)| format!("{l} {r}"))).collect();
                let lines =
                    lines.ok_or_else(|| unknown("model.merges", &Json::from("one without a space")))?;
                set("merges", lines.iter().map(String::as_str).collect::<Vec<_>>().as_slice().into());
            }
            (Split::None, None) => {
                if !model.byte_fallback {
                    return Err(unknown("model.byte_fallback", &Json::from(false)));
                }
                set("model", "llama".into());
                set("add_space_prefix", self.adds_space()?.into());
                set("scores", scores(ids, &tokens, &types, &model.merges)?.as_slice().into());
                mark_bytes(ids, &mut types);
                if let Some(&id) = model.unk_token.as_ref().and_then(|unk| ids.get(unk)) {
                    types[id as usize] = UNKNOWN;
                    set("unknown_token_id", id.into());
                }
            }
        }
        set("tokens", tokens.as_slice().into());
        set("token_type", types.as_slice().into());
        let special = |key: &str| {
            let token = config.get(key)?;
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            tokens.iter().position(|t| *t == text).map(|id| id as u32)
        };
        // Encoders' tokenizers may have BERT's names for what comes before a text.
        let (bos, eos) = (special("bos_token").or_else(|| special("cls_token")), special("eos_token"));
        // The ids that end a generation, the tokenizer's own first; the file format has names for three of them.
        let ends = match generation.get("eos_token_id") {
            Some(Json::Array(all)) => all.iter().filter_map(Json::as_u64).collect(),
            other => Vec::from_iter(other.and_then(Json::as_u64)),
        };
        let ends = ends.into_iter().filter_map(|id| u32::try_from(id).ok());
        // What is put at a text's end goes by the name of EOS in the file format, also where the configuration names another: Qwen3
        // Embedding's is the one that parts documents, and not the one that ends an answer.
        let (adds_bos, end) = self.frame(config, &tokens, bos, eos)?;
        let mut ends: Vec<u32> = end.into_iter().chain(eos).chain(ends).collect();
        let mut seen = HashSet::new();
        ends.retain(|id| seen.insert(*id));
        for (key, id) in ["eos_token_id", "eot_token_id", "eom_token_id"].iter().zip(&ends) {
            set(key, (*id).into());
        }
        let pad = special("pad_token");
        for (key, id) in [("bos_token_id", bos), ("padding_token_id", pad)] {
            if let Some(id) = id {
                set(key, id.into());
            }
        }
        set("add_bos_token", adds_bos.into());
        set("add_eos_token", end.is_some().into());
        if whitespace_split {
            entries.push(("kinfer.whitespace_split".into(), true.into()));
        }
        if composed {
            entries.push(("kinfer.nfc".into(), true.into()));
        }
        let ids = |of: fn(&Added) -> bool| added().filter(|t| of(t)).map(|t| t.id).collect::<Vec<u32>>();
        for (side, ids) in [("lstrip", ids(|t| t.lstrip)), ("rstrip", ids(|t| t.rstrip))] {
            if !ids.is_empty() {
                entries.push((format!("kinfer.{side}_token_ids"), ids.as_slice().into()));
            }
        }
        Ok(())
    }

    /// Whether the text is brought to normal form C, the only normaliser of byte-level vocabularies that is known.
    fn is_nfc(&self) -> Result<bool, Problem> {
        let mut nfc = false;
        for part in parts(&self.normalizer, "normalizers") {
            match kind(part) {
                "NFC" => nfc = true,
                _ => return Err(unknown("normalizer", part)),
            }
        }
        Ok(nfc)
    }

    /// Whether a SentencePiece vocabulary puts a space before each stretch of text; spaces are written `▁` in any case.
    fn adds_space(&self) -> Result<bool, Problem> {
        let (mut prepends, mut replaces) = (false, false);
        for part in parts(&self.normalizer, "normalizers") {
            let field = |name: &str| part.get(name).and_then(Json::as_str);
            let space = part.pointer("/pattern/String").and_then(Json::as_str) == Some(" ");
            match kind(part) {
                "Prepend" if field("prepend") == Some("▁") && !replaces => prepends = true,
                "Replace" if space && field("content") == Some("▁") => replaces = true,
                _ => return Err(unknown("normalizer", part)),
            }
        }
        for part in parts(&self.pre_tokenizer, "pretokenizers") {
            let space = part.pointer("/pattern/String").and_then(Json::as_str) == Some(" ");
            match (kind(part), part.get("prepend_scheme").and_then(Json::as_str)) {
                // There are no spaces left to split at.
                ("Split", _) if space && replaces => {}
                ("Metaspace", Some("never")) if part.get("split") == Some(&Json::Bool(false)) => {
                    replaces = true
                }
                _ => return Err(unknown("pre_tokenizer", part)),
            }
        }
        match replaces {
            true => Ok(prepends),
            false => Err(unknown("normalizer", &self.normalizer)),
        }
    }

    /// Whether BOS comes before a text, and which token comes after it.
    fn frame(
        &self,
        config: &Map<String, Json>,
        tokens: &[&str],
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<(bool, Option<u32>), Problem> {
        let flag = |key: &str| config.get(key).and_then(Json::as_bool);
        let mut found = (false, None);
        for part in parts(&self.post_processor, "processors") {
            match kind(part) {
                "ByteLevel" => {}
                "RobertaProcessing" => {
                    let id = |role: &str| part.get(role).and_then(|v| v.get(1)).and_then(Json::as_u64);
                    let is = |id: Option<u64>, token: Option<u32>| id.is_some() && id == token.map(u64::from);
                    if !(is(id("cls"), bos) && is(id("sep"), eos)) || found != (false, None) {
                        return Err(unknown("post_processor", part));
                    }
                    found = (true, eos);
                }
                "TemplateProcessing" => {
                    let mut after = false;
                    for piece in part.get("single").and_then(Json::as_array).into_iter().flatten() {
                        if piece.get("Sequence").is_some() {
                            after = true;
                            continue;
                        }
                        let text = piece.pointer("/SpecialToken/id").and_then(Json::as_str);
                        let id =
                            text.and_then(|t| tokens.iter().position(|other| *other == t)).map(|i| i as u32);
                        match (after, id) {
                            (false, Some(id)) if bos == Some(id) && !found.0 => found.0 = true,
                            (true, Some(id)) if found.1.is_none() => found.1 = Some(id),
                            _ => return Err(unknown("post_processor", part)),
                        }
                    }
                }
                _ => return Err(unknown("post_processor", part)),
            }
        }
        // Tokenizers of these classes follow their configuration instead.
        let class = config.get("tokenizer_class").and_then(Json::as_str).unwrap_or_default();
        if class.starts_with("Llama") || class.starts_with("Gemma") {
            let end = match flag("add_eos_token") {
                Some(adds) => eos.filter(|_| adds),
                None => found.1,
            };
            found = (flag("add_bos_token").unwrap_or(found.0), end);
        }
        Ok(found)
    }
}

/// Makes the tokens of single bytes such.
fn mark_bytes(ids: &HashMap<String, u32>, types: &mut [i32]) {
    for byte in 0..=255u8 {
        if let Some(&id) = ids.get(&format!("<0x{byte:02X}>")) {
            types[id as usize] = BYTE;
        }
    }
}

/// More than twice the largest vocabulary there is.
pub(super) const MAX_IDS: usize = 1 << 20;

/// SentencePiece merges the pair with the best scoring text, BPE the first pair of its list: the same where the list has
/// all pairs of a text together, and the texts by descending score.
fn scores(
    ids: &HashMap<String, u32>,
    tokens: &[&str],
    types: &[i32],
    merges: &[Merge],
) -> Result<Vec<f32>, Problem> {
    let wrong = |got: String| {
        let hint = ": they are none that SentencePiece made; take a GGUF file of this model";
        Problem::Tokenizer { part: "model.merges", got, hint }
    };
    let mut ranks: HashMap<u32, (u32, usize)> = HashMap::new();
    let (mut last, mut text) = (None, String::new());
    for merge in merges {
        let (left, right) = merge.halves().ok_or_else(|| wrong("one without two pieces".into()))?;
        text.clear();
        text.push_str(left);
        text.push_str(right);
        let &id = ids.get(&text).ok_or_else(|| wrong(format!("one of `{text}`, which is no token")))?;
        let next = ranks.len() as u32;
        let entry = ranks.entry(id).or_insert((next, 0));
        if entry.1 > 0 && last != Some(id) {
            return Err(wrong(format!("a list with `{text}` in two places")));
        }
        entry.1 += 1;
        last = Some(id);
    }
    let normal = |piece: &str| ids.get(piece).is_some_and(|&id| types[id as usize] == NORMAL);
    for (id, piece) in tokens.iter().enumerate().filter(|(id, _)| types[*id] == NORMAL) {
        let splits =
            piece.char_indices().skip(1).filter(|&(at, _)| normal(&piece[..at]) && normal(&piece[at..]));
        if splits.count() > ranks.get(&(id as u32)).map_or(0, |r| r.1) {
            return Err(wrong(format!("a list without all pairs of `{piece}`")));
        }
    }
    // What no merge makes is worse than all that is.
    let worst = ranks.len() as f32;
    Ok((0..tokens.len() as u32).map(|id| -ranks.get(&id).map_or(worst, |r| r.0 as f32)).collect())
}

/// The chat template: a file of its own, or a string in the configuration, or the default one of several.
fn template(folder: &Path, config: &Map<String, Json>, entries: &mut Entries) -> Result<(), GgufError> {
    let path = folder.join("chat_template.jinja");
    let text = match super::read_file(&path)? {
        Some(bytes) => Some(String::from_utf8(bytes).map_err(|e| {
            error(
                &path,
                Problem::NotUtf8 { at: "the template".into(), offset: e.utf8_error().valid_up_to() as u64 },
            )
        })?),
        None => match config.get("chat_template") {
            Some(Json::String(text)) => Some(text.clone()),
            Some(Json::Array(all)) => {
                let default = all.iter().find(|t| t.get("name").and_then(Json::as_str) == Some("default"));
                default.and_then(|t| Some(t.get("template")?.as_str()?.to_owned()))
            }
            _ => None,
        },
    };
    if let Some(text) = text {
        entries.push(("tokenizer.chat_template".into(), text.as_str().into()));
    }
    Ok(())
}

/// What generation_config.json asks for, where it samples.
fn sampling(generation: &Map<String, Json>, entries: &mut Entries) {
    if generation.get("do_sample").and_then(Json::as_bool) == Some(false) {
        return;
    }
    for (from, to) in [
        ("temperature", "temp"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("repetition_penalty", "penalty_repeat"),
    ] {
        if let Some(value) = generation.get(from).and_then(Json::as_f64) {
            entries.push((format!("general.sampling.{to}"), (value as f32).into()));
        }
    }
    if let Some(k) = generation.get("top_k").and_then(Json::as_i64).and_then(|k| i32::try_from(k).ok()) {
        entries.push(("general.sampling.top_k".into(), k.into()));
    }
}

/// The parts of a sequence of components, or the one that there is.
pub(super) fn parts<'a>(component: &'a Json, list: &str) -> Vec<&'a Json> {
    match component {
        Json::Null => Vec::new(),
        sequence if kind(sequence) == "Sequence" => {
            sequence.get(list).and_then(Json::as_array).into_iter().flatten().collect()
        }
        one => vec![one],
    }
}

pub(super) fn kind(component: &Json) -> &str {
    component.get("type").and_then(Json::as_str).unwrap_or_default()
}

pub(super) fn unknown(part: &'static str, got: &Json) -> Problem {
    let got: String = got.to_string().chars().take(200).collect();
    Problem::Tokenizer { part, got, hint: "; take a GGUF file of this model" }
}
