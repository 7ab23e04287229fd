//! Packed layouts: how quantised rows lie in memory for the kernels.
//!
//! Sixteen rows form a group, and a 64-byte vector holds four consecutive columns (a *quad*) of all sixteen:
//! byte `4 * row + column`. One vector instruction then multiplies a quad of sixteen rows with the same four
//! activations, every lane accumulates its own row, and nothing is ever summed across lanes.
//!
//! A group is a sequence of *units*, each `scales | codes`, read front to back:
//!
//! | | one-level formats (Q4_0 … Q8_0) | two-level formats (Q2_K … Q6_K) |
//! |---|---|---|
//! | columns of a unit | 64 (two blocks of 32) | 256 (eight blocks of 32) |
//! | scales | `d: f16[2][16]` (MXFP4: bf16), with minimums `dmin: f16[2][16]` | `d: f16[16]`, `dmin: f16[16]` (NVFP4: `d: f32[16]`), then one byte per scale group and row, with minimums another |
//! | codes | per block of 32 columns: [`Layout::block_bytes`] | the same |
//!
//! Codes are stored without sign (code - smallest code); of a format whose codes take a few values only, their places in the
//! table of these ([`Layout::levels`]) are stored. A block's eight quads lie in bit planes: 8-bit codes as
//! eight vectors; of wider codes than 3 bits the low nibbles of quads `j` and `j + 4` share vector `j`; two-bit
//! planes hold quad `j` at bit `2 (j % 4)` of vector `j / 4`; one-bit planes hold quad `j` at bit `j`.
//!
//! NVFP4 has its scale for a whole matrix in `d`, times the block's scale, times 256: a scale byte of it, moved up in an IEEE half, is a
//! 256th of the float that it stands for. Its blocks are shorter than units, so that the last unit of a row may have blocks of zeros; activations do
//! not reach there.
//!
//! Packing is exact: [`unpack_row`] gives the bits that [`crate::quant::dequantize`] gives.

use crate::quant::{Block, Format, Levels, Quant, e4m3, grids, iq4_nl, mxfp4, tq1_0};
use half::{bf16, f16};

/// Rows of a group: the lanes of a vector.
pub const ROWS: usize = 16;
/// Columns of an activation block: one scale.
pub const BLOCK: usize = 32;

/// The packed layout of a quantised format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bits that are stored of a code: 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// The codes, where the stored bits are the place in a table of these.
    pub levels: Option<Levels>,
    /// Columns that share a scale: 16 or 32.
    pub group: usize,
    /// Whether scales have two levels: an f16 per 256 columns times an integer per group.
    pub two_level: bool,
    /// Whether these scales are an f32 times E4M3 floats instead.
    pub e4m3: bool,
    /// Whether the format subtracts a minimum.
    pub min: bool,
    /// Whether scales are bfloat16 rather than f16: powers of two down to 2^-128.
    pub wide: bool,
    /// Scales are f16 divided by two to the power of this: divided when they are loaded, since small ones would lose bits.
    pub shift: u32,
}

/// Shorthand for [`LAYOUTS`]: the bits of a code, the columns of a scale.
const fn layout(bits: u32, group: usize) -> Layout {
    Layout { bits, levels: None, group, two_level: false, e4m3: false, min: false, wide: false, shift: 0 }
}

/// The same of a two-level format with a table.
const fn table(bits: u32, group: usize, levels: Levels) -> Layout {
    Layout { levels: Some(levels), two_level: true, ..layout(bits, group) }
}

