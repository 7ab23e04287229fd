//! Stored tensor formats: names, sizes, bit layouts, and the scalar definition of each one's dequantisation.
//!
//! A format is one row of `FORMATS` and one small file with its bit layout. The float formats convert element by
//! element. Every block-quantised format decodes to the same [`Block`] of integer codes and scales, so one formula
//! ([`Block::value`]) defines dequantisation for all of them, and a packer that reads `Block`s packs all of them.
//!
//! All multi-byte fields are little-endian. Layouts and arithmetic follow ggml's reference formats; the operation order
//! is part of the definition, since results are compared bit for bit.

mod block;
mod encode;
mod float;
pub(crate) mod grids;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
pub(crate) mod iq4_nl;
mod iq4_xs;
pub(crate) mod mxfp4;
mod nvfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
pub(crate) mod tq1_0;
mod tq2_0;
mod types;

pub(crate) use block::e4m3;
pub use block::{Block, MAX_BLOCK, MAX_GROUPS};
pub use encode::{MAX_VALUE, encode};
pub use types::TensorType;

/// A stored tensor format that kinfer computes with. Variants carry ggml's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 4-bit signed codes, one scale per 32.
    Q4_0,
    /// 4-bit codes, one scale and one offset per 32.
    Q4_1,
    /// 5-bit signed codes, one scale per 32.
    Q5_0,
    /// 5-bit codes, one scale and one offset per 32.
    Q5_1,
    /// 8-bit signed codes, one scale per 32.
    Q8_0,
    /// 2-bit codes, 4-bit scales and minimums per 16, in blocks of 256.
    Q2_K,
    /// 3-bit signed codes, 6-bit signed scales per 16, in blocks of 256.
    Q3_K,
    /// 4-bit codes, 6-bit scales and minimums per 32, in blocks of 256.
    Q4_K,
    /// 5-bit codes, 6-bit scales and minimums per 32, in blocks of 256.
    Q5_K,
    /// 6-bit signed codes, 8-bit signed scales per 16, in blocks of 256.
    Q6_K,
    /// 4-bit places in a table of 16 codes, one scale per 32.
    IQ4_NL,
    /// The same, with 6-bit signed scales per 32, in blocks of 256.
    IQ4_XS,
    /// 4-bit floats (E2M1), one power of two per 32 (OCP Microscaling Formats 1.0).
    MXFP4,
    /// Eight codes at a time from a grid of 256, three magnitudes with signs, 4-bit scales per 32, in blocks of 256.
    IQ2_XXS,
    /// The same from a grid of 512, scales per 16.
    IQ2_XS,
    /// The same from a grid of 1024, scales per 16.
    IQ2_S,
    /// Four codes at a time from a grid of 256, eight magnitudes with signs, 4-bit scales per 32, in blocks of 256.
    IQ3_XXS,
    /// The same from a grid of 512.
    IQ3_S,
    /// Eight codes of three values at a time from a grid of 2048, shifted by an eighth, 3-bit scales per 32, in blocks of 256.
    IQ1_S,
    /// The same with scales per 16.
    IQ1_M,
    /// Codes of three values, five to a byte, one scale per 256.
    TQ1_0,
    /// The same, two bits each.
    TQ2_0,
    /// 4-bit floats (E2M1), one 8-bit float (E4M3) per 16, in blocks of 64.
    NVFP4,
}

/// The values that codes take, by the bits that are stored of them: at most sixteen.
pub type Levels = &'static [i8];

