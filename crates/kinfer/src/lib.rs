//! Runs quantized large language models on the local machine.
//!
//! ```no_run
//! use kinfer::{Engine, Event, LoadOptions, Model};
//!
//! fn main() -> Result<(), kinfer::Error> {
//!     let model = Model::load("model.gguf", LoadOptions::default())?;
//!     let engine = Engine::builder().model(model).context(4096).build()?;
//!
//!     let mut chat = engine.session();
//!     for event in chat.send("What is the capital of Korea?")? {
//!         if let Event::Text { text, .. } = event? {
//!             print!("{text}");
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A [`Model`] is loaded once and shared; an [`Engine`] is one running state of it with its own memory for keys and
//! values, and serves any number of generations side by side. A [`Session`] is a conversation. Everything is
//! synchronous, `Send` and `Sync`; there is no global state, and no logger is installed.
#![forbid(unsafe_code)]

mod chat;
mod device;
mod embed;
mod engine;
mod error;
mod model;
mod offload;
mod plan;
pub mod quantize;
mod session;
mod vocab;
mod worker;

pub use chat::{Chat, Rendered};
pub use device::{Device, GpuIsa, GpuPeak, GpuPower};
pub use embed::{EmbedOptions, Embedding};
pub use engine::{Engine, EngineBuilder, Generation};
pub use error::{Error, ErrorKind, Result};
pub use kinfer_core::{
    Activation, AttnSpec, ConvSpec, DeltaSpec, DeviceMemory, ExpertSpec, FfnSpec, HeadSharing, KvType,
    KvTypes, LayerSpec, LongContext, Mask, Mixer, ModelSpec, NormKind, NormSpec, Pooling, RopeSpec,
};
/// Facts about this machine, the instruction sets that the CPU's kernels come in, and what those compute at most.
pub use kinfer_cpu::{Isa, machine, peak};
pub use kinfer_gen::{
    CancelToken, Done, Event, Finish, LengthLimit, Limits, Logprob, Params, Reasoning, Request, Sampling,
    SamplingOverrides, StopCause, Timings, TokenLogprobs, Usage, Vocabulary,
};
pub use kinfer_load::{gguf, hub, template, tokenizer};
/// The built-in catalogue of short model names.
pub use kinfer_models::catalog;
/// Model files of random weights, to measure speed.
pub use kinfer_models::synthetic;
pub use model::{LoadOptions, Model, Numerics, Progress};
pub use offload::{GpuLayers, Offload};
pub use plan::Plan;
pub use session::{Message, Reply, Role, Session, Thinking};

/// Single steps of a model, below the engine: for benchmarks and for tests of numerics.
pub mod step {
    pub use kinfer_core::batch::BLOCK_LEN;
    pub use kinfer_core::{Batch, Draw, Drawn, Outputs, Role, Run, Runner, RunnerLimits};
    pub use kinfer_gen::sample::Sampler;
}