/// The layouts that kernels are compiled for; the kernels' parameter is an index. Tests iterate the table of formats, and find a
/// format whose layout is not here.
#[rustfmt::skip]
pub(crate) const LAYOUTS: [Layout; 21] = [
    layout(4, 32),                                                                  // Q4_0
    Layout { min: true, ..layout(4, 32) },                                          // Q4_1
    layout(5, 32),                                                                  // Q5_0
    Layout { min: true, ..layout(5, 32) },                                          // Q5_1
    layout(8, 32),                                                                  // Q8_0
    Layout { two_level: true, min: true, ..layout(2, 16) },                         // Q2_K
    Layout { two_level: true, ..layout(3, 16) },                                    // Q3_K
    Layout { two_level: true, min: true, ..layout(4, 32) },                         // Q4_K
    Layout { two_level: true, min: true, ..layout(5, 32) },                         // Q5_K
    Layout { two_level: true, ..layout(6, 16) },                                    // Q6_K
    Layout { levels: Some(iq4_nl::LEVELS), ..layout(4, 32) },                       // IQ4_NL
    table(4, 32, iq4_nl::LEVELS),                                                   // IQ4_XS
    Layout { wide: true, levels: Some(mxfp4::LEVELS), ..layout(4, 32) },            // MXFP4
    Layout { shift: 3, ..table(3, 32, grids::IQ2_LEVELS) },                         // IQ2_XXS
    Layout { shift: 3, ..table(3, 16, grids::IQ2_LEVELS) },                         // IQ2_XS, IQ2_S
    Layout { shift: 2, ..table(4, 32, grids::IQ3_XXS_LEVELS) },                     // IQ3_XXS
    table(4, 32, grids::IQ3_S_LEVELS),                                              // IQ3_S
    Layout { shift: 3, ..table(3, 32, grids::IQ1_LEVELS) },                         // IQ1_S
    Layout { shift: 3, ..table(3, 16, grids::IQ1_LEVELS) },                         // IQ1_M
    table(2, 32, tq1_0::LEVELS),                                                    // TQ1_0, TQ2_0
    Layout { e4m3: true, ..table(4, 16, mxfp4::LEVELS) },                           // NVFP4
];

/// What kernels ask of layout `L` of [`LAYOUTS`], as constants: folding the functions in each kernel instead doubled the time that the
/// kernels take to compile.
pub(crate) struct Facts<const L: usize>;
impl<const L: usize> Facts<L> {
    pub(crate) const LAYOUT: Layout = LAYOUTS[L];
    pub(crate) const CODE_BITS: u32 = LAYOUTS[L].code_bits();
    pub(crate) const OFFSET: i32 = LAYOUTS[L].offset();
    pub(crate) const TABLE: [u8; 16] = LAYOUTS[L].table();
    pub(crate) const BLOCKS: usize = LAYOUTS[L].unit_cols() / BLOCK;
    pub(crate) const UNIT_BYTES: usize = LAYOUTS[L].unit_bytes();
    pub(crate) const BLOCK_BYTES: usize = LAYOUTS[L].block_bytes();
    pub(crate) const SCALE_BYTES: usize = LAYOUTS[L].scale_bytes();
}

/// `[kernel::<0>, kernel::<1>, ...]`: a kernel's instances for [`LAYOUTS`], as functions of type `$function`; then the one for a layout.
macro_rules! by_layout {
    ($layout:expr, $kernel:ident as $function:ty) => {{
        use $crate::pack::layout::LAYOUTS;
        let instances: [$function; LAYOUTS.len()] = [
            $kernel::<0>,
            $kernel::<1>,
            $kernel::<2>,
            $kernel::<3>,
            $kernel::<4>,
            $kernel::<5>,
            $kernel::<6>,
            $kernel::<7>,
            $kernel::<8>,
            $kernel::<9>,
            $kernel::<10>,
            $kernel::<11>,
            $kernel::<12>,
            $kernel::<13>,
            $kernel::<14>,
            $kernel::<15>,
            $kernel::<16>,
            $kernel::<17>,
            $kernel::<18>,
            $kernel::<19>,
            $kernel::<20>,
        ];
        LAYOUTS.iter().position(|l| *l == $layout).map(|i| instances[i])
    }};
}
pub(crate) use by_layout;

impl Layout {
    /// Its place in the table of layouts: the kernels of one layout are compiled under this number.
    pub fn index(self) -> Option<usize> {
        LAYOUTS.iter().position(|l| *l == self)
    }