/// What the codes of a block-quantised format look like, and how to decode them.
#[derive(Clone, Copy, Debug)]
pub struct Quant {
    /// Consecutive elements that share a scale (and a minimum): 16 or 32.
    pub group_len: usize,
    /// Smallest and largest code that [`Quant::unpack`] yields.
    pub codes: (i8, i8),
    /// The codes, where there are few.
    pub levels: Option<Levels>,
    /// Smallest and largest sub-block scale; (1, 1) where the block scale is the only one.
    pub scales: (i8, i8),
    /// Whether sub-block scales are the bits of E4M3 floats, and no integers. The block scale, which is the same everywhere then, may be
    /// multiplied by one of the whole matrix.
    pub e4m3: bool,
    /// Largest sub-block minimum; 0 where the format has none, 1 where the block minimum is the only one.
    pub max_min: u8,
    /// Whether the block scale has an exponent of 8 bits, and so does not fit an f16.
    pub wide_scale: bool,
    /// The block scale is an f16 divided by two to the power of this.
    pub scale_shift: u32,
    /// Where the block has f16 fields: its scale, then the offset or the scale of its minimums. None in MXFP4, NVFP4 and IQ1_M.
    pub halves: &'static [usize],
    decode: fn(&[u8], &mut Block),
    /// The inverse of `decode`, of the formats that [`encode`] makes.
    store: Option<fn(&Block, &mut [u8])>,
}

impl Quant {
    /// The fields that most formats share.
    const fn of(decode: fn(&[u8], &mut Block)) -> Quant {
        Quant {
            group_len: 32,
            codes: (0, 0),
            levels: None,
            scales: (1, 1),
            e4m3: false,
            max_min: 0,
            wide_scale: false,
            scale_shift: 0,
            halves: &[0],
            decode,
            store: None,
        }
    }

