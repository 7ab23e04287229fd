//! Sixteen virtual lanes on every instruction set.
//!
//! A kernel is written once, generic over [`Simd`], and instantiated for each ISA. Every operation here is exactly
//! defined (IEEE single precision, fused multiply-add, reductions in one fixed tree), so a kernel gives the same
//! bits on every ISA. [`Scalar`] is the definition.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "aarch64")]
mod dotprod;
#[cfg(target_arch = "aarch64")]
mod i8mm;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub use avx2::{Avx2, Halves, I2};
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512Vnni;
#[cfg(target_arch = "x86_64")]
pub use avxvnni::AvxVnni;
#[cfg(target_arch = "aarch64")]
pub use dotprod::Dotprod;
#[cfg(target_arch = "aarch64")]
pub use i8mm::I8mm;
#[cfg(target_arch = "aarch64")]
pub use neon::{C4, I4, Lanes, Neon};
pub use scalar::Scalar;

/// Number of virtual lanes.
pub const LANES: usize = 16;

/// An instruction set's implementation of sixteen lanes.
///
/// # Safety
/// Every method must run on a CPU that has the implementor's instruction set, and pointers must be valid for the
/// elements named in each method's doc. All methods that use an instruction set's features are `#[inline(always)]`: they take
/// on the features of the `#[target_feature]` function that they end up in.
#[allow(clippy::missing_safety_doc)] // stated above, once for all methods
pub trait Simd: Copy + 'static {
    /// 16 x f32.
    type F: Copy;
    /// 16 x i32.
    type I: Copy;
    /// 64 weight codes: 16 rows x 4 consecutive columns, one byte each.
    type Codes: Copy;
    /// Running integer dot products of 16 rows, in a width that may need [`Simd::acc_flush`].
    type Acc: Copy;
    /// Whether 8-bit codes are multiplied as signed numbers (code - 128) rather than as they are.
    const SIGNED_BYTES: bool;
    /// Tokens of a matrix-product tile that fit the register file.
    const TILE: usize;
    /// Groups of sixteen rows of a tile of one token (as many streams of reads), and of one of several: 1 or 2.
    const TILE_GROUPS: [usize; 2];
    /// Rows from which a matrix product unpacks its weights first.
    const MANY: usize = 12;
    /// Whether a tile unpacks the codes of half a block of its groups, which then lie in registers, and takes its tokens in turn;
    /// otherwise every four columns, unpacked, meet all tokens.
    const TOKENS_IN_TURN: bool = false;

    // --- floats
    /// All lanes zero.
    unsafe fn zero() -> Self::F;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// Loads 16 floats.
    unsafe fn load(p: *const f32) -> Self::F;
    /// Stores 16 floats.
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Loads 16 IEEE halves.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Stores 16 IEEE halves, rounded to nearest even.
    unsafe fn store_f16(p: *mut u16, v: Self::F);
    /// Loads 16 bfloat16.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// Loads 16 unsigned bytes.
    unsafe fn load_u8(p: *const u8) -> Self::F;
    /// Loads 16 signed bytes.
    unsafe fn load_i8(p: *const i8) -> Self::F;
    /// Loads 16 E4M3 floats without sign, each divided by 256: moved up, their bits are those of IEEE halves.
    unsafe fn load_e4m3(p: *const u8) -> Self::F;
    /// Loads 16 bytes: their lower nibbles less 8, and their upper nibbles less 8.
    #[inline(always)]
    unsafe fn load_i4(p: *const u8) -> [Self::F; 2] {
        // SAFETY: passed on.
        unsafe {
            // Exact: `byte / 16 - 15 / 32` is less than 1/2 from the upper nibble.
            let byte = Self::load_u8(p);
            let high = Self::fma(byte, Self::splat(1.0 / 16.0), Self::splat(-15.0 / 32.0));
            let high = Self::to_f(Self::to_i(high));
            let low = Self::fnma(Self::splat(16.0), high, byte);
            [Self::sub(low, Self::splat(8.0)), Self::sub(high, Self::splat(8.0))]
        }
    }
    /// `a + b`.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b` per lane (so `b` where either is NaN).
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b` per lane (so `b` where either is NaN).
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `|a|`.
    unsafe fn abs(a: Self::F) -> Self::F;
    /// Sum of all lanes: lane i with i+8, then +4, +2, +1.
    unsafe fn sum(a: Self::F) -> f32;
    /// Largest lane, in the same tree with [`Simd::max`].
    unsafe fn hmax(a: Self::F) -> f32;
    /// Lanes `>= n` replaced by `other`.
    unsafe fn keep_first(a: Self::F, n: usize, other: f32) -> Self::F;

    // --- integers
    /// All lanes `x`.
    unsafe fn splat_i(x: i32) -> Self::I;
    /// To float, rounded to nearest even.
    unsafe fn to_f(a: Self::I) -> Self::F;
    /// To integer, rounded to nearest even; `|a| < 2^31`.
    unsafe fn to_i(a: Self::F) -> Self::I;
    /// `a + b`, wrapping.
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I;
    /// `a << N`.
    unsafe fn shl_i<const N: u32>(a: Self::I) -> Self::I;
    /// Reinterprets the bits as floats.
    unsafe fn as_f(a: Self::I) -> Self::F;
    /// Stores the low byte of each lane; lanes lie in -128..=127. 16 bytes.
    unsafe fn store_i8(p: *mut i8, a: Self::I);

    // --- weight codes
    /// `p`, as an address of which the compiler knows nothing: what is read there is not what was read before, and
    /// need not be kept in registers (or on the stack) until then.
    #[inline(always)]
    unsafe fn reread(p: *const u8) -> *const u8 {
        p
    }
    /// Loads 64 bytes.
    unsafe fn load_codes(p: *const u8) -> Self::Codes;
    /// Stores 64 bytes.
    unsafe fn store_codes(p: *mut u8, a: Self::Codes);
    /// `(byte >> SHIFT) & MASK` for every byte. `MASK << SHIFT` fits a byte.
    unsafe fn bits<const SHIFT: u32, const MASK: u8>(a: Self::Codes) -> Self::Codes;
    /// `((byte >> shift) & MASK) << UP`: one plane of higher bits, moved to its place.
    unsafe fn plane<const MASK: u8, const UP: u32>(a: Self::Codes, shift: u32) -> Self::Codes;
    /// `a | b`.
    unsafe fn or_codes(a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// `table[byte]` for every byte; bytes are below 16.
    unsafe fn lookup(table: &[u8; 16], a: Self::Codes) -> Self::Codes;
    /// Starts accumulating on top of `sum`.
    unsafe fn acc_start(sum: Self::I) -> Self::Acc;
    /// `acc[row] += sum over 4 columns of code * x`, with the four activations from `4 * QUAD` on (`QUAD < 4`) of the
    /// sixteen at `x`, which lie in -127..=127. `bits` is the width of the codes; 8-bit codes: see
    /// [`Simd::SIGNED_BYTES`].
    unsafe fn dot<const QUAD: usize>(
        bits: u32,
        acc: Self::Acc,
        codes: Self::Codes,
        x: *const i8,
    ) -> Self::Acc;
    /// Ends what [`Simd::acc_start`] began on `sum`. At most `flush_every(bits)` dots may lie between.
    unsafe fn acc_flush(sum: Self::I, acc: Self::Acc) -> Self::I;
    /// Dots that an accumulator holds before it must be flushed.
    fn flush_every(bits: u32) -> usize;

    /// Fetches the cache line at `p` into L1; `p` may be any address.
    unsafe fn prefetch(p: *const u8);
}

/// What the levels of an architecture differ in that share all else: the integer dot product, on sums `I` of sixteen rows and
/// codes `C`. [`Simd`] says what each item means, and what it asks of the caller.
#[allow(clippy::missing_safety_doc)] // as there
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub trait Dot<I, C>: Copy + 'static {
    /// [`Simd::Acc`].
    type Acc: Copy;
    /// [`Simd::SIGNED_BYTES`].
    const SIGNED_BYTES: bool;
    /// [`Simd::TILE`].
    const TILE: usize;
    /// [`Simd::TILE_GROUPS`].
    const TILE_GROUPS: [usize; 2];
    /// [`Simd::acc_start`].
    unsafe fn start(sum: I) -> Self::Acc;
    /// [`Simd::dot`].
    unsafe fn dot<const QUAD: usize>(bits: u32, acc: Self::Acc, codes: C, x: *const i8) -> Self::Acc;
    /// [`Simd::acc_flush`].
    unsafe fn flush(sum: I, acc: Self::Acc) -> I;
    /// [`Simd::flush_every`].
    fn flush_every(bits: u32) -> usize;
}

/// Dots that sums of adjacent products hold in 16 bits: one is at most `2 * 127 * (2^bits - 1)`, of signed 8-bit codes
/// `2 * 127 * 128`, and the sum must stay below 2^15.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn pair_sum_dots(bits: u32) -> usize {
    match bits {
        0..=4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    }
}

/// `e^x` by range reduction to `2^n * 2^f`, `|f| <= 1/2`, and a polynomial of degree 6 (relative error below 2e-7).
/// Inputs below -87.3 give 0 in effect (about 1e-38), inputs above 88 are clamped to 88; NaN stays NaN.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // Coefficients: Taylor series of e^r on |r| <= ln(2)/2; ln 2 is split so that x - n ln2 is exact to 2^-33.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        // The bound comes first: `max` and `min` give their second operand for NaN.
        let x = S::max(S::splat(-87.3), S::min(S::splat(88.0), x));
        let n = S::to_i(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let nf = S::to_f(n);
        let r = S::fnma(nf, S::splat(LN2_LO), S::fnma(nf, S::splat(LN2_HI), x));
        let mut p = S::splat(1.0 / 720.0);
        p = S::fma(p, r, S::splat(1.0 / 120.0));
        p = S::fma(p, r, S::splat(1.0 / 24.0));
        p = S::fma(p, r, S::splat(1.0 / 6.0));
        p = S::fma(p, r, S::splat(0.5));
        p = S::fma(p, r, S::splat(1.0));
        p = S::fma(p, r, S::splat(1.0));
        S::mul(p, S::as_f(S::shl_i::<23>(S::add_i(n, S::splat_i(127)))))
    }
}