    /// The layout of a block-quantised format; `None` for the float formats.
    pub fn of(format: Format) -> Option<Layout> {
        let q = format.quant()?;
        let range = match q.levels {
            Some(levels) => levels.len() as u32 - 1,
            None => (i32::from(q.codes.1) - i32::from(q.codes.0)) as u32,
        };
        Some(Layout {
            bits: range.ilog2() + 1,
            levels: q.levels,
            group: q.group_len,
            two_level: format.block_len() > BLOCK,
            e4m3: q.e4m3,
            min: q.has_min(),
            wide: q.wide_scale,
            shift: q.scale_shift,
        })
    }

    /// Bits of an unsigned code as it is multiplied: the stored ones, or what a table's values take.
    pub const fn code_bits(&self) -> u32 {
        let Some(levels) = self.levels else { return self.bits };
        let (mut bits, mut i) = (1, 0);
        while i < levels.len() {
            let level = levels[i] as i32;
            while level < -(1 << (bits - 1)) || level >= 1 << (bits - 1) {
                bits += 1;
            }
            i += 1;
        }
        bits
    }

    /// The unsigned code for each stored one, of a format with a table.
    pub const fn table(&self) -> [u8; 16] {
        let mut table = [0; 16];
        if let Some(levels) = self.levels {
            let mut i = 0;
            while i < levels.len() {
                table[i] = (levels[i] as i32 + self.offset()) as u8;
                i += 1;
            }
        }
        table
    }

    /// Columns of a unit.
    pub const fn unit_cols(&self) -> usize {
        if self.two_level { 256 } else { 64 }
    }

    /// Subtracted from an unsigned code to get the format's code.
    pub const fn offset(&self) -> i32 {
        if self.min { 0 } else { 1 << (self.code_bits() - 1) }
    }

    /// Whether scale and minimum of a group share a byte (Q2_K: four bits each).
    pub const fn nibble_scales(&self) -> bool {
        self.two_level && self.min && self.bits == 2
    }

    /// Bytes of a unit before its codes.
    pub const fn scale_bytes(&self) -> usize {
        if self.two_level {
            let planes = if self.min && !self.nibble_scales() { 2 } else { 1 };
            64 + planes * (256 / self.group) * ROWS
        } else if self.min {
            128
        } else {
            64
        }
    }

    /// Bytes of the codes of 32 columns.
    pub const fn block_bytes(&self) -> usize {
        64 * self.bits as usize
    }

    /// Bytes of a unit: a multiple of a cache line.
    pub const fn unit_bytes(&self) -> usize {
        self.scale_bytes() + self.unit_cols() / BLOCK * self.block_bytes()
    }

    /// Whether a row's last unit may have blocks past the row's end.
    pub(crate) const fn open_ended(&self) -> bool {
        self.e4m3
    }

    /// Units of a row of `cols` columns; the last one may be padded with zeros.
    pub const fn units(&self, cols: usize) -> usize {
        cols.div_ceil(self.unit_cols())
    }

    /// Bytes of a group of sixteen rows.
    pub const fn group_bytes(&self, cols: usize) -> usize {
        self.units(cols) * self.unit_bytes()
    }

    /// Byte of a unit that holds the scale (`min = false`) or minimum of scale group `g` for row 0.
    const fn sub_scale(&self, g: usize, min: bool) -> usize {
        let planes = if min && !self.nibble_scales() { 256 / self.group } else { 0 };
        64 + (planes + g) * ROWS
    }

