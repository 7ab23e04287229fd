//! Types of a KV cache: how keys and values are stored, and how sixteen of them become floats.
#![allow(clippy::needless_range_loop, clippy::manual_memcpy)] // a loop over a constant number of vectors

use crate::simd::{LANES, Simd};
use half::{bf16, f16};
use std::fmt;

/// Elements that lie together: 32 keys of one dimension, 32 dimensions of one value. Where a type has scales, also the
/// dimensions of a key or value that share one.
pub(crate) const UNIT: usize = 32;

/// How cached keys or values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KvType {
    /// Single precision: the reference.
    F32,
    /// IEEE half precision; beyond 65504 infinite.
    #[default]
    F16,
    /// The upper half of single precision, rounded to nearest even.
    Bf16,
    /// Codes of 8 bits, `value = d * code`: per 32 dimensions of a key or value `d = max|x| / 127` in half precision. Where
    /// `head_dim` is no multiple of 32, the last group is shorter.
    Q8_0,
    /// Codes of 4 bits, -8 to 7: per 32 dimensions `d = x / -8` in half precision, `x` being the element of largest magnitude.
    Q4_0,
}

impl KvType {
    /// All types, in the order of their discriminants.
    pub const ALL: [KvType; 5] = [KvType::F32, KvType::F16, KvType::Bf16, KvType::Q8_0, KvType::Q4_0];

    /// Its name, as in llama.cpp.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Bf16 => "bf16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }

    /// Bytes of [`UNIT`] elements without their scale.
    pub(crate) fn unit_bytes(self) -> usize {
        match self {
            KvType::F32 => F32::UNIT_BYTES,
            KvType::F16 => F16::UNIT_BYTES,
            KvType::Bf16 => Bf16::UNIT_BYTES,
            KvType::Q8_0 => Q8_0::UNIT_BYTES,
            KvType::Q4_0 => Q4_0::UNIT_BYTES,
        }
    }

    /// Scales of one key or value.
    pub(crate) fn scales(self, head_dim: usize) -> usize {
        match self {
            KvType::F32 | KvType::F16 | KvType::Bf16 => 0,
            KvType::Q8_0 | KvType::Q4_0 => head_dim.div_ceil(UNIT),
        }
    }

    /// Bytes of one head's key (or value) at one position, its scales included.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        (head_dim * self.unit_bytes()).div_ceil(UNIT) + size_of::<f16>() * self.scales(head_dim)
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The types of a cache's keys and of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct KvTypes {
    /// Of keys.
    pub k: KvType,
    /// Of values.
    pub v: KvType,
}

impl KvTypes {
    /// Bytes of one head's key and value at one position, without padding.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        self.k.row_bytes(head_dim) + self.v.row_bytes(head_dim)
    }
}

/// The same type for both.
impl From<KvType> for KvTypes {
    fn from(kind: KvType) -> Self {
        KvTypes { k: kind, v: kind }
    }
}

impl fmt::Display for KvTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvTypes { k, v } if k == v => write!(f, "{k}"),
            KvTypes { k, v } => write!(f, "{k} keys, {v} values"),
        }
    }
}

/// A [`KvType`] to kernels.
pub(crate) trait KvFormat: 'static {
    /// Bytes of [`UNIT`] elements.
    const UNIT_BYTES: usize;
    /// Whether what is loaded has to be multiplied by a scale.
    const SCALED: bool;
    /// One stored element.
    type Code: Copy;
    /// Elements `16 * half ..` of a unit, `C` vectors of them: both with `half` 0, or one.
    ///
    /// # Safety
    /// As [`Simd`]; those elements are valid.
    unsafe fn load<S: Simd, const C: usize>(unit: *const u8, half: usize) -> [S::F; C];
    /// What to store for [`UNIT`] elements of a row, and their scale in half precision (0 where there is none).
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn encode<S: Simd>(x: [S::F; 2]) -> ([Self::Code; UNIT], u16);
    /// Sets element `i` of a unit.
    ///
    /// # Safety
    /// That element is valid, and nobody else accesses the unit.
    unsafe fn set(unit: *mut u8, i: usize, code: Self::Code);
}

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct Bf16;
#[allow(non_camel_case_types)] // as everybody writes it
pub(crate) struct Q8_0;
#[allow(non_camel_case_types)]
pub(crate) struct Q4_0;

/// Elements as they are: `$size` bytes, loaded by `$load`, stored as `$code` by `$store`.
macro_rules! plain {
    ($format:ident, $code:ty, |$p:ident| $load:expr, |$x:ident, $out:ident| $store:expr) => {
        impl KvFormat for $format {
            const UNIT_BYTES: usize = UNIT * size_of::<$code>();
            const SCALED: bool = false;
            type Code = $code;
            #[inline(always)]
            unsafe fn load<S: Simd, const C: usize>(unit: *const u8, half: usize) -> [S::F; C] {
                // SAFETY: passed on.
                unsafe {
                    let mut v = [S::zero(); C];
                    for c in 0..C {
                        let $p = unit.cast::<$code>().add(LANES * (half + c));
                        v[c] = $load;
                    }
                    v
                }
            }
            #[inline(always)]
            unsafe fn encode<S: Simd>(x: [S::F; 2]) -> ([$code; UNIT], u16) {
                let mut codes = [<$code>::default(); UNIT];
                for (i, $x) in x.into_iter().enumerate() {
                    // SAFETY: room for 16 elements in each half.
                    unsafe {
                        let $out = codes.as_mut_ptr().add(LANES * i);
                        $store;
                    }
                }
                (codes, 0)
            }
            #[inline(always)]
            unsafe fn set(unit: *mut u8, i: usize, code: $code) {
                // SAFETY: passed on.
                unsafe { unit.cast::<$code>().add(i).write_unaligned(code) }
            }
        }
    };
}

