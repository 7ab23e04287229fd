//! F32, F16, BF16: one element per "block", little-endian.

/// Copies the bits.
pub(super) fn f32(src: &[u8], dst: &mut [f32]) {
    for (bytes, out) in src.as_chunks::<4>().0.iter().zip(dst) {
        *out = f32::from_le_bytes(*bytes);
    }
}

/// Exact: every binary16 is a binary32.
pub(super) fn f16(src: &[u8], dst: &mut [f32]) {
    for (bytes, out) in src.as_chunks::<2>().0.iter().zip(dst) {
        *out = super::block::half(bytes);
    }
}

/// Exact: the 16 bits are the upper half of a binary32.
pub(super) fn bf16(src: &[u8], dst: &mut [f32]) {
    for (bytes, out) in src.as_chunks::<2>().0.iter().zip(dst) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}
