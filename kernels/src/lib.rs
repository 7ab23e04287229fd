//! Pure functions for the CPU: stored formats, packings, SIMD kernels. Sees no model, allocates nothing in a kernel,
//! spawns nothing, reads no environment but [`isa::Isa::from_env`].
pub mod bf16;
pub mod isa;
pub mod ops;
pub mod pack;
pub mod peak;
pub mod quant;
pub mod simd;