    /// One row's words of a block's vectors, of which a packing has the first [`Layout::bits`]: 32 stored codes in their planes.
    #[inline]
    fn assemble(&self, codes: &[i8; BLOCK]) -> [u32; 8] {
        // Four codes at once, one to a byte: none has bits beyond its own, so no shift below moves one across bytes.
        let mut quads = [0u32; 8];
        for (quad, codes) in quads.iter_mut().zip(codes.as_chunks::<4>().0) {
            *quad = u32::from_le_bytes(codes.map(|c| c as u8));
        }
        let mut words = [0; 8];
        for (j, q) in quads.into_iter().enumerate() {
            match self.bits {
                8 => words[j] = q,
                4..=6 => words[j % 4] |= (q & 0x0f0f_0f0f) << (4 * (j / 4)),
                _ => words[j / 4] |= (q & 0x0303_0303) << (2 * (j % 4)),
            }
            match self.bits {
                6 => words[4 + j / 4] |= (q >> 4 & 0x0303_0303) << (2 * (j % 4)),
                5 => words[4] |= (q >> 4 & 0x0101_0101) << j,
                3 => words[2] |= (q >> 2 & 0x0101_0101) << j,
                _ => {}
            }
        }
        words
    }

    /// Where the bits of quad `quad` of a block lie: up to two pieces `(vector, shift, bits, up)`, each meaning
    /// `((byte >> shift) & (2^bits - 1)) << up`.
    fn planes(&self, quad: usize) -> [(usize, u32, u32, u32); 2] {
        let two_bits = |first: usize, up: u32| (first + quad / 4, 2 * (quad as u32 % 4), 2, up);
        let one_bit = |vector: usize, up: u32| (vector, quad as u32, 1, up);
        let none = (0, 0, 0, 0);
        let nibble = (quad % 4, 4 * (quad as u32 / 4), 4, 0);
        match self.bits {
            8 => [(quad, 0, 8, 0), none],
            6 => [nibble, two_bits(4, 4)],
            5 => [nibble, one_bit(4, 4)],
            4 => [nibble, none],
            3 => [two_bits(0, 0), one_bit(2, 2)],
            _ => [two_bits(0, 0), none],
        }
    }
}

