//! Everything between the matrix products: norms, rotary embedding, activations, attention.
//!
//! Each operation is written once, generic over [`Simd`](crate::simd::Simd), and instantiated per ISA; [`Ops`] is the
//! record of one ISA's instances. An operation gives the same bits on every ISA, and a row's result does not depend
//! on the rows that are computed beside it.
//!
//! Slices that do not fit each other are a mistake of the caller: a debug build asserts; a release build stays
//! within the shortest slice and leaves the rest of the output as it was.

mod act;
pub(crate) mod attn;
mod conv;
mod delta;
mod elementwise;
mod lanes;
mod norm;
mod rope;
mod route;

pub use attn::{
    Attend, BLOCK_LEN, KvLayout, KvRows, KvType, KvTypes, PARTITION_LEN, live_partitions, partial_len,
};
pub use conv::ConvRow;
pub use delta::{ConvTaps, DeltaRow};
pub use rope::rope_table;
pub use route::{ExpertGroups, Routing, Scores, choose_experts};

use crate::isa::Isa;
use half::{bf16, f16};

/// Declares [`Ops`]: one function pointer per operation, one safe method that calls it, one instance per ISA.
macro_rules! ops {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
        = $module:ident::$body:ident;)*) => {
        /// The operations of one instruction set.
        pub struct Ops {
            isa: Isa,
            /// By [`KvType`].
            kv: [attn::KvOps; KvType::ALL.len()],
            $($name: unsafe fn($($ty),*) $(-> $ret)?,)*
        }

        impl Ops {
            $(
                $(#[$doc])*
                #[inline]
                $vis fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: `Ops::new` hands the record out only where the CPU has its instruction set.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*
        }

        instance!(scalar, Scalar, Isa::Scalar, (), $($name($($arg: $ty),*) $(-> $ret)? = $module::$body;)*);
        #[cfg(target_arch = "x86_64")]
        instance!(avx2, Avx2, Isa::Avx2, (#[target_feature(enable = "avx2,fma,f16c")]),
            $($name($($arg: $ty),*) $(-> $ret)? = $module::$body;)*);
        #[cfg(target_arch = "x86_64")]
        instance!(avx512vnni, Avx512Vnni, Isa::Avx512Vnni,
            (#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]),
            $($name($($arg: $ty),*) $(-> $ret)? = $module::$body;)*);
        #[cfg(target_arch = "aarch64")]
        instance!(neon, Neon, Isa::Neon, (#[target_feature(enable = "neon")]),
            $($name($($arg: $ty),*) $(-> $ret)? = $module::$body;)*);
    };
}

/// One ISA's module: the generic bodies under its target features.
macro_rules! instance {
    ($isa:ident, $simd:ident, $level:expr, ($($feature:tt)*), $($list:tt)*) => {
        mod $isa {
            use super::*;
            use crate::simd::$simd;
            instance!(@each $simd, ($($feature)*), $($list)*);
            instance!(@kv $simd, ($($feature)*));
            instance!(@record $level, $($list)*);
        }
    };
    (@each $simd:ident, $feature:tt, ) => {};
    (@each $simd:ident, ($($feature:tt)*),
        $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $module:ident::$body:ident; $($rest:tt)*) => {
        $($feature)*
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the caller vouches for the instruction set; slices bound every access.
            unsafe { $module::$body::<$simd>($($arg),*) }
        }
        instance!(@each $simd, ($($feature)*), $($rest)*);
    };
    (@kv $simd:ident, ($($feature:tt)*)) => {
        instance!(@kv $simd, ($($feature)*), write_keys(layout: KvLayout, head: *mut u8, rows: KvRows<'_>));
        instance!(@kv $simd, ($($feature)*), write_values(layout: KvLayout, head: *mut u8, rows: KvRows<'_>));
        instance!(@kv $simd, ($($feature)*), scores(tile: &mut attn::Tile, n: usize));
        instance!(@kv $simd, ($($feature)*), weigh(tile: &mut attn::Tile, n: usize));
        const fn kv<E: attn::KvFormat>() -> attn::KvOps {
            attn::KvOps {
                write_keys: write_keys::<E>,
                write_values: write_values::<E>,
                scores: scores::<E>,
                weigh: weigh::<E>,
            }
        }
        const KV: [attn::KvOps; KvType::ALL.len()] = [
            kv::<attn::F32>(),
            kv::<attn::F16>(),
            kv::<attn::Bf16>(),
            kv::<attn::Q8_0>(),
            kv::<attn::Q4_0>(),
        ];
    };
    (@kv $simd:ident, ($($feature:tt)*), $name:ident($($arg:ident: $ty:ty),*)) => {
        $($feature)*
        unsafe fn $name<E: attn::KvFormat>($($arg: $ty),*) {
            // SAFETY: the caller vouches for the instruction set and for what the body asks for.
            unsafe { attn::$name::<$simd, E>($($arg),*) }
        }
    };
    (@record $level:expr, $($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $module:ident::$body:ident;)*) => {
        pub(super) static OPS: Ops = Ops { isa: $level, kv: KV, $($name,)* };
    };
}

ops! {
    /// `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang & Sennrich 2019) for one row. All `[dim]`.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = norm::rms_norm;
    /// [`Ops::rms_norm`] in place over each `weight.len()` elements of `x`: `x` is `[heads * head_dim]`, `weight`
    /// `[head_dim]`.
    pub fn rms_norm_heads(x: &mut [f32], weight: &[f32], eps: f32) = norm::rms_norm_heads;
    /// `out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias` (Ba et al. 2016) for one row. All `[dim]`.
    pub fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) = norm::layer_norm;
    /// [`Ops::layer_norm`] in place over each `width` elements of `x`, which `weight` and `bias` are as long as.
    pub fn layer_norm_heads(x: &mut [f32], width: usize, weight: &[f32], bias: Option<&[f32]>, eps: f32) = norm::layer_norm_heads;
    /// `x += y`.
    pub fn add(x: &mut [f32], y: &[f32]) = elementwise::add;
    /// `x *= factor`.
    pub fn scale(x: &mut [f32], factor: f32) = elementwise::scale;
    /// `x = x * sigmoid(gate)`.
    pub fn sigmoid_mul(gate: &[f32], x: &mut [f32]) = elementwise::sigmoid_mul;
    /// `x = cap * tanh(x / cap)`.
    pub fn softcap(x: &mut [f32], cap: f32) = elementwise::softcap;
    /// `out = silu(gate) * up` with `silu(x) = x / (1 + e^-x)`.
    pub fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = act::silu_mul;
    /// `out = gelu(gate) * up` with the tanh form of GELU (Hendrycks & Gimpel 2016),
    /// `gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    pub fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = act::gelu_tanh_mul;
    /// `out = gelu(gate) * up` with `gelu(x) = x / 2 * (1 + erf(x / sqrt(2)))`, to 3e-7 of `x`.
    pub fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = act::gelu_mul;
    /// `out = swiglu_oai(gate) * (clamp(up, -7, 7) + 1)` with `swiglu_oai(x) = min(x, 7) / (1 + e^(-1.702 min(x, 7)))`
    /// (gpt-oss, arXiv 2508.10925).
    pub fn swiglu_oai_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = act::swiglu_oai_mul;
    /// `x = silu(x)`, as in [`Ops::silu_mul`].
    pub fn silu(x: &mut [f32]) = act::silu_all;
    /// `x = gelu(x)`, as in [`Ops::gelu_tanh_mul`].
    pub fn gelu_tanh(x: &mut [f32]) = act::gelu_tanh_all;
    /// `x = gelu(x)`, as in [`Ops::gelu_mul`].
    pub fn gelu(x: &mut [f32]) = act::gelu_all;
    /// `x = swiglu_oai(x)`, as in [`Ops::swiglu_oai_mul`].
    pub fn swiglu_oai(x: &mut [f32]) = act::swiglu_oai_all;
    /// Turns each head of `x`, `[heads * head_dim]`, by the angles whose `cos` and `sin`, `[dim / 2]`, are given
    /// (half-split convention: element `i` turns with element `i + dim / 2`). `dim <= head_dim`; the elements from
    /// `dim` on stay. See [`rope_table`].
    pub fn rope(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) = rope::rope;
    /// A position of a gated short convolution: with `now = b * x`, `out = c * (sum of tap j * past[j] + last tap * now)`, oldest
    /// first. `past`, `[taps - 1, n]`, is a ring of what `now` was at the positions before; its row `oldest`, the first to be added,
    /// becomes this position's. `out` is `[n]`.
    pub fn short_conv(row: ConvRow<'_>, past: &mut [f32], oldest: usize, out: &mut [f32]) = conv::short_conv;
    /// Some channels, `[n]`, at a position of a causal convolution: the sum of tap `j` times what they were `behind - j` positions
    /// before, oldest first, and of the last tap times `x`. The ring takes `x` in place of its oldest row.
    pub fn causal_conv(x: &[f32], conv: ConvTaps<'_>, out: &mut [f32]) = delta::causal_conv;
    /// `x = x * length / sqrt(sum(x^2) + eps)`.
    pub fn to_length(x: &mut [f32], length: f32, eps: f32) = delta::to_length;
    /// A position of the gated delta rule: `S = decay * S`, then `S += k (beta (v - k S))`, and `out = q S`. `state` is `S`,
    /// `[key_dim, value_dim]`; sums are over keys in ascending order.
    pub fn delta_rule(row: DeltaRow<'_>, state: &mut [f32], out: &mut [f32]) = delta::delta_rule;
    /// `out = x` in half precision, rounded to nearest even; beyond 65504 it becomes infinite.
    pub fn to_f16(x: &[f32], out: &mut [f16]) = elementwise::to_f16;
    /// `out = x`, exact.
    pub fn from_f16(x: &[f16], out: &mut [f32]) = elementwise::from_f16;
    /// `out = x`, exact.
    pub fn from_bf16(x: &[bf16], out: &mut [f32]) = elementwise::from_bf16;
    /// Index of the largest element, the first one of equals. NaN counts as absent; `None` if nothing is left.
    pub fn argmax(x: &[f32]) -> Option<usize> = elementwise::argmax;
    fn attend_by(a: &Attend<'_>, partition: usize, partials: &mut [f32], scores: attn::TileFn, weigh: attn::TileFn)
        = attn::attend;
    /// Merges the partial results of the next partition into those of all before it: both `[n, partial_len]`, for
    /// the same `n` queries in the same order. Merging into an empty partial copies; merging an empty one does
    /// nothing. Partitions must be merged in ascending order.
    pub fn merge(head_dim: usize, partials: &mut [f32], next: &[f32]) = attn::merge;
    /// Turns the partial results of `rows * group` queries, `[rows, group, partial_len]`, into attention outputs:
    /// row `r`, head `g` at `out[r * stride + g * head_dim..]`. A query that saw no key gives zeros. `sinks`, `[group]`, as in
    /// [`Attend::sinks`].
    pub fn finish(
        head_dim: usize,
        group: usize,
        partials: &[f32],
        sinks: Option<&[f32]>,
        out: &mut [f32],
        stride: usize,
    ) = attn::finish;
}

impl std::fmt::Debug for Ops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ops").field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Ops {
    /// The operations for an instruction set; `None` if this machine lacks it.
    pub fn new(isa: Isa) -> Option<&'static Ops> {
        if !isa.available() {
            return None;
        }
        match isa {
            Isa::Scalar => Some(&scalar::OPS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => Some(&avx2::OPS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => Some(&avx512vnni::OPS),
            // Without a dot product, the levels are one.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::Dotprod | Isa::I8mm => Some(&neon::OPS),
            _ => None,
        }
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}
