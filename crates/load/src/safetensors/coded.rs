//! Matrices that a checkpoint stores quantised: FP8 with scales, GPTQ and AWQ; and which tensors are part of one.
//!
//! They stay in their files as they are, and become floats when rows of them are read, by the arithmetic of the packages that define
//! the formats: a code less its zero is exact, and its product with the scale is rounded once, to the format of the result.

use std::ops::Range;

use half::{bf16, f16};
use kinfer_kernels::quant::Format;

use crate::gguf::Problem;

/// Bytes of a stored tensor.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Which file it is in.
    pub part: usize,
    pub range: Range<usize>,
    pub shape: Vec<usize>,
    /// As safetensors files call it.
    pub ty: safetensors::Dtype,
}

impl Piece {
    /// Fails where its bytes are not those of its shape.
    pub(crate) fn check(&self, tensor: &str) -> Result<(), Problem> {
        let bits = self.shape.iter().try_fold(self.ty.bitsize(), |n, &dim| n.checked_mul(dim));
        let (expected, got) = (bits.unwrap_or(usize::MAX) as u64 / 8, self.range.len() as u64);
        match expected == got {
            true => Ok(()),
            false => Err(Problem::DataSize { tensor: tensor.into(), expected, got }),
        }
    }

    /// Its rows and columns, if it is what it should be.
    pub(super) fn expect(
        &self,
        what: &str,
        tys: &[safetensors::Dtype],
        shape: &[usize],
    ) -> Result<(), Problem> {
        if tys.contains(&self.ty) && self.shape == shape {
            return Ok(());
        }
        let tys: Vec<String> = tys.iter().map(|ty| format!("{ty:?}")).collect();
        Err(Problem::Coded {
            tensor: what.into(),
            problem: format!(
                "is {:?} of shape {:?}; {} of {shape:?} is expected",
                self.ty,
                self.shape,
                tys.join(" or ")
            ),
        })
    }

    /// Floats of it, from its bytes.
    fn floats<'a>(&self, bytes: &'a [u8]) -> impl Fn(usize) -> f32 + use<'a> {
        let ty = self.ty;
        move |i| match ty {
            safetensors::Dtype::F16 => f16::from_le_bytes(at(bytes, i)).to_f32(),
            safetensors::Dtype::BF16 => bf16::from_le_bytes(at(bytes, i)).to_f32(),
            _ => f32::from_le_bytes(at(bytes, i)),
        }
    }
}

/// Element `i` of `N` bytes; the constructors have checked that it is there.
fn at<const N: usize>(bytes: &[u8], i: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = bytes.get(i * N..i * N + N) {
        out.copy_from_slice(from);
    }
    out
}

/// The tensors of a module that is stored so.
#[derive(Clone, Debug, Default)]
pub(super) struct Module {
    pub codes: Option<Piece>,
    pub scales: Option<Piece>,
    pub zeros: Option<Piece>,
    /// Which group of scales each column belongs to.
    pub groups: Option<Piece>,
}

/// How a checkpoint's matrices are stored, from `quantization_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// 8-bit floats with a scale per tensor, row or block.
    Fp8 {
        /// Rows and columns that share a scale; `None` where the scales' shape tells (per tensor, or per row).
        block: Option<(usize, usize)>,
        /// What the weights become.
        format: Format,
    },
    /// Words with the codes of consecutive columns.
    Gptq {
        bits: usize,
        /// Columns that share a scale; 0: all of them.
        group: usize,
        /// What is added to stored zeros: 1 in the format's first version.
        offset: u32,
    },
    /// Words with the codes of eight rows, interleaved.
    Awq { group: usize },
}

/// How a checkpoint stores what is quantised in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// Matrices are decoded.
    Coded(Scheme),
    /// Experts are blocks of 4-bit floats that share an exponent, and are computed with as such.
    Mxfp4,
}

/// Which row of eight each nibble of a word of AWQ holds is the inverse of this: which nibble each row is in.
const AWQ_NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
/// Rows that are decoded together, so that the words of a column, which lie beside each other, are read together.
const TILE: usize = 64;

/// What a tensor of a checkpoint is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Codes,
    Scales,
    Zeros,
    Groups,
    /// Of what the activations are quantised with, which is not followed: they are rounded less here.
    Input,
}

