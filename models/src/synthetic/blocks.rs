//! Random weights in every stored format.

use half::{bf16, f16};
use kinfer_core::{Format, Quant, dequantize};

/// SplitMix64 (Steele, Lea & Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose sequence depends on `seed` alone.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in -1 to 1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Makes blocks of a format whose values have zero mean, about, and a given root mean square.
#[derive(Debug)]
pub struct Blocks {
    format: Format,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Values to pick from, encoded.
    Float(Vec<u8>),
    /// A block's half-precision scale, and its offset (or the scale of its minimums). All else in a block may have any bits.
    Quantised(&'static Quant, [f16; 2]),
    /// The first bytes of a block, so many, are scales: picked from these. All else may have any bits.
    Scales(usize, [u8; SCALES]),
}

/// Scales that blocks of MXFP4 and NVFP4 pick from: so many that their mean square is within 5 % of any.
const SCALES: usize = 64;

/// Values that floats are picked from: 12 random bits choose one.
const FLOATS: usize = 1 << 12;
/// Blocks that the root mean square at scale 1 is estimated from: at 32 values each, to within 1 %.
const SAMPLE: usize = 512;

impl Blocks {
    /// Blocks of `format` with values of root mean square `rms`.
    pub fn new(format: Format, rms: f32) -> Blocks {
        let Some(quant) = format.quant() else { return Blocks { format, kind: floats(format, rms) } };
        if quant.wide_scale {
            return Blocks { format, kind: Kind::Scales(1, exponents(rms)) };
        }
        if quant.e4m3 {
            return Blocks { format, kind: Kind::Scales(4, e4m3(rms)) };
        }
        // What centres the codes at scale 1: added to them where there is one per block, subtracted in blocks of 256.
        let centre = f32::from(quant.codes.1) / if format.block_len() > 32 { 2.0 } else { -2.0 };
        let scaled_by = |s: f32| {
            let halves = [s, centre * s].map(f16::from_f32);
            Blocks { format, kind: Kind::Quantised(quant, halves) }
        };
        let mut sample = vec![0; SAMPLE * format.block_bytes()];
        scaled_by(1.0).fill(&mut Random::new(0), &mut sample);
        let mut values = vec![0.0; SAMPLE * format.block_len()];
        dequantize(format, &sample, &mut values);
        scaled_by(rms / root_mean_square(&values))
    }

    /// Fills `out`, a whole number of blocks.
    pub fn fill(&self, random: &mut Random, out: &mut [u8]) {
        match &self.kind {
            Kind::Float(values) => {
                let size = self.format.block_bytes();
                for four in out.chunks_mut(4 * size) {
                    let bits = random.bits();
                    for (i, out) in four.chunks_exact_mut(size).enumerate() {
                        let at = (bits >> (16 * i)) as usize % FLOATS * size;
                        out.copy_from_slice(&values[at..at + size]);
                    }
                }
            }
            Kind::Scales(count, scales) => {
                random.fill(out);
                for block in out.chunks_exact_mut(self.format.block_bytes()) {
                    block[..*count].iter_mut().for_each(|b| *b = scales[usize::from(*b) % SCALES]);
                }
            }
            Kind::Quantised(quant, [scale, offset]) => {
                random.fill(out);
                for block in out.chunks_exact_mut(self.format.block_bytes()) {
                    quant.put_halves(block, *scale, *offset);
                    if self.format == Format::TQ2_0 {
                        // The fourth code, 2, is in no model: it becomes 0, so that the values have no mean.
                        block[..64].iter_mut().for_each(|b| *b &= !((*b & (*b >> 1) & 0x55) << 1));
                    }
                }
            }
        }
    }
}

fn floats(format: Format, rms: f32) -> Kind {
    let mut random = Random::new(0);
    // A uniform variable has a root mean square of 1/sqrt(3).
    let values = (0..FLOATS).map(|_| 3f32.sqrt() * rms * random.uniform());
    Kind::Float(match format {
        Format::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
        Format::BF16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    })
}

/// Two neighbouring exponents, so often each that the mean square is right.
fn exponents(rms: f32) -> [u8; SCALES] {
    // The sixteen values of MXFP4 have the mean square 8.5625 at exponent 127.
    let square = rms * rms / 8.5625;
    let low = (square.log2() / 2.0).floor();
    let share = (square / (2.0 * low).exp2() - 1.0) / 3.0;
    let high = (share * SCALES as f32).round() as usize;
    std::array::from_fn(|i| (127.0 + low) as u8 + u8::from(i < high))
}

/// The same of E4M3 floats, from 2^-9 to 448.
fn e4m3(rms: f32) -> [u8; SCALES] {
    // The sixteen values have the mean square 8.5625 at scale 1.
    let square = rms * rms / 8.5625;
    let value = |bits: u8| match bits >> 3 {
        0 => f32::from(bits) / 512.0,
        e => (1.0 + f32::from(bits & 7) / 8.0) * (f32::from(e) - 7.0).exp2(),
    };
    let low = (0..0x7e).rev().find(|&bits| value(bits).powi(2) <= square).unwrap_or(0);
    let [of_low, of_high] = [low, low + 1].map(|bits| value(bits).powi(2));
    let high = ((square - of_low) / (of_high - of_low) * SCALES as f32).round() as usize;
    std::array::from_fn(|i| low + u8::from(i < high))
}

fn root_mean_square(values: &[f32]) -> f32 {
    (values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_scale_asked_for() {
        for format in Format::all() {
            let blocks = Blocks::new(format, 0.02);
            let mut bytes = vec![0; 1000 * format.block_bytes()];
            blocks.fill(&mut Random::new(1), &mut bytes);
            let mut values = vec![0.0; 1000 * format.block_len()];
            dequantize(format, &bytes, &mut values);
            let rms = root_mean_square(&values);
            assert!((rms / 0.02 - 1.0).abs() < 0.05, "{format}: {rms}");
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            // Codes from -8 to 7 are -0.5 in the mean, 0.11 of their root mean square.
            assert!(mean.abs() < 0.12 * rms, "{format}: mean {mean}");
        }
    }
}
