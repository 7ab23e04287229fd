//! Byte-level vocabularies as lists of ranks: Mistral's `tekken.json`, and tiktoken's lines of `BASE64 RANK`.
//!
//! They are turned into what tokenizer.json would have. A rank is the place of the merge that makes a token; which two halves it
//! joins is found by merging the token's bytes with the tokens before it.

use std::path::Path;

use base64::Engine;
use hashbrown::HashMap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value as Json, json};

use super::vocab::{Added, Merge, Model, Tokenizer, Vocab};
use super::{error, read_file};
use crate::gguf::{GgufError, Problem};
use crate::tokenizer::in_alphabet;

const TEKKEN: &str = "tekken.json";
/// What files of tiktoken's lines are called: Moonlight's and Llama 3's.
const TIKTOKEN: [&str; 2] = ["tiktoken.model", "tokenizer.model"];
/// The first control tokens of vocabularies that have no list of them.
const TEKKEN_CONTROL: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

#[derive(Deserialize)]
struct Tekken {
    config: TekkenConfig,
    vocab: Vec<TekkenToken>,
    #[serde(default)]
    special_tokens: Option<Vec<TekkenSpecial>>,
    // Of models that see or hear; what these add are tensors, which are refused by name.
    #[serde(default, rename = "image")]
    _image: IgnoredAny,
    #[serde(default, rename = "audio")]
    _audio: IgnoredAny,
}