impl Storage {
    /// The module that tensor `name` belongs to, and what it is there; `None` for one that is stored as floats.
    pub(super) fn role(self, name: &str, ty: safetensors::Dtype) -> Option<(&str, Role)> {
        let Storage::Coded(scheme) = self else {
            let ends = [("_blocks", Role::Codes), ("_scales", Role::Scales)];
            return ends.into_iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, role)));
        };
        let (module, end) = name.rsplit_once('.')?;
        let role = match (scheme, end) {
            (Scheme::Fp8 { .. }, "weight") if ty == safetensors::Dtype::F8_E4M3 => Role::Codes,
            (Scheme::Fp8 { .. }, "weight_scale_inv" | "weight_scale") => Role::Scales,
            (Scheme::Fp8 { .. }, "input_scale" | "activation_scale") => Role::Input,
            (Scheme::Gptq { .. } | Scheme::Awq { .. }, "qweight") => Role::Codes,
            (Scheme::Gptq { .. } | Scheme::Awq { .. }, "qzeros") => Role::Zeros,
            (Scheme::Gptq { .. } | Scheme::Awq { .. }, "scales") => Role::Scales,
            (Scheme::Gptq { .. }, "g_idx") => Role::Groups,
            _ => return None,
        };
        Some((module, role))
    }
}

/// A matrix that is stored so.
#[derive(Debug)]
pub(crate) struct Coded {
    scheme: Scheme,
    rows: usize,
    cols: usize,
    /// Of the rows that it becomes.
    format: Format,
    codes: Piece,
    scales: Piece,
    zeros: Option<Piece>,
    /// The group of each column.
    groups: Vec<u32>,
}

