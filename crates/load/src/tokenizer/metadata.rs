//! The vocabulary as a GGUF file stores it.

use super::{Strings, VocabSpec};
use crate::gguf::{FromValue, GgufError, Metadata};

impl VocabSpec {
    /// Reads the `tokenizer.ggml.*` keys.
    ///
    /// # Errors
    /// A missing `model` or `tokens`, or a value of the wrong type.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, GgufError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let strings = |list: Vec<&[u8]>| list.into_iter().collect::<Strings>();
        let id = |name| match metadata.opt::<i64>(&key(name))? {
            // Writers put -1, or what becomes of it in an unsigned field, for "none".
            Some(-1 | 0xFFFF_FFFF) => Ok(None),
            _ => metadata.opt::<u32>(&key(name)),
        };
        let flag = |name| metadata.opt::<bool>(&key(name));
        Ok(Self {
            model: metadata.get::<&str>(&key("model"))?.into(),
            pre: metadata.opt::<&str>(&key("pre"))?.map(Into::into),
            tokens: strings(metadata.get(&key("tokens"))?),
            types: metadata.opt(&key("token_type"))?,
            scores: metadata.opt(&key("scores"))?,
            merges: metadata.opt(&key("merges"))?.map(strings).unwrap_or_default(),
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            eom: id("eom_token_id")?,
            unk: id("unknown_token_id")?,
            sep: id("seperator_token_id")?,
            pad: id("padding_token_id")?,
            cls: id("cls_token_id")?,
            mask: id("mask_token_id")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_sep: flag("add_sep_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            remove_extra_whitespaces: flag("remove_extra_whitespaces")?,
            precompiled_charsmap: bytes(metadata, &key("precompiled_charsmap"))?,
            nfc: metadata.opt("kinfer.nfc")?.unwrap_or_default(),
            whitespace_split: metadata.opt("kinfer.whitespace_split")?.unwrap_or_default(),
            lstrip: metadata.opt("kinfer.lstrip_token_ids")?.unwrap_or_default(),
            rstrip: metadata.opt("kinfer.rstrip_token_ids")?.unwrap_or_default(),
            lowercase: flag("normalizer.lowercase")?,
            strip_accents: flag("normalizer.strip_accents")?,
        })
    }
}

/// An array of bytes, which some converters store signed.
fn bytes(metadata: &Metadata, key: &str) -> Result<Vec<u8>, GgufError> {
    fn list<'a, T: FromValue<'a>>(metadata: &'a Metadata, key: &str) -> Result<Option<T>, GgufError> {
        metadata.opt(key)
    }
    match list::<Vec<u8>>(metadata, key) {
        Ok(bytes) => Ok(bytes.unwrap_or_default()),
        Err(wrong) => match list::<Vec<i8>>(metadata, key) {
            Ok(bytes) => Ok(bytes.unwrap_or_default().into_iter().map(|b| b as u8).collect()),
            Err(_) => Err(wrong),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, Value, write::Writer};

    fn read(keys: &[(&str, Value)]) -> Result<VocabSpec, GgufError> {
        let mut writer = Writer::default();
        for (key, value) in keys {
            writer.set(*key, value.clone());
        }
        let mut file = Vec::new();
        writer.write(&mut file, [[0u8; 0]; 0]).unwrap();
        VocabSpec::from_metadata(Gguf::from_bytes(file).unwrap().metadata())
    }

    #[test]
    fn keys_become_fields() {
        let spec = read(&[
            ("tokenizer.ggml.model", "gpt2".into()),
            ("tokenizer.ggml.pre", "qwen2".into()),
            ("tokenizer.ggml.tokens", ["a", "b"].as_slice().into()),
            ("tokenizer.ggml.token_type", [1i32, 3].as_slice().into()),
            ("tokenizer.ggml.eos_token_id", 1u32.into()),
            ("tokenizer.ggml.padding_token_id", u32::MAX.into()),
            ("tokenizer.ggml.mask_token_id", (-1i32).into()),
            ("tokenizer.ggml.add_bos_token", false.into()),
            ("tokenizer.ggml.precompiled_charsmap", [-1i8, 2].as_slice().into()),
        ])
        .unwrap();
        assert_eq!((spec.model.as_str(), spec.pre.as_deref()), ("gpt2", Some("qwen2")));
        assert_eq!((spec.tokens.len(), spec.types.as_deref()), (2, Some(&[1, 3][..])));
        assert_eq!((spec.eos, spec.bos, spec.add_bos, spec.add_eos), (Some(1), None, Some(false), None));
        assert_eq!((spec.pad, spec.mask), (None, None));
        assert_eq!(spec.precompiled_charsmap, [255, 2]);
    }

    #[test]
    fn what_is_missing_or_of_the_wrong_type_is_named() {
        let model = ("tokenizer.ggml.model", Value::from("gpt2"));
        let error = read(std::slice::from_ref(&model)).unwrap_err().to_string();
        assert!(error.contains("tokenizer.ggml.tokens"), "{error}");
        let tokens = ("tokenizer.ggml.tokens", Value::from(["a"].as_slice()));
        let error = read(&[model, tokens, ("tokenizer.ggml.bos_token_id", "x".into())]).unwrap_err();
        assert!(error.to_string().contains("tokenizer.ggml.bos_token_id"), "{error}");
    }
}
