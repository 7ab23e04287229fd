//! Model files to named tensors: finding and fetching them, reading them, their tokenizer and chat
//! template. No arithmetic on weights.

pub mod gguf;
pub mod hub;
pub mod safetensors;
pub mod template;
pub mod tokenizer;