impl Coded {
    /// Of module `name`; `bytes` are those of a piece.
    pub(super) fn new<'b>(
        name: &str,
        scheme: Scheme,
        module: Module,
        bytes: &dyn Fn(&Piece) -> &'b [u8],
    ) -> Result<Coded, Problem> {
        use safetensors::Dtype::{BF16, F8_E4M3, F16, F32, I32};
        let missing = |part: &str| Problem::Coded {
            tensor: format!("{name}.{part}"),
            problem: "is missing; the checkpoint is not whole".into(),
        };
        let [codes_name, scales_name] = match scheme {
            Scheme::Fp8 { .. } => ["weight", "weight_scale"],
            _ => ["qweight", "scales"],
        };
        let codes = module.codes.ok_or_else(|| missing(codes_name))?;
        let scales = module.scales.ok_or_else(|| missing(scales_name))?;
        let full = |part: &str| format!("{name}.{part}");
        let &[outer, inner] = codes.shape.as_slice() else {
            let problem = format!("is of shape {:?}; a matrix is expected", codes.shape);
            return Err(Problem::Coded { tensor: full(codes_name), problem });
        };
        let floats = [F16, BF16, F32];
        if let Scheme::Fp8 { block, format } = scheme {
            codes.expect(&full(codes_name), &[F8_E4M3], &[outer, inner])?;
            let shape = match (block, scales.shape.as_slice()) {
                (Some((rows, cols)), _) => vec![outer.div_ceil(rows), inner.div_ceil(cols)],
                (None, [] | [1] | [1, 1]) => scales.shape.clone(),
                (None, [_]) => vec![outer],
                (None, _) => vec![outer, 1],
            };
            scales.expect(&full(scales_name), &floats, &shape)?;
            let (rows, cols) = (outer, inner);
            return Ok(Coded { scheme, rows, cols, format, codes, scales, zeros: None, groups: Vec::new() });
        }
        let zeros = module.zeros.ok_or_else(|| missing("qzeros"))?;
        let (rows, cols, group, per_word) = match scheme {
            Scheme::Gptq { bits, group, .. } => (inner, outer.saturating_mul(32 / bits), group, 32 / bits),
            Scheme::Awq { group } => (inner.saturating_mul(8), outer, group, 8),
            Scheme::Fp8 { .. } => (outer, inner, 0, 1),
        };
        codes.expect(&full(codes_name), &[I32], &[outer, inner])?;
        let group = if group == 0 { cols } else { group };
        let count = cols.div_ceil(group.max(1));
        scales.expect(&full(scales_name), &floats, &[count, rows])?;
        zeros.expect(&full("qzeros"), &[I32], &[count, rows.div_ceil(per_word)])?;
        let groups = match &module.groups {
            None => (0..cols).map(|c| (c / group) as u32).collect(),
            Some(piece) => {
                piece.expect(&full("g_idx"), &[I32], &[cols])?;
                let data = bytes(piece);
                let groups: Vec<u32> = (0..cols).map(|c| u32::from_le_bytes(at(data, c))).collect();
                if let Some(wrong) = groups.iter().find(|&&g| g as usize >= count) {
                    let problem = format!("names group {wrong} of {count}");
                    return Err(Problem::Coded { tensor: full("g_idx"), problem });
                }
                groups
            }
        };
        let format = match scales.ty {
            F16 => Format::F16,
            BF16 => Format::BF16,
            _ => Format::F32,
        };
        Ok(Coded { scheme, rows, cols, format, codes, scales, zeros: Some(zeros), groups })
    }

    /// What the format is called.
    pub fn name(&self) -> String {
        match self.scheme {
            Scheme::Fp8 { .. } => "FP8".into(),
            Scheme::Gptq { bits, .. } => format!("GPTQ {bits}-bit"),
            Scheme::Awq { .. } => "AWQ 4-bit".into(),
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// The format of the rows that it becomes.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Codes, scales and zeros.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        [&self.codes, &self.scales].into_iter().chain(&self.zeros)
    }

    /// These rows in [`Coded::format`].
    pub fn decode<'b>(&self, rows: Range<usize>, bytes: &dyn Fn(&Piece) -> &'b [u8]) -> Vec<u8> {
        let rows = rows.start.min(self.rows)..rows.end.min(self.rows);
        let width = if self.format == Format::F32 { 4 } else { 2 };
        let mut out = vec![0; rows.len() * self.cols * width];
        let format = self.format;
        let mut put = |row: usize, col: usize, value: f32| {
            let place = ((row - rows.start) * self.cols + col) * width;
            let place = &mut out[place..place + width];
            match format {
                Format::F16 => place.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                Format::BF16 => place.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                _ => place.copy_from_slice(&value.to_le_bytes()),
            }
        };
        let (codes, scale) = (bytes(&self.codes), self.scales.floats(bytes(&self.scales)));
        match self.scheme {
            Scheme::Fp8 { block, .. } => {
                let values: [f32; 256] = std::array::from_fn(|code| e4m3(code as u8));
                let per_row = self.scales.shape.iter().product::<usize>() > 1;
                for r in rows.clone() {
                    for c in 0..self.cols {
                        let scale = match block {
                            Some((h, w)) => scale(r / h * self.cols.div_ceil(w) + c / w),
                            None => scale(if per_row { r } else { 0 }),
                        };
                        let [code] = at(codes, r * self.cols + c);
                        put(r, c, values[usize::from(code)] * scale);
                    }
                }
            }
            Scheme::Gptq { bits, offset, .. } => {
                let (per_word, mask) = (32 / bits, u32::MAX >> (32 - bits));
                let bit = |i: usize| i % per_word * bits;
                let code = |r: usize, c: usize| word(codes, c / per_word * self.rows + r) >> bit(c) & mask;
                let zero_words = self.rows.div_ceil(per_word);
                let zeros = self.zeros.as_ref().map(bytes).unwrap_or_default();
                let zero = |g: usize, r: usize| {
                    ((word(zeros, g * zero_words + r / per_word) >> bit(r) & mask) + offset) & mask
                };
                self.words(rows.clone(), &code, &zero, &scale, &mut put);
            }
            Scheme::Awq { .. } => {
                let of = |bytes: &[u8], line: usize, r: usize| {
                    word(bytes, line * (self.rows / 8) + r / 8) >> (4 * AWQ_NIBBLE[r % 8]) & 15
                };
                let zeros = self.zeros.as_ref().map(bytes).unwrap_or_default();
                self.words(rows.clone(), &|r, c| of(codes, c, r), &|g, r| of(zeros, g, r), &scale, &mut put);
            }
        }
        out
    }

    /// `(code - zero) * scale`, tile after tile.
    fn words(
        &self,
        rows: Range<usize>,
        code: &impl Fn(usize, usize) -> u32,
        zero: &impl Fn(usize, usize) -> u32,
        scale: &impl Fn(usize) -> f32,
        put: &mut impl FnMut(usize, usize, f32),
    ) {
        let groups = self.scales.shape[0];
        let mut of_groups = vec![(0, 0.0); groups * TILE];
        for first in rows.clone().step_by(TILE) {
            let tile = first..rows.end.min(first + TILE);
            for g in 0..groups {
                for r in tile.clone() {
                    of_groups[g * TILE + r - first] = (zero(g, r) as i32, scale(g * self.rows + r));
                }
            }
            for (c, &g) in self.groups.iter().enumerate() {
                for r in tile.clone() {
                    let (zero, scale) = of_groups[g as usize * TILE + r - first];
                    put(r, c, (code(r, c) as i32 - zero) as f32 * scale);
                }
            }
        }
    }
}

fn word(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(at(bytes, i))
}

/// An 8-bit float with 4 bits of exponent: no infinities, and one NaN of each sign.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code >> 7 == 1 { -size } else { size }
}