/// Packs up to sixteen rows of `cols` columns into one group. Missing rows become zeros.
///
/// `rows[r]` are the stored bytes of row `r`; `out` has [`Layout::group_bytes`] bytes.
pub fn pack_group(
    format: Format,
    quant: &Quant,
    layout: Layout,
    rows: &[&[u8]],
    cols: usize,
    out: &mut [u8],
) {
    out.fill(0);
    let (len, bytes) = (format.block_len(), format.block_bytes());
    let low = quant.codes.0;
    let places: [u8; 256] = places(layout);
    let mut block = Block::default();
    for (r, row) in rows.iter().enumerate().take(ROWS) {
        for (b, src) in row.chunks_exact(bytes).enumerate().take(cols / len) {
            quant.unpack(src, &mut block);
            let col = b * len;
            let unit = &mut out[col / layout.unit_cols() * layout.unit_bytes()..][..layout.unit_bytes()];
            let first = col % layout.unit_cols() / BLOCK;
            let half = |v: f32| match layout.wide {
                true => bf16::from_f32(v).to_le_bytes(),
                false => f16::from_f32(v * (1u32 << layout.shift) as f32).to_le_bytes(),
            };
            if layout.two_level {
                if layout.e4m3 {
                    unit[4 * r..4 * r + 4].copy_from_slice(&(block.d * MOVED_UP).to_le_bytes());
                } else {
                    unit[2 * r..2 * r + 2].copy_from_slice(&half(block.d));
                    unit[32 + 2 * r..34 + 2 * r].copy_from_slice(&half(block.dmin));
                }
                let before = col % layout.unit_cols() / layout.group;
                for g in 0..len / layout.group {
                    unit[layout.sub_scale(before + g, false) + r] |= block.scales[g] as u8;
                    if layout.min {
                        let m = if layout.nibble_scales() { block.mins[g] << 4 } else { block.mins[g] };
                        unit[layout.sub_scale(before + g, true) + r] |= m;
                    }
                }
            } else {
                let at = 32 * first + 2 * r;
                unit[at..at + 2].copy_from_slice(&half(block.d));
                if layout.min {
                    unit[64 + at..66 + at].copy_from_slice(&half(block.dmin));
                }
            }
            let stored = &mut block.codes[..len];
            match layout.levels {
                Some(_) => stored.iter_mut().for_each(|c| *c = places[usize::from(*c as u8)] as i8),
                None => stored.iter_mut().for_each(|c| *c = c.wrapping_sub(low)),
            }
            for (i, codes) in stored.as_chunks::<BLOCK>().0.iter().enumerate() {
                let at = layout.scale_bytes() + (first + i) * layout.block_bytes();
                let vectors = unit[at..at + layout.block_bytes()].as_chunks_mut::<64>().0;
                for (vector, word) in vectors.iter_mut().zip(layout.assemble(codes)) {
                    vector[4 * r..4 * r + 4].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
}

/// How many times an E4M3 float is what its bits stand for at the top of an IEEE half's exponent and mantissa.
const MOVED_UP: f32 = 256.0;

/// Multiplies row `r` of a packed group by `scale`, which a layout of E4M3 scales has room for: each unit's `d`.
pub fn scale_row(layout: Layout, group: &mut [u8], r: usize, scale: f32) {
    debug_assert!(layout.e4m3, "{layout:?} has no scale of whole rows");
    for unit in group.chunks_exact_mut(layout.unit_bytes()) {
        if let Some(d) = unit[4 * r..].first_chunk_mut::<4>() {
            *d = (f32::from_le_bytes(*d) * scale).to_le_bytes();
        }
    }
}

/// The place of each code in the table of a format's codes, by the code's low byte.
fn places(layout: Layout) -> [u8; 256] {
    let mut places = [0; 256];
    for (i, &level) in layout.levels.into_iter().flatten().enumerate() {
        places[usize::from(level as u8)] = i as u8;
    }
    places
}

/// Dequantises row `r` of a packed group: the inverse of [`pack_group`], and the embedding look-up.
pub fn unpack_row(layout: Layout, group: &[u8], r: usize, out: &mut [f32]) {
    let half = |b: &[u8]| match layout.wide {
        true => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        false => f16::from_le_bytes([b[0], b[1]]).to_f32() / (1u32 << layout.shift) as f32,
    };
    for (c, out) in out.chunks_mut(layout.group).enumerate() {
        let col = c * layout.group;
        let unit = &group[col / layout.unit_cols() * layout.unit_bytes()..][..layout.unit_bytes()];
        let in_unit = col % layout.unit_cols();
        let (scale, min) = if layout.two_level {
            let g = in_unit / layout.group;
            let (s, m) = (unit[layout.sub_scale(g, false) + r], unit[layout.sub_scale(g, true) + r]);
            if layout.e4m3 {
                let d = f32::from_le_bytes([unit[4 * r], unit[4 * r + 1], unit[4 * r + 2], unit[4 * r + 3]]);
                (d * (e4m3(s) / MOVED_UP), 0.0)
            } else {
                let (s, m) = match (layout.nibble_scales(), layout.min) {
                    (true, _) => (f32::from(s & 15), f32::from(m >> 4)),
                    (_, true) => (f32::from(s as i8), f32::from(m)),
                    _ => (f32::from(s as i8), 0.0),
                };
                (half(&unit[2 * r..]) * s, half(&unit[32 + 2 * r..]) * m)
            }
        } else {
            let at = 32 * (in_unit / BLOCK) + 2 * r;
            (half(&unit[at..]), if layout.min { half(&unit[64 + at..]) } else { 0.0 })
        };
        let vectors =
            &unit[layout.scale_bytes() + in_unit / BLOCK * layout.block_bytes()..][..layout.block_bytes()];
        for (i, out) in out.iter_mut().enumerate() {
            let i = in_unit % BLOCK + i;
            let code = layout.planes(i / 4).into_iter().fold(0, |code, (vector, shift, bits, up)| {
                let b = u32::from(vectors[64 * vector + 4 * r + i % 4]);
                code | ((b >> shift) & ((1 << bits) - 1)) << up
            });
            let code = match layout.levels {
                Some(levels) => i32::from(levels[code as usize]),
                None => code as i32 - layout.offset(),
            };
            *out = scale * code as f32 - min;
        }
    }
}
