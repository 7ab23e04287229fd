//! `kinfer tokenize`: a text as the tokens of one or several models.

use crate::ctx::Ctx;
use crate::exit::{CliError, exclusive};
use crate::input::read;
use crate::nfc::{self, Cost, NfcArgs};
use crate::table::{Table, printable};
use crate::{model, term};
use anyhow::Context;
use clap::builder::FalseyValueParser;
use kinfer::tokenizer::{Encode, TokenKind, Tokenizer};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;
use unicode_segmentation::UnicodeSegmentation;

/// Show a text as tokens, and what it costs in each of several models
#[derive(clap::Args)]
#[command(after_help = "\
The last of several arguments is the text; with -p or -f all of them are models, and with neither and one
argument the text comes from stdin. A token that holds part of a character is shown by its bytes: <EA><B0>.

Examples:
  kinfer tokenize smollm2 'What is the capital of Korea?'
  kinfer tokenize smollm2 gemma3:270m '대한민국의 수도는 어디인가요?'   side by side
  kinfer tokenize gemma3:270m -f essay.txt --json | jq '.models[0].tokens'
  ls | kinfer tokenize gemma3:270m --nfc on
  kinfer tokenize smollm2 --parse-special '<|im_start|>user'
  echo -n hello | kinfer tokenize smollm2 --ids")]
pub struct TokenizeArgs {
    /// Models (aliases, hub references or .gguf files), then the text
    #[arg(value_name = "MODEL|TEXT", required = true)]
    words: Vec<String>,
    /// The text
    #[arg(short = 'p', long, env = "KINFER_PROMPT", value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the text from a file; `-` is stdin
    #[arg(short, long, env = "KINFER_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the ids only, one line for each model
    #[arg(long, env = "KINFER_IDS", value_parser = FalseyValueParser::new())]
    ids: bool,
    /// Print one JSON object
    #[arg(long, env = "KINFER_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
    /// Read the names of control tokens in the text, such as <|im_start|>, as these tokens
    #[arg(long, env = "KINFER_PARSE_SPECIAL", value_parser = FalseyValueParser::new())]
    parse_special: bool,
    /// Add the tokens that the model puts around a text (BOS, EOS)
    #[arg(long, env = "KINFER_ADD_SPECIAL", value_parser = FalseyValueParser::new())]
    add_special: bool,
    #[command(flatten)]
    nfc: NfcArgs,
}

/// A text in the tokens of one model.
struct Tokenized {
    model: String,
    tokenizer: Tokenizer,
    ids: Vec<u32>,
    /// The ids of the text in composed form (NFC), where it is in another form.
    composed: Option<Vec<u32>>,
}

/// How long a text is.
struct Length {
    bytes: usize,
    code_points: usize,
    /// Grapheme clusters: what a reader counts.
    characters: usize,
}

/// Runs it.
pub fn run(args: TokenizeArgs, ctx: &Ctx) -> anyhow::Result<()> {
    exclusive(("--ids", args.ids), ("--json", args.json))?;
    let (models, text) = args.split()?;
    model::check_names(models)?;
    let text = args.nfc.apply(text);
    let length = Length {
        bytes: text.len(),
        code_points: text.chars().count(),
        characters: text.graphemes(true).count(),
    };
    let added = (!args.add_special).then_some(false);
    let options = Encode { special: args.parse_special, bos: added, eos: added };
    let composed = nfc::composed(&text);
    let mut all = Vec::with_capacity(models.len());
    for name in models {
        let (_, tokenizer) = model::vocabulary(ctx, Some(name))?;
        let ids = tokenizer.encode(&text, options).with_context(|| format!("{name}: the text"))?;
        let composed = composed.as_deref().map(|text| tokenizer.encode(text, options)).transpose()?;
        all.push(Tokenized { model: name.clone(), tokenizer, ids, composed });
    }
    args.nfc.tell_costs(ctx, &text, &all.iter().filter_map(Tokenized::cost).collect::<Vec<_>>());
    if args.ids {
        for t in &all {
            let ids: Vec<String> = t.ids.iter().map(u32::to_string).collect();
            term::out_line(&ids.join(" "))?;
        }
        return Ok(());
    }
    if args.json {
        let models: Vec<Value> = all.iter().map(|t| t.json(&length)).collect();
        let text = json!({ "bytes": length.bytes, "code_points": length.code_points,
            "characters": length.characters, "nfc": composed.is_none() });
        let all = json!({ "text": text, "models": models });
        return Ok(term::out_line(&serde_json::to_string_pretty(&all)?)?);
    }
    let tokens = match all.as_slice() {
        [one] => format!("{}\n", one.table()),
        several => {
            several.iter().map(|t| format!("{}\n  {}\n\n", ctx.out.bold(&t.model), t.pieces())).collect()
        }
    };
    let Length { bytes, code_points, characters } = length;
    term::out(&format!(
        "{tokens}{}\ntext: {characters} characters, {code_points} code points, {bytes} bytes\n",
        compared(&all, &length)
    ))?;
    Ok(())
}

