//! Compute layouts of weights, and the matrix products on them.
//!
//! A [`Packing`] says how a stored format is laid out for the kernels; every format has one. [`Matmul`] is the record
//! of kernels for one packing on one instruction set, chosen once when a weight is loaded.

mod act;
mod float;
mod gpu;
pub(crate) mod kernel;
pub(crate) mod layout;
mod panel;

pub use act::{ActBlock, padded_cols};
pub use float::Float;
pub use gpu::turn as turn_for_gpu;
pub use kernel::QuantRows;
pub use layout::{BLOCK, Layout, ROWS};

use crate::isa::Isa;
use crate::quant::Format;
use crate::simd::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512Vnni, AvxVnni};
#[cfg(target_arch = "aarch64")]
use crate::simd::{Dotprod, I8mm, Neon};
use layout::by_layout;

/// How a weight is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Integer codes, multiplied with 8-bit activations.
    Quantised(Layout),
    /// Floats, multiplied with f32 activations.
    Float(Float),
}

impl Packing {
    /// The packing of a stored format.
    pub fn of(format: Format) -> Packing {
        match (Layout::of(format), Float::of(format)) {
            (Some(layout), _) => Packing::Quantised(layout),
            (None, Some(float)) => Packing::Float(float),
            // The format table has only these two kinds; its test iterates every row.
            (None, None) => Packing::Float(Float::F32),
        }
    }

    /// Bytes of a group of [`ROWS`] rows of `cols` columns.
    pub fn group_bytes(self, cols: usize) -> usize {
        match self {
            Packing::Quantised(l) => l.group_bytes(cols),
            Packing::Float(f) => cols * ROWS * f.bytes(),
        }
    }

    /// Bytes of `rows` rows of `cols` columns.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(ROWS) * self.group_bytes(cols)
    }

    /// Packs up to [`ROWS`] stored rows of `format` (whose packing this is) into one group; missing rows become zeros.
    pub fn pack_group(self, format: Format, rows: &[&[u8]], cols: usize, out: &mut [u8]) {
        match (self, format.quant()) {
            (Packing::Quantised(l), Some(quant)) => layout::pack_group(format, quant, l, rows, cols, out),
            (Packing::Float(f), _) => float::pack_group(f, rows, out),
            (Packing::Quantised(_), None) => {}
        }
    }

    /// Multiplies the rows of a packed group by `scales`, one for each. Only a format whose scales are E4M3 floats has room for them
    /// (NVFP4); of others they have to be 1.
    pub fn scale_group(self, scales: impl Iterator<Item = f32>, group: &mut [u8]) {
        for (r, scale) in scales.enumerate().filter(|&(_, scale)| scale != 1.0) {
            match self {
                Packing::Quantised(l) if l.e4m3 => layout::scale_row(l, group, r, scale),
                _ => debug_assert!(false, "{self:?} has no scale of whole rows"),
            }
        }
    }

    /// Row `r` of a packed group as f32: bit-equal to the stored row dequantised.
    pub fn unpack_row(self, group: &[u8], r: usize, out: &mut [f32]) {
        match self {
            Packing::Quantised(l) => layout::unpack_row(l, group, r, out),
            Packing::Float(f) => float::unpack_row(f, group, r, out),
        }
    }
}

type QuantFn = unsafe fn(*const u8, usize, usize, QuantRows, usize, *mut f32, usize);
type FloatFn = unsafe fn(*const u8, usize, usize, *const f32, usize, usize, *mut f32, usize);
type QuantizeFn = unsafe fn(&[f32], &mut [i8], &mut [ActBlock]);

/// The kernels of one packing on one instruction set. That a value exists proves that the CPU has the instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    packing: Packing,
    isa: Isa,
    quant: QuantFn,
    float: FloatFn,
}

impl Matmul {
    /// The kernels of `packing` on `isa`; `None` when this machine lacks `isa`.
    pub fn new(packing: Packing, isa: Isa) -> Option<Matmul> {
        if !isa.available() {
            return None;
        }
        let (quant, float) = match isa {
            Isa::Scalar => scalar::kernels(packing),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::kernels(packing),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avxvnni::kernels(packing),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => avx512vnni::kernels(packing),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::kernels(packing),
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => dotprod::kernels(packing),
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm => i8mm::kernels(packing),
            _ => return None,
        };
        Some(Matmul { packing, isa, quant, float })
    }