    /// Writes the f16 fields of a block: its scale and, where the format has one, its offset or the scale of its minimums. MXFP4
    /// and NVFP4, whose scales are 8 bits, are left as they are.
    pub fn put_halves(&self, block: &mut [u8], scale: half::f16, offset: half::f16) {
        for (&at, value) in self.halves.iter().zip([scale, offset]) {
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        if self.halves.is_empty() && !self.wide_scale && !self.e4m3 {
            iq1_m::put_scale(block, scale);
        }
    }

    /// Whether the format subtracts a minimum.
    pub fn has_min(&self) -> bool {
        self.max_min > 0
    }

    /// Decodes one block: `src` is exactly one block's bytes. Fills `codes[..block_len]`, `scales` and `mins`
    /// `[..block_len / group_len]`, `d` and `dmin`; the rest of `out` keeps its old content.
    #[inline]
    pub fn unpack(&self, src: &[u8], out: &mut Block) {
        out.e4m3 = self.e4m3;
        (self.decode)(src, out);
    }
}

enum Codec {
    Float(fn(&[u8], &mut [f32])),
    Quant(Quant),
}

struct Row {
    ty: TensorType,
    codec: Codec,
}

macro_rules! float {
    ($format:ident, $id:literal, $bytes:literal, $decode:path) => {
        Row {
            ty: TensorType::new($id, stringify!($format), 1, $bytes, Some(Format::$format)),
            codec: Codec::Float($decode),
        }
    };
}

macro_rules! quant {
    ($format:ident, $id:literal, $len:literal / $group:literal, $module:ident, $codes:expr, $scales:expr, $max_min:literal $(, $field:ident: $value:expr)*) => {
        Row {
            ty: TensorType::new($id, stringify!($format), $len, $module::BYTES, Some(Format::$format)),
            codec: Codec::Quant(Quant {
                group_len: $group,
                codes: $codes,
                scales: $scales,
                max_min: $max_min,
                $($field: $value,)*
                ..Quant::of(|src, out| {
                    debug_assert_eq!(src.len(), $module::BYTES);
                    if let Ok(block) = src.try_into() {
                        $module::unpack(block, out);
                    }
                })
            }),
        }
    };
}

/// One row per format, in the order of the enum: ggml id, elements per block / per group, layout, code range, sub-block
/// scale range, largest sub-block minimum.
#[rustfmt::skip]
static FORMATS: [Row; 26] = [
    float!(F32, 0, 4, float::f32),
    float!(F16, 1, 2, float::f16),
    float!(BF16, 30, 2, float::bf16),
    quant!(Q4_0, 2, 32 / 32, q4_0, (-8, 7), (1, 1), 0, store: Some(q4_0::store)),
    quant!(Q4_1, 3, 32 / 32, q4_1, (0, 15), (1, 1), 1, halves: &[0, 2], store: Some(q4_1::store)),
    quant!(Q5_0, 6, 32 / 32, q5_0, (-16, 15), (1, 1), 0, store: Some(q5_0::store)),
    quant!(Q5_1, 7, 32 / 32, q5_1, (0, 31), (1, 1), 1, halves: &[0, 2], store: Some(q5_1::store)),
    quant!(Q8_0, 8, 32 / 32, q8_0, (-128, 127), (1, 1), 0, store: Some(q8_0::store)),
    quant!(Q2_K, 10, 256 / 16, q2_k, (0, 3), (0, 15), 15, halves: &[80, 82], store: Some(q2_k::store)),
    quant!(Q3_K, 11, 256 / 16, q3_k, (-4, 3), (-32, 31), 0, halves: &[108], store: Some(q3_k::store)),
    quant!(Q4_K, 12, 256 / 32, q4_k, (0, 15), (0, 63), 63, halves: &[0, 2], store: Some(q4_k::store)),
    quant!(Q5_K, 13, 256 / 32, q5_k, (0, 31), (0, 63), 63, halves: &[0, 2], store: Some(q5_k::store)),
    quant!(Q6_K, 14, 256 / 16, q6_k, (-32, 31), (-128, 127), 0, halves: &[208], store: Some(q6_k::store)),
    quant!(IQ4_NL, 20, 32 / 32, iq4_nl, (-127, 113), (1, 1), 0, levels: Some(iq4_nl::LEVELS), store: Some(iq4_nl::store)),
    quant!(IQ4_XS, 23, 256 / 32, iq4_xs, (-127, 113), (-32, 31), 0, levels: Some(iq4_nl::LEVELS), store: Some(iq4_xs::store)),
    quant!(MXFP4, 39, 32 / 32, mxfp4, (-12, 12), (1, 1), 0, levels: Some(mxfp4::LEVELS), wide_scale: true, halves: &[], store: Some(mxfp4::store)),
    quant!(IQ2_XXS, 16, 256 / 32, iq2_xxs, (-43, 43), (1, 31), 0, levels: Some(grids::IQ2_LEVELS), scale_shift: 3),
    quant!(IQ2_XS, 17, 256 / 16, iq2_xs, (-43, 43), (1, 31), 0, levels: Some(grids::IQ2_LEVELS), scale_shift: 3),
    quant!(IQ2_S, 22, 256 / 16, iq2_s, (-43, 43), (1, 31), 0, levels: Some(grids::IQ2_LEVELS), scale_shift: 3),
    quant!(IQ3_XXS, 18, 256 / 32, iq3_xxs, (-62, 62), (1, 31), 0, levels: Some(grids::IQ3_XXS_LEVELS), scale_shift: 2),
    quant!(IQ3_S, 21, 256 / 32, iq3_s, (-15, 15), (1, 31), 0, levels: Some(grids::IQ3_S_LEVELS)),
    quant!(IQ1_S, 19, 256 / 32, iq1_s, (-9, 9), (1, 15), 0, levels: Some(grids::IQ1_LEVELS), scale_shift: 3),
    quant!(IQ1_M, 29, 256 / 16, iq1_m, (-9, 9), (1, 15), 0, levels: Some(grids::IQ1_LEVELS), scale_shift: 3, halves: &[]),
    quant!(TQ1_0, 34, 256 / 32, tq1_0, (-1, 1), (1, 1), 0, levels: Some(tq1_0::LEVELS), halves: &[52]),
    quant!(TQ2_0, 35, 256 / 32, tq2_0, (-1, 2), (1, 1), 0, levels: Some(tq1_0::LEVELS), halves: &[64]),
    quant!(NVFP4, 40, 64 / 16, nvfp4, (-12, 12), (0, 127), 0, levels: Some(mxfp4::LEVELS), e4m3: true, halves: &[]),
];

impl Format {
    /// Every supported format, in table order.
    pub fn all() -> impl Iterator<Item = Format> {
        FORMATS.iter().filter_map(|row| row.ty.format())
    }

    fn row(self) -> &'static Row {
        &FORMATS[self as usize]
    }

    /// The format's row in the table of all ggml tensor types.
    pub fn tensor_type(self) -> TensorType {
        self.row().ty
    }

