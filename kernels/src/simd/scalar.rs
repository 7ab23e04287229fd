//! Plain Rust: the definition of every operation.

use super::Simd;
use half::{bf16, f16};

/// Sixteen lanes as an array.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

type F = [f32; 16];
type I = [i32; 16];

#[inline(always)]
fn map(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn tree(mut a: F, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = 8;
    while n > 0 {
        for i in 0..n {
            a[i] = f(a[i], a[i + n]);
        }
        n /= 2;
    }
    a[0]
}

// What works on 64 bytes, or calls conversions, is a call: inlined into every unrolled tile it was three quarters of the crate's code and
// of the time to compile it. Tiles of one token for the same reason.
//
// SAFETY of the blocks below: each pointer is valid for the elements read or written, by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Scalar {
    type F = F;
    type I = I;
    type Codes = [u8; 64];
    type Acc = I;
    const SIGNED_BYTES: bool = false;
    const TILE: usize = 1;
    const MANY: usize = 4;
    const TILE_GROUPS: [usize; 2] = [2, 1];

    #[inline(always)]
    unsafe fn zero() -> F {
        [0.0; 16]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(never)]
    unsafe fn load_f16(p: *const u16) -> F {
        let a = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        a.map(|h| f16::from_bits(h).to_f32())
    }
    #[inline(never)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        unsafe { p.cast::<[u16; 16]>().write_unaligned(v.map(|x| f16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        let a = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        a.map(|h| bf16::from_bits(h).to_f32())
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F {
        unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> F {
        unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(|b| f16::from_bits(u16::from(b) << 7).to_f32())
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> F {
        unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        map(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        map(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        map(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        map(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        map(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        map(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn fnma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        tree(a, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn hmax(a: F) -> f32 {
        tree(a, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn keep_first(a: F, n: usize, other: f32) -> F {
        std::array::from_fn(|i| if i < n { a[i] } else { other })
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> I {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn to_f(a: I) -> F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn to_i(a: F) -> I {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn add_i(a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn shl_i<const N: u32>(a: I) -> I {
        a.map(|x| x << N)
    }
    #[inline(always)]
    unsafe fn as_f(a: I) -> F {
        a.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: I) {
        unsafe { p.cast::<[i8; 16]>().write_unaligned(a.map(|x| x as i8)) }
    }

    #[inline(always)]
    unsafe fn load_codes(p: *const u8) -> [u8; 64] {
        unsafe { p.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, a: [u8; 64]) {
        unsafe { p.cast::<[u8; 64]>().write_unaligned(a) }
    }
    #[inline(never)]
    unsafe fn bits<const SHIFT: u32, const MASK: u8>(a: [u8; 64]) -> [u8; 64] {
        a.map(|b| (b >> SHIFT) & MASK)
    }
    #[inline(never)]
    unsafe fn plane<const MASK: u8, const UP: u32>(a: [u8; 64], shift: u32) -> [u8; 64] {
        a.map(|b| ((b >> shift) & MASK) << UP)
    }
    #[inline(never)]
    unsafe fn lookup(table: &[u8; 16], a: [u8; 64]) -> [u8; 64] {
        a.map(|b| table[usize::from(b & 15)])
    }
    #[inline(never)]
    unsafe fn or_codes(a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn acc_start(sum: I) -> I {
        sum
    }
    #[inline(never)]
    unsafe fn dot<const QUAD: usize>(_bits: u32, acc: I, codes: [u8; 64], x: *const i8) -> I {
        let x = unsafe { x.cast::<[i8; 4]>().add(QUAD).read_unaligned() };
        std::array::from_fn(|r| (0..4).fold(acc[r], |s, j| s + i32::from(codes[4 * r + j]) * i32::from(x[j])))
    }
    #[inline(always)]
    unsafe fn acc_flush(_sum: I, acc: I) -> I {
        acc
    }
    fn flush_every(_bits: u32) -> usize {
        usize::MAX
    }
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
}