    /// The packing.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// `y[t][16 g + lane] = w[g] . x[t]` on quantised activations; bit-equal for every instruction set and for every way to split
    /// groups and rows over calls.
    ///
    /// # Safety
    /// The packing is [`Packing::Quantised`]. `w` points to `groups` packed groups of `cols` columns; `x` holds `rows` rows of
    /// [`padded_cols`]`(cols)` columns; `y` has `rows` rows, `ldy` floats apart, with room for `16 * groups` floats
    /// each, which nothing else accesses meanwhile.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn quantised(
        &self,
        w: *const u8,
        groups: usize,
        cols: usize,
        x: QuantRows,
        rows: usize,
        y: *mut f32,
        ldy: usize,
    ) {
        if let Packing::Quantised(l) = self.packing {
            // SAFETY: passed on; `self` proves the instruction set.
            unsafe { (self.quant)(w, groups, l.units(cols), x, rows, y, ldy) }
        }
    }

    /// The same on f32 activations, `ldx` floats apart.
    ///
    /// # Safety
    /// The packing is [`Packing::Float`]; otherwise as [`Matmul::quantised`], with `x` pointing to `rows` rows of `cols` floats.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn float(
        &self,
        w: *const u8,
        groups: usize,
        cols: usize,
        x: *const f32,
        ldx: usize,
        rows: usize,
        y: *mut f32,
        ldy: usize,
    ) {
        if let Packing::Float(_) = self.packing {
            // SAFETY: passed on; `self` proves the instruction set.
            unsafe { (self.float)(w, groups, cols, x, ldx, rows, y, ldy) }
        }
    }
}

/// Quantises activations on one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Quantize(QuantizeFn);

impl Quantize {
    /// The kernel for `isa`; `None` when this machine lacks it.
    pub fn new(isa: Isa) -> Option<Quantize> {
        if !isa.available() {
            return None;
        }
        match isa {
            Isa::Scalar => Some(Quantize(scalar::quantize)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(Quantize(avx2::quantize)),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Some(Quantize(avxvnni::quantize)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => Some(Quantize(avx512vnni::quantize)),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(Quantize(neon::quantize)),
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => Some(Quantize(dotprod::quantize)),
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm => Some(Quantize(i8mm::quantize)),
            _ => None,
        }
    }

    /// Quantises one row, or a part of it that begins at a multiple of 32, into `q` and one [`ActBlock`] per 32 of it. A
    /// whole row takes [`padded_cols`] integers.
    pub fn row(&self, x: &[f32], q: &mut [i8], meta: &mut [ActBlock]) {
        assert!(q.len() >= x.len() && meta.len() * BLOCK == q.len(), "sizes of a quantised row");
        // SAFETY: `self` proves the instruction set.
        unsafe { (self.0)(x, q, meta) }
    }
}

/// Compiles every kernel for one instruction set.
macro_rules! instantiate {
    ($module:ident, $simd:ty $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            pub(super) fn kernels(packing: Packing) -> (QuantFn, FloatFn) {
                match packing {
                    Packing::Quantised(layout) => (by_layout!(layout, quant as QuantFn).unwrap_or(no_quant), no_float),
                    Packing::Float(Float::F32) => (no_quant, float::<float::F32>),
                    Packing::Float(Float::F16) => (no_quant, float::<float::F16>),
                    Packing::Float(Float::BF16) => (no_quant, float::<float::BF16>),
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn quant<const L: usize>(
                w: *const u8,
                groups: usize,
                units: usize,
                x: QuantRows,
                rows: usize,
                y: *mut f32,
                ldy: usize,
            ) {
                // SAFETY: passed on.
                unsafe { kernel::matmul::<$simd, L>(w, groups, units, x, rows, y, ldy) }
            }

            $(#[target_feature(enable = $feature)])?
            #[allow(clippy::too_many_arguments)]
            unsafe fn float<E: float::Element>(
                w: *const u8,
                groups: usize,
                cols: usize,
                x: *const f32,
                ldx: usize,
                rows: usize,
                y: *mut f32,
                ldy: usize,
            ) {
                // SAFETY: passed on.
                unsafe { float::matmul::<$simd, E>(w, groups, cols, x, ldx, rows, y, ldy) }
            }

            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn quantize(x: &[f32], q: &mut [i8], meta: &mut [ActBlock]) {
                // SAFETY: passed on.
                unsafe { act::quantize_row::<$simd>(x, q, meta) }
            }
        }
    };
}

unsafe fn no_quant(_: *const u8, _: usize, _: usize, _: QuantRows, _: usize, _: *mut f32, _: usize) {}
#[allow(clippy::too_many_arguments)]
unsafe fn no_float(
    _: *const u8,
    _: usize,
    _: usize,
    _: *const f32,
    _: usize,
    _: usize,
    _: *mut f32,
    _: usize,
) {
}

instantiate!(scalar, Scalar);
#[cfg(target_arch = "x86_64")]
instantiate!(avx2, Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
instantiate!(avxvnni, AvxVnni, "avxvnni,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
instantiate!(avx512vnni, Avx512Vnni, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
#[cfg(target_arch = "aarch64")]
instantiate!(neon, Neon, "neon");
#[cfg(target_arch = "aarch64")]
instantiate!(dotprod, Dotprod, "neon,dotprod");
#[cfg(target_arch = "aarch64")]
instantiate!(i8mm, I8mm, "neon,dotprod,i8mm");

#[cfg(test)]
mod tests;
