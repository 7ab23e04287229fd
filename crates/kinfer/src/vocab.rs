//! The tokenizer as the generation crate sees it.

use kinfer_gen::Vocabulary;
use kinfer_load::tokenizer::Tokenizer;
use std::sync::Arc;

/// A tokenizer's ids as bytes.
pub struct Vocab(pub Arc<Tokenizer>);

impl Vocabulary for Vocab {
    fn append_bytes(&self, id: u32, control: bool, out: &mut Vec<u8>) {
        if control || !self.0.is_special(id) {
            out.extend_from_slice(self.0.token_bytes(id).unwrap_or_default());
        }
    }

    fn is_eog(&self, id: u32) -> bool {
        self.0.is_end(id)
    }
}
