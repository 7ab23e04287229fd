//! Composed and decomposed characters.
//!
//! 한 is one code point in composed form (NFC), and its three letters in decomposed form, which is how macOS spells file names and
//! some programs copy text. Models have rarely seen the second, and it takes several times the tokens.

use crate::ctx::Ctx;
use kinfer::tokenizer::{Encode, Tokenizer};
use unicode_normalization::{UnicodeNormalization, is_nfc};
use unicode_segmentation::UnicodeSegmentation;

/// Whether text is composed before it is tokenized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum NfcArg {
    /// Leave the text as it is, and say on stderr what composing it would save
    #[default]
    Auto,
    /// Compose it
    On,
    /// Leave it as it is
    Off,
}

/// What to do with text in decomposed form.
#[derive(clap::Args, Clone, Copy, Default)]
pub struct NfcArgs {
    /// Whether to compose characters that the text has in parts (NFC), such as 한 in three letters
    #[arg(long, env = "KINFER_NFC", value_name = "WHEN", default_value = "auto")]
    pub nfc: NfcArg,
}

/// The composed form of a text in another one.
pub fn composed(text: &str) -> Option<String> {
    (!is_nfc(text)).then(|| text.nfc().collect())
}

/// What a text costs one model: its name, tokens as the text is, and tokens when composed.
pub struct Cost<'a>(pub &'a str, pub &'a [u32], pub &'a [u32]);

impl NfcArgs {
    /// The text as it is to be tokenized.
    pub fn apply(self, text: String) -> String {
        match self.nfc {
            NfcArg::On => composed(&text).unwrap_or(text),
            NfcArg::Auto | NfcArg::Off => text,
        }
    }

    /// With `auto`, says what composing `text` would change.
    pub fn tell(self, ctx: &Ctx, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<()> {
        if self.nfc != NfcArg::Auto {
            return Ok(());
        }
        let Some(other) = composed(text) else { return Ok(()) };
        let ids = |text: &str| tokenizer.encode(text, Encode::text()).map_err(kinfer::Error::from);
        self.tell_costs(ctx, text, &[Cost("", &ids(text)?, &ids(&other)?)]);
        Ok(())
    }

    /// The same for several models. A model whose tokenizer composes by itself is left out.
    pub fn tell_costs(self, ctx: &Ctx, text: &str, costs: &[Cost<'_>]) {
        let costs: Vec<String> = costs
            .iter()
            .filter(|Cost(_, now, then)| now != then)
            .map(|Cost(model, now, then)| {
                let of = if model.is_empty() { String::new() } else { format!(" of {model}") };
                format!("{}{of} instead of {}", tokens(then.len()), now.len())
            })
            .collect();
        if self.nfc != NfcArg::Auto || costs.is_empty() {
            return;
        }
        let (all, parts) =
            text.graphemes(true).fold((0, 0), |(all, parts), g| (all + 1, parts + usize::from(!is_nfc(g))));
        ctx.note(&format!(
            "decomposed characters, as in macOS file names: {parts} of {all}; --nfc on composes them: {}",
            costs.join(", ")
        ));
    }
}

fn tokens(n: usize) -> String {
    if n == 1 { "1 token".into() } else { format!("{n} tokens") }
}
