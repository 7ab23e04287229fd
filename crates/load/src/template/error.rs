//! What can go wrong while rendering a conversation.

/// Why a conversation could not be turned into a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The model brings no template.
    #[error(
        "the model has no chat template; choose one with --chat-template NAME (one of: {known}) or --chat-template-file FILE, or send the prompt as it is with --raw"
    )]
    Missing {
        /// Names of the built-in templates.
        known: String,
    },
    /// The file's `tokenizer.chat_template` is not a text.
    #[error(transparent)]
    Metadata(#[from] crate::gguf::GgufError),
    /// No built-in template has this name.
    #[error("there is no built-in chat template '{name}'; there are: {known}")]
    UnknownName {
        /// The name asked for.
        name: String,
        /// Names of the built-in templates.
        known: String,
    },
    /// The template is not valid Jinja, or uses something that is not supported.
    #[error(
        "the chat template does not parse: {reason}; give another with --chat-template NAME or --chat-template-file FILE, or use --raw"
    )]
    Parse {
        /// What the template engine said, with the line.
        reason: String,
    },
    /// The template itself refused the conversation (`raise_exception`).
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// Rendering failed.
    #[error(
        "the chat template failed: {reason}; give another with --chat-template NAME or --chat-template-file FILE, or use --raw"
    )]
    Render {
        /// What the template engine said, with the line.
        reason: String,
    },
    /// A message has the text of a control token, and what the template writes depends on it.
    #[error(
        "a message has the text {text:?}, which is a control token of this model, and the chat template does not pass it on \
         as it stands; take it out of the message, or give another template with --chat-template"
    )]
    Inspected {
        /// The text.
        text: String,
    },
    /// An extra variable has the name of one that rendering sets itself.
    #[error("the template variable '{name}' is set by rendering and cannot be given as an extra one")]
    ReservedName {
        /// The name.
        name: String,
    },
}
