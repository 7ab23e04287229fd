//! Pure functions for the CPU: stored formats, packings, SIMD kernels. Sees no model, allocates nothing in a kernel.
pub mod quant;