/// What the text costs in each model.
fn compared(all: &[Tokenized], length: &Length) -> Table {
    let mut table =
        Table::new(["model", ">tokens", ">per character", ">bytes per token", ">parts of characters"]);
    for t in all {
        table.row([
            t.model.clone(),
            t.ids.len().to_string(),
            ratio(t.ids.len(), length.characters),
            ratio(length.bytes, t.ids.len()),
            t.partial().to_string(),
        ]);
    }
    table
}

impl TokenizeArgs {
    /// The models and the text.
    fn split(&self) -> anyhow::Result<(&[String], String)> {
        let text = match (&self.prompt, &self.file, self.words.as_slice()) {
            (Some(text), ..) => text.clone(),
            (None, Some(path), _) => read(path)?,
            (None, None, [_]) if std::io::stdin().is_terminal() => {
                return Err(CliError::usage(
                    "a text is needed: as the last argument, by -f FILE, or on stdin",
                ));
            }
            (None, None, [_]) => read("-".as_ref())?,
            (None, None, [models @ .., text]) => return Ok((models, text.clone())),
            (None, None, []) => return Err(CliError::usage("a model is needed")),
        };
        Ok((&self.words, text))
    }
}

fn ratio(a: usize, b: usize) -> String {
    if b == 0 { "-".into() } else { format!("{:.2}", a as f64 / b as f64) }
}

impl Tokenized {
    fn bytes(&self, id: u32) -> &[u8] {
        self.tokenizer.token_bytes(id).unwrap_or_default()
    }

    /// What composing the text would save.
    fn cost(&self) -> Option<Cost<'_>> {
        Some(Cost(&self.model, &self.ids, self.composed.as_ref()?))
    }

    /// Tokens that are not whole characters.
    fn partial(&self) -> usize {
        self.ids.iter().filter(|&&id| std::str::from_utf8(self.bytes(id)).is_err()).count()
    }

    /// One row for each token, with the characters that it completes.
    fn table(&self) -> Table {
        let mut table = Table::new([">id", "token", "completes", "kind"]);
        let mut pending: Vec<u8> = Vec::new();
        for &id in &self.ids {
            let bytes = self.bytes(id);
            pending.extend_from_slice(bytes);
            let whole = match std::str::from_utf8(&pending) {
                Ok(text) => text.len(),
                // Bytes that can never become a character are given up, those that may still do so are kept.
                Err(e) => e.error_len().map_or(e.valid_up_to(), |n| e.valid_up_to() + n),
            };
            let text: Vec<u8> = pending.drain(..whole).collect();
            let partial = std::str::from_utf8(bytes).is_err();
            let shown = if partial { printable(&String::from_utf8_lossy(&text)) } else { String::new() };
            let kind = match self.tokenizer.kind(id) {
                Some(TokenKind::Normal) | None => String::new(),
                Some(kind) => kind_name(kind).into(),
            };
            table.row([id.to_string(), visible(bytes), shown, kind]);
        }
        table
    }

    /// The tokens in one line.
    fn pieces(&self) -> String {
        self.ids.iter().map(|&id| visible(self.bytes(id))).collect::<Vec<_>>().join(" ")
    }

    fn json(&self, length: &Length) -> Value {
        let piece = |&id: &u32| {
            let bytes = self.bytes(id);
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            json!({ "id": id, "text": std::str::from_utf8(bytes).ok(), "bytes": hex,
                "kind": self.tokenizer.kind(id).map(kind_name) })
        };
        let per_character = self.ids.len() as f64 / length.characters as f64;
        json!({
            "model": self.model,
            "tokens": self.ids.len(),
            "ids": self.ids,
            "pieces": self.ids.iter().map(piece).collect::<Vec<_>>(),
            "tokens_per_character": if length.characters > 0 { json!(per_character) } else { Value::Null },
            "partial_characters": self.partial(),
            "nfc_tokens": self.composed.as_ref().map(Vec::len),
        })
    }
}

fn kind_name(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Normal => "normal",
        TokenKind::Unknown => "unknown",
        TokenKind::Control => "control",
        TokenKind::UserDefined => "user-defined",
        TokenKind::Unused => "unused",
        TokenKind::Byte => "byte",
    }
}

/// A token's bytes as quoted text, and what is no whole character in hexadecimal: `"a"`, `<EA><B0>`, `"b"<EA>`.
fn visible(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        if !chunk.valid().is_empty() {
            out += &format!("\"{}\"", printable(&chunk.valid().replace('\\', "\\\\").replace('"', "\\\"")));
        }
        for byte in chunk.invalid() {
            out += &format!("<{byte:02X}>");
        }
    }
    if out.is_empty() { "\"\"".into() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_shown_unambiguously() {
        let cases: [(&[u8], &str); 6] = [
            (b" the", "\" the\""),
            (b"\n", "\"\\n\""),
            (&[0xEA, 0xB0], "<EA><B0>"),
            (b"a\xEA", "\"a\"<EA>"),
            (b"\"<EA>\"", "\"\\\"<EA>\\\"\""),
            (b"", "\"\""),
        ];
        for (bytes, want) in cases {
            assert_eq!(visible(bytes), want);
        }
    }
}