plain!(F32, f32, |p| S::load(p), |x, out| S::store(out, x));
plain!(F16, u16, |p| S::load_f16(p), |x, out| S::store_f16(out, x));
plain!(Bf16, u16, |p| S::load_bf16(p), |x, out| {
    let mut floats = [0f32; LANES];
    S::store(floats.as_mut_ptr(), x);
    for (i, &x) in floats.iter().enumerate() {
        *out.add(i) = bf16::from_f32(x).to_bits();
    }
});

/// Codes of 32 elements, `low..=high`, and their scale. The scale is `peak / divisor`, `peak` being the largest magnitude, with
/// its element's sign if `signed`; where both signs have that magnitude, positive. What is divided by it is the scale as it is
/// stored. Elements that are not finite, and scales beyond half precision, give a scale that is not finite: what is loaded then
/// is no number, as the input was.
#[inline(always)]
unsafe fn quantise<S: Simd>(
    x: [S::F; 2],
    signed: bool,
    divisor: f32,
    (low, high): (f32, f32),
) -> ([i8; UNIT], u16) {
    let mut codes = [0i8; UNIT];
    // SAFETY: the caller vouches for the instruction set; `codes` has 32 elements.
    unsafe {
        let peak = S::hmax(S::max(S::abs(x[0]), S::abs(x[1])));
        // Zero times what is not finite is no number; `max` may have passed over it.
        let zero = S::sum(S::mul(S::add(S::mul(x[0], S::zero()), S::mul(x[1], S::zero())), S::zero()));
        if zero != 0.0 {
            return (codes, f16::NAN.to_bits());
        }
        let negative = signed && S::hmax(S::max(x[0], x[1])) != peak;
        let scale = f16::from_f32(if negative { -peak } else { peak } / divisor);
        let d = scale.to_f32();
        if d != 0.0 && d.is_finite() {
            let (inverse, low, high) = (S::splat(1.0 / d), S::splat(low), S::splat(high));
            for (i, x) in x.into_iter().enumerate() {
                let code = S::min(S::max(S::mul(x, inverse), low), high);
                S::store_i8(codes.as_mut_ptr().add(LANES * i), S::to_i(code));
            }
        }
        (codes, scale.to_bits())
    }
}

impl KvFormat for Q8_0 {
    const UNIT_BYTES: usize = UNIT;
    const SCALED: bool = true;
    type Code = i8;
    #[inline(always)]
    unsafe fn load<S: Simd, const C: usize>(unit: *const u8, half: usize) -> [S::F; C] {
        // SAFETY: passed on.
        unsafe {
            let mut v = [S::zero(); C];
            for c in 0..C {
                v[c] = S::load_i8(unit.cast::<i8>().add(LANES * (half + c)));
            }
            v
        }
    }
    #[inline(always)]
    unsafe fn encode<S: Simd>(x: [S::F; 2]) -> ([i8; UNIT], u16) {
        // SAFETY: passed on.
        unsafe { quantise::<S>(x, false, 127.0, (-127.0, 127.0)) }
    }
    #[inline(always)]
    unsafe fn set(unit: *mut u8, i: usize, code: i8) {
        // SAFETY: passed on.
        unsafe { unit.cast::<i8>().add(i).write(code) }
    }
}

/// Element `i` of a unit is in byte `i % 16`, the lower nibble of which belongs to the first half; a nibble is the code plus 8.
impl KvFormat for Q4_0 {
    const UNIT_BYTES: usize = UNIT / 2;
    const SCALED: bool = true;
    type Code = i8;
    #[inline(always)]
    unsafe fn load<S: Simd, const C: usize>(unit: *const u8, half: usize) -> [S::F; C] {
        // SAFETY: passed on.
        unsafe {
            let both = S::load_i4(unit);
            let mut v = [S::zero(); C];
            for c in 0..C {
                v[c] = both[half + c];
            }
            v
        }
    }
    #[inline(always)]
    unsafe fn encode<S: Simd>(x: [S::F; 2]) -> ([i8; UNIT], u16) {
        // SAFETY: passed on.
        unsafe { quantise::<S>(x, true, -8.0, (-8.0, 7.0)) }
    }
    #[inline(always)]
    unsafe fn set(unit: *mut u8, i: usize, code: i8) {
        // SAFETY: passed on.
        unsafe {
            let (byte, shift) = (unit.add(i % LANES), 4 * (i / LANES));
            *byte = *byte & !(15 << shift) | (((code + 8) as u8) << shift);
        }
    }
}
