//! The vocabulary of kinfer: what a model is ([`spec`]), what one step computes ([`batch`]), what a device must
//! offer ([`backend`]), what the engine sees of a loaded model ([`model`]), and how all of it fails ([`error`]).
//!
//! This crate has no maths and no I/O. Of the other crates it uses only the stored formats ([`kinfer_kernels::quant`]) and
//! the types of a cache ([`KvType`]), since a weight's format and a cache's type are part of the seam.
#![forbid(unsafe_code)]

pub mod backend;
pub mod batch;
pub mod draw;
pub mod error;
mod latent;
mod matrix;
pub mod model;
pub mod spec;
mod unfused;
mod weights;

pub use backend::Backend;
pub use batch::{Batch, Role, Run};
pub use draw::{Draw, Drawn};
pub use error::{Error, Result};
pub use kinfer_kernels::ops::{ExpertGroups, KvType, KvTypes, Routing, Scores};
pub use kinfer_kernels::quant::{Format, MAX_VALUE, Quant, dequantize, encode};
pub use model::{DeviceMemory, Model, Outputs, Runner, RunnerLimits};
pub use spec::{
    Activation, AttnSpec, ConvSpec, DeltaSpec, ExpertSpec, FfnSpec, HeadSharing, LatentSpec, LayerSpec,
    LongContext, Mask, Mixer, ModelSpec, NormKind, NormSpec, PartSpec, Pooling, QkNorm, RopeSpec,
};
pub use unfused::Unfused;