    /// ggml's name, for example `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().ty.name()
    }

    /// The type id stored in GGUF tensor records.
    pub fn ggml_id(self) -> u32 {
        self.row().ty.id()
    }

    /// The supported format with this GGUF type id. [`TensorType::from_id`] also knows the unsupported ones.
    pub fn from_ggml_id(id: u32) -> Option<Format> {
        TensorType::from_id(id)?.format()
    }

    /// Elements per block; 1 for the float formats. Rows are a whole number of blocks.
    pub fn block_len(self) -> usize {
        self.row().ty.block_len()
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.row().ty.block_bytes()
    }

    /// Bytes of `elements` elements; `None` when they are no whole number of blocks, or the product overflows.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let ty = self.row().ty;
        if !elements.is_multiple_of(ty.block_len()) {
            return None;
        }
        (elements / ty.block_len()).checked_mul(ty.block_bytes())
    }

    /// Stored bits per element, scales included: 4.5 for `Q4_0`.
    pub fn bits_per_weight(self) -> f64 {
        self.row().ty.bits_per_weight()
    }

    /// The block decoder; `None` for the float formats.
    pub fn quant(self) -> Option<&'static Quant> {
        match &self.row().codec {
            Codec::Float(_) => None,
            Codec::Quant(quant) => Some(quant),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Dequantises whole blocks: the scalar definition that every packing and kernel is tested against.
///
/// `src` holds the bytes of exactly `dst.len()` elements, that is `format.bytes_for(dst.len())`; the caller has checked
/// the shape at load, so a mismatch is a bug and only debug builds check again.
pub fn dequantize(format: Format, src: &[u8], dst: &mut [f32]) {
    debug_assert_eq!(format.bytes_for(dst.len()), Some(src.len()), "{format}: source and destination sizes");
    match &format.row().codec {
        Codec::Float(convert) => convert(src, dst),
        Codec::Quant(quant) => {
            let mut block = Block::default();
            let blocks = src.chunks_exact(format.block_bytes());
            for (bytes, out) in blocks.zip(dst.chunks_exact_mut(format.block_len())) {
                quant.unpack(bytes, &mut block);
                block.values(quant.group_len, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_the_enum() {
        for (i, row) in FORMATS.iter().enumerate() {
            let format = row.ty.format().expect("a row of FORMATS names its format");
            assert_eq!(format as usize, i, "{}", row.ty.name());
            assert_eq!(format!("{format:?}"), row.ty.name());
            assert_eq!(Format::from_ggml_id(format.ggml_id()), Some(format));
            assert!(format.block_len() <= MAX_BLOCK);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(Format::Q4_K.bytes_for(512), Some(288));
        assert_eq!(Format::Q4_K.bytes_for(500), None);
        assert_eq!(Format::F32.bytes_for(usize::MAX), None);
        assert_eq!(Format::Q4_0.bits_per_weight(), 4.5);
        assert_eq!(Format::from_ggml_id(41), None, "Q1_0 is known, not supported");
    }

    /// The ranges in the table are what packers size their fields by: no block may leave them, and they are tight.
    #[test]
    fn declared_ranges_hold_and_are_reached() {
        let mut seed = 1u64;
        for format in Format::all() {
            let Some(quant) = format.quant() else { continue };
            let groups = format.block_len() / quant.group_len;
            let mut block = Block::default();
            let (mut codes, mut scales, mut mins) = ((127, -128), (127, -128), (255, 0));
            for _ in 0..2000 {
                let bytes: Vec<u8> = (0..format.block_bytes())
                    .map(|_| {
                        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        (seed >> 56) as u8
                    })
                    .collect();
                quant.unpack(&bytes, &mut block);
                for &c in &block.codes[..format.block_len()] {
                    codes = (codes.0.min(c), codes.1.max(c));
                }
                for g in 0..groups {
                    scales = (scales.0.min(block.scales[g]), scales.1.max(block.scales[g]));
                    mins = (mins.0.min(block.mins[g]), mins.1.max(block.mins[g]));
                }
            }
            assert_eq!(codes, quant.codes, "{format} codes");
            assert_eq!(scales, quant.scales, "{format} scales");
            assert_eq!(mins.1, quant.max_min, "{format} minimums");
        }
    }
}