#[derive(Deserialize)]
struct TekkenConfig {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct TekkenToken {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct TekkenSpecial {
    rank: usize,
    token_str: String,
    is_control: bool,
}

/// The tokenizer of a folder without tokenizer.json; `None` where it has none of these files either. What `config`
/// (tokenizer_config.json) lacks is added to it.
pub(super) fn read(
    folder: &Path,
    config: &mut Map<String, Json>,
) -> Result<Option<(&'static str, Tokenizer)>, GgufError> {
    if let Some(bytes) = read_file(&folder.join(TEKKEN))? {
        let fail = |problem| error(&folder.join(TEKKEN), problem);
        let tekken = serde_json::from_slice(&bytes);
        let tekken = tekken.map_err(|e| fail(Problem::Json { reason: e.to_string() }))?;
        return tokenizer_of_tekken(tekken, config).map(|t| Some((TEKKEN, t))).map_err(fail);
    }
    for name in TIKTOKEN {
        let Some(bytes) = read_file(&folder.join(name))? else { continue };
        // SentencePiece's files have the same name, and are no text.
        let Ok(text) = std::str::from_utf8(&bytes) else { continue };
        let Some(ranks) = lines(text) else { continue };
        let made = tokenizer_of_lines(ranks, config);
        return made.map(|t| Some((name, t))).map_err(|problem| error(&folder.join(name), problem));
    }
    Ok(None)
}

fn tokenizer_of_tekken(tekken: Tekken, config: &mut Map<String, Json>) -> Result<Tokenizer, Problem> {
    let Tekken { config: shape, vocab, special_tokens, .. } = tekken;
    let wrong = |part, got: String| Problem::Tokenizer { part, got, hint: "; download it again" };
    let first = shape.default_num_special_tokens;
    let (size, limit) = (shape.default_vocab_size, super::vocab::MAX_IDS);
    if size > limit || first > size {
        return Err(wrong("config", format!("of {size} tokens, {first} of them special")));
    }
    let control = match special_tokens {
        Some(all) => all,
        None => {
            let named = TEKKEN_CONTROL.iter().enumerate();
            let all = named.map(|(rank, text)| (rank, (*text).to_owned()));
            let all = all.map(|(rank, token_str)| TekkenSpecial { rank, token_str, is_control: true });
            all.take(first).collect()
        }
    };
    let mut added: Vec<Added> = Vec::with_capacity(first);
    for token in control {
        if token.rank >= first {
            return Err(wrong("special_tokens", format!("a list with rank {} of {first}", token.rank)));
        }
        added.push(Added::new(token.rank as u32, token.token_str, token.is_control));
    }
    let mut named = vec![false; first];
    added.iter().for_each(|token| named[token.id as usize] = true);
    for id in (0..first).filter(|&id| !named[id]) {
        added.push(Added::new(id as u32, format!("<SPECIAL_{id}>"), true));
    }
    // The file has more of them than the models use.
    let mut ranks = Vec::with_capacity(size - first);
    for (place, token) in vocab.into_iter().enumerate().take(size - first) {
        let bytes = base64::engine::general_purpose::STANDARD.decode(&token.token_bytes);
        match bytes {
            Ok(bytes) if token.rank == place && !bytes.is_empty() => ranks.push(bytes),
            _ => return Err(wrong("vocab", format!("a list with rank {} in place {place}", token.rank))),
        }
    }
    for (key, text) in [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>")] {
        config.entry(key).or_insert_with(|| text.into());
    }
    let split = json!({ "type": "Split", "pattern": { "Regex": shape.pattern }, "behavior": "Isolated" });
    let bytes = json!({ "type": "ByteLevel", "use_regex": false });
    let bos = json!({ "SpecialToken": { "id": "<s>" } });
    Ok(Tokenizer {
        added_tokens: added,
        normalizer: Json::Null,
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": [split, bytes] }),
        post_processor: json!({ "type": "TemplateProcessing", "single": [bos, { "Sequence": { "id": "A" } }] }),
        pre: None,
        model: model(&ranks, first)?,
    })
}

/// The tokens of tiktoken's lines, by rank; `None` where they are no such lines.
fn lines(text: &str) -> Option<Vec<Vec<u8>>> {
    let mut ranks = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (token, rank) = line.split_once(' ')?;
        let token = base64::engine::general_purpose::STANDARD.decode(token).ok()?;
        if rank.trim().parse() != Ok(ranks.len()) || token.is_empty() || ranks.len() >= super::vocab::MAX_IDS
        {
            return None;
        }
        ranks.push(token);
    }
    (!ranks.is_empty()).then_some(ranks)
}

fn tokenizer_of_lines(ranks: Vec<Vec<u8>>, config: &mut Map<String, Json>) -> Result<Tokenizer, Problem> {
    let listed = config.get("added_tokens_decoder").and_then(Json::as_object);
    let mut added = Vec::new();
    for (id, token) in listed.into_iter().flatten() {
        let text = token.get("content").and_then(Json::as_str);
        let (Ok(id), Some(text)) = (id.parse(), text) else {
            let got = format!("`{id}`: {token}");
            return Err(Problem::Tokenizer { part: "added_tokens_decoder", got, hint: "" });
        };
        let special = token.get("special").and_then(Json::as_bool).unwrap_or(true);
        added.push(Added::new(id, text.to_owned(), special));
    }
    const LLAMA3_BOS: &str = "<|begin_of_text|>";
    let module = config.get("auto_map").map(Json::to_string).unwrap_or_default();
    // How text is split is in none of the files.
    let is_kimi = module.contains("tokenization_kimi") || module.contains("tokenization_moonshot");
    let is_llama3 = added.iter().any(|token| token.content == LLAMA3_BOS);
    let mut single = vec![json!({ "Sequence": { "id": "A" } })];
    if is_llama3 {
        single.insert(0, json!({ "SpecialToken": { "id": LLAMA3_BOS } }));
        config.entry("bos_token").or_insert_with(|| LLAMA3_BOS.into());
    }
    if added.is_empty() {
        let got = "of ordinary tokens alone, without `added_tokens_decoder` in tokenizer_config.json".into();
        return Err(Problem::Tokenizer {
            part: "the vocabulary",
            got,
            hint: "; take a GGUF file of this model",
        });
    }
    Ok(Tokenizer {
        added_tokens: added,
        normalizer: Json::Null,
        pre_tokenizer: json!({ "type": "ByteLevel", "use_regex": false }),
        post_processor: json!({ "type": "TemplateProcessing", "single": single }),
        pre: Some(if is_kimi { Some("kimi-k2") } else { is_llama3.then_some("llama-bpe") }),
        model: model(&ranks, 0)?,
    })
}

/// A model of these tokens, whose ids begin with `first`.
fn model(ranks: &[Vec<u8>], first: usize) -> Result<Model, Problem> {
    let mut places: HashMap<&[u8], u32> = HashMap::with_capacity(ranks.len());
    for (rank, token) in (0..).zip(ranks) {
        if places.insert(token, rank).is_some() {
            let got = format!("a list with token {rank} in two places");
            return Err(Problem::Tokenizer { part: "vocab", got, hint: "; download it again" });
        }
    }
    let text = |bytes: &[u8]| bytes.iter().map(|&b| in_alphabet(b)).collect::<String>();
    let mut merges = Vec::with_capacity(ranks.len());
    for (rank, token) in (0..).zip(ranks).filter(|(_, token)| token.len() > 1) {
        // One that no merge makes is still found where it is all of a piece.
        if let Some(middle) = halves(token, rank, &places) {
            let (left, right) = token.split_at(middle);
            merges.push(Merge::Pair([text(left), text(right)]));
        }
    }
    let ids = (first as u32..).zip(ranks).map(|(id, token)| (text(token), id)).collect();
    Ok(Model::bytes(Vocab::Ids(ids), merges))
}

/// Where the two tokens meet that `token` is merged of, by tokens of lower rank.
fn halves(token: &[u8], rank: u32, places: &HashMap<&[u8], u32>) -> Option<usize> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    while ends.len() > 3 {
        let pair = |i: usize| places.get(&token[ends[i]..ends[i + 2]]).copied().filter(|&r| r < rank);
        let best = (0..ends.len() - 2).filter_map(|i| Some((pair(i)?, i))).min()?;
        ends.remove(best.1 + 1);
    }
    Some(ends[1])
}
