//! The decoded form that all block-quantised formats share.

/// Largest number of elements in a block.
pub const MAX_BLOCK: usize = 256;
/// Largest number of scale groups in a block.
pub const MAX_GROUPS: usize = 16;

/// One block as integers: what a packer stores, and what dequantisation multiplies out.
///
/// Element `i` of the block belongs to group `g = i / group_len` and its value is
///
/// `(d * scales[g]) * codes[i] - dmin * mins[g]`
///
/// in f32 with every operation rounded by itself (no fused multiply-add). Formats without sub-block scales have
/// `scales[0] = 1`; those with one offset `m` per block (Q4_1, Q5_1) have `dmin = -m` and `mins[0] = 1`; those without
/// minimums have `dmin = 0` and `mins = 0`. None of that changes a bit of the result, and so one formula serves all.
#[derive(Clone, Debug)]
pub struct Block {
    /// The block's scale.
    pub d: f32,
    /// The scale of the minimums.
    pub dmin: f32,
    /// Sub-block scales. `[block_len / group_len]`
    pub scales: [i8; MAX_GROUPS],
    /// Whether these are the bits of E4M3 floats, and no integers.
    pub e4m3: bool,
    /// Sub-block minimums. `[block_len / group_len]`
    pub mins: [u8; MAX_GROUPS],
    /// Codes in element order, the format's offset (such as 8 for Q4_0) already subtracted. `[block_len]`
    pub codes: [i8; MAX_BLOCK],
}

impl Default for Block {
    fn default() -> Self {
        let (scales, mins, codes) = ([0; MAX_GROUPS], [0; MAX_GROUPS], [0; MAX_BLOCK]);
        Self { d: 0.0, dmin: 0.0, scales, e4m3: false, mins, codes }
    }
}

impl Block {
    /// Sets the fields of a format that has one scale and one offset per block: `value = d * code + m`.
    #[inline]
    pub(super) fn set_simple(&mut self, d: f32, m: Option<f32>) {
        self.d = d;
        self.dmin = m.map_or(0.0, |m| -m);
        self.scales[0] = 1;
        self.mins[0] = u8::from(m.is_some());
    }

    /// The scale of group `g`, by which `d` is multiplied.
    #[inline]
    fn scale(&self, g: usize) -> f32 {
        if self.e4m3 { e4m3(self.scales[g] as u8) } else { f32::from(self.scales[g]) }
    }

    /// The value of element `i`.
    #[inline]
    pub fn value(&self, group_len: usize, i: usize) -> f32 {
        let g = i / group_len;
        (self.d * self.scale(g)) * f32::from(self.codes[i]) - self.dmin * f32::from(self.mins[g])
    }

    /// The values of the block's first `out.len()` elements: [`Block::value`] for each, with the group's products hoisted.
    #[inline]
    pub(super) fn values(&self, group_len: usize, out: &mut [f32]) {
        let groups = out.chunks_mut(group_len).zip(self.codes.chunks(group_len));
        for (g, ((out, codes), &min)) in groups.zip(&self.mins).enumerate() {
            let scale = self.d * self.scale(g);
            let min = self.dmin * f32::from(min);
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from(code) - min;
            }
        }
    }
}

/// An E4M3 float (OCP 8-bit floating point specification 1.0) without sign, of which the largest is a number, too.
#[inline]
pub(crate) fn e4m3(bits: u8) -> f32 {
    // In the exponent and mantissa of an f32 it is smaller by the difference of the exponents' biases, 120. Exact, also where denormal.
    f32::from_bits(u32::from(bits) << 20) * f32::from_bits((127 + 120) << 23)
}

/// A little-endian binary16 as f32.
#[inline]
pub(super) fn half(bytes: &[u8; 2]) -> f32 {
    half::f16::from_le_bytes(*bytes).to_f32()
}

/// `(i8) code - offset` for codes below 128.
#[inline]
pub(super) fn signed(code: u8, offset: i8) -> i8 {
    (code as i8).wrapping_sub(offset)
}

/// `value`, which one holds exactly, as a little-endian binary16.
#[inline]
pub(super) fn to_half(value: f32) -> [u8; 2] {
    half::f16::from_f32(value).to_le_bytes()
}

/// The place of each code among `levels`, two to a byte: `codes[j]` in the low nibble, `codes[j + 16]` in the high one.
pub(super) fn store_places(codes: &[i8], levels: &[i8], out: &mut [u8]) {
    let place = |code: i8| levels.iter().position(|&l| l == code).unwrap_or(0) as u8;
    for (j, byte) in out[..16].iter_mut().enumerate() {
        *byte = place(codes[j]) | place(codes[j + 16]) << 4;
    }
}
