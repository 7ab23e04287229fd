//! What can go wrong while building or using a tokenizer.

/// Why a tokenizer cannot be built from a file's metadata, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// `tokenizer.ggml.model` names an algorithm that is not implemented.
    #[error(
        "tokenizer model '{found}' is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece BPE), gemma4 (character BPE), whitespace (character BPE of words), t5 (Unigram), bert (WordPiece)"
    )]
    UnsupportedModel {
        /// The value in the file.
        found: String,
    },
    /// A byte-level BPE vocabulary does not say how text is split before merging.
    #[error(
        "the file has no tokenizer.ggml.pre, so how text is split before merging is unknown; name it with --pre, one of: {known}"
    )]
    MissingPreTokenizer {
        /// The names that could be given.
        known: String,
    },
    /// `tokenizer.ggml.pre` (or the override) is a name that is not in the table.
    #[error("pre-tokenizer '{found}' is not known; name one that splits alike with --pre, one of: {known}")]
    UnknownPreTokenizer {
        /// The value in the file or the override.
        found: String,
        /// The names that could be given.
        known: String,
    },
    /// The vocabulary lists no tokens.
    #[error("the vocabulary is empty (tokenizer.ggml.tokens)")]
    EmptyVocabulary,
    /// The vocabulary is larger than ids can count.
    #[error("the vocabulary takes {found} bytes of text; at most {limit} are supported")]
    VocabularyTooLarge {
        /// Bytes of all pieces together.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Parallel arrays of the vocabulary differ in length.
    #[error("{key} has {found} entries, but tokenizer.ggml.tokens has {expected}")]
    LengthMismatch {
        /// Metadata key of the array.
        key: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Length of the array.
        found: usize,
    },
    /// A metadata key that the algorithm needs is absent.
    #[error("tokenizer model '{model}' needs the metadata key {key}, which the file does not have")]
    MissingKey {
        /// The algorithm.
        model: String,
        /// The absent key.
        key: &'static str,
    },
    /// A special token's id is outside the vocabulary.
    #[error("{key} is {id}, but the vocabulary has {size} tokens")]
    IdOutOfRange {
        /// Metadata key of the id.
        key: &'static str,
        /// The id in the file.
        id: u32,
        /// Number of tokens.
        size: usize,
    },
    /// A token's type is none of the six that exist.
    #[error(
        "token {id} has type {found}; types are 0 or 1 (normal), 2 (unknown), 3 (control), 4 (user defined), 5 (unused), 6 (byte)"
    )]
    BadTokenType {
        /// The token.
        id: u32,
        /// The value in the file.
        found: i32,
    },
    /// A byte token is not written `<0xNN>`.
    #[error("token {id} is a byte token but its text '{text}' is not of the form <0xNN>")]
    BadByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A score is not a number.
    #[error("the score of token {id} is not a number")]
    BadScore {
        /// The token.
        id: u32,
    },
    /// A merge is not two pieces separated by a space.
    #[error("merge {index} ('{text}') is not two pieces separated by a space")]
    BadMerge {
        /// Position in `tokenizer.ggml.merges`.
        index: usize,
        /// Its text.
        text: String,
    },
    /// A merge names a piece that the vocabulary lacks.
    #[error("merge {index} ('{text}') needs the piece '{piece}', which is not in the vocabulary")]
    MergeNotInVocabulary {
        /// Position in `tokenizer.ggml.merges`.
        index: usize,
        /// Its text.
        text: String,
        /// The absent piece.
        piece: String,
    },
    /// The file declares a normaliser that is not implemented.
    #[error(
        "the vocabulary declares a normaliser ({key}) that is not supported with tokenizer model '{model}'"
    )]
    UnsupportedNormalizer {
        /// Metadata key.
        key: &'static str,
        /// The algorithm.
        model: String,
    },
    /// The table of a normaliser is none.
    #[error("tokenizer.ggml.precompiled_charsmap cannot be read: {reason}")]
    BadCharsmap {
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern of the pre-tokenizer table does not compile.
    #[error("the pattern of pre-tokenizer '{name}' does not compile: {reason}")]
    Pattern {
        /// Name in the table.
        name: String,
        /// What the regex engine said.
        reason: String,
    },
    /// The special tokens are too many or too long to search for.
    #[error("the special tokens cannot be searched for: {reason}")]
    SpecialTokens {
        /// What the matcher said.
        reason: String,
    },
    /// The text has a character or byte for which the vocabulary has no token, not even an unknown one.
    #[error("the vocabulary has no token for byte 0x{byte:02X} of '{text}' and no unknown token")]
    Unencodable {
        /// The byte.
        byte: u8,
        /// The piece it stands in.
        text: String,
    },
    /// An id given for decoding is outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {size} tokens")]
    NoSuchToken {
        /// The id.
        id: u32,
        /// Number of tokens.
        size: usize,
    },
    /// BOS was asked for, but the model declares none.
    #[error("a {name} token was asked for, but the model declares none ({key})")]
    NoSuchSpecial {
        /// "BOS" and so on.
        name: &'static str,
        /// Metadata key.
        key: &'static str,
    },
    /// The text is longer than offsets can count.
    #[error("the text has {found} bytes; at most {limit} can be encoded in one call")]
    TextTooLong {
        /// Its bytes.
        found: usize,
        /// The limit.
        limit: usize,
    },
}
