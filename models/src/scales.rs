//! Scales of whole matrices, which files in NVFP4 have in tensors of their own.

use crate::source::Source;
use kinfer_core::{Error, Format, Result, dequantize};
use std::collections::{BTreeMap, HashSet};

/// What a file says of a matrix, or the matrices of experts, beside their elements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scales {
    /// What the elements are multiplied with: one number for all of the tensor, or for each of its matrices; none: 1.
    pub values: Vec<f32>,
    /// The tensors that say so, and their bytes.
    pub tensors: Vec<(String, u64)>,
}

/// The scales of the tensor `name`, a `{name}.weight`: where it is stored in NVFP4, `{name}.scale`. Beside it, `{name}.input_scale` is
/// a scale for activations in the same format; here they have others, so it changes nothing.
///
/// # Errors
/// [`Error::Shape`] for a number of scales that fits neither the tensor nor its matrices, [`Error::Unsupported`] for one that is not finite.
pub fn of(source: &dyn Source, name: &str) -> Result<Scales> {
    let mut scales = Scales::default();
    let (Some(tensor), Some(base)) = (source.tensor(name)?, name.strip_suffix(".weight")) else {
        return Ok(scales);
    };
    if tensor.format != Format::NVFP4 {
        return Ok(scales);
    }
    let matrices = if tensor.shape.len() == 3 { tensor.shape[0] } else { 1 };
    for (end, counts) in [("scale", true), ("input_scale", false)] {
        let name = format!("{base}.{end}");
        let Some(stored) = source.tensor(&name)? else { continue };
        let count: usize = stored.shape.iter().product();
        if stored.shape.len() > 1 || count != 1 && count != matrices || stored.format.block_len() > 1 {
            return Err(Error::Shape {
                name,
                expected: format!("[1] or [{matrices}] of floats"),
                got: format!("{:?} of {}", stored.shape, stored.format),
            });
        }
        if counts {
            scales.values = vec![0.0; count];
            dequantize(stored.format, &stored.data.rows(0..1), &mut scales.values);
            if let Some(value) = scales.values.iter().find(|v| !v.is_finite()) {
                return Err(Error::Unsupported {
                    what: format!("the scale {value} in tensor `{name}`"),
                    supported: "finite ones".into(),
                });
            }
        }
        scales.tensors.push((name, stored.data.bytes() as u64));
    }
    Ok(scales)
}

/// The tensors with scales of those that are to be stored in another of `formats`: they are multiplied into the elements then.
///
/// # Errors
/// As [`of`].
pub fn settled(source: &dyn Source, formats: &BTreeMap<String, Format>) -> Result<HashSet<String>> {
    let mut settled = HashSet::new();
    for (name, format) in formats {
        if source.tensor(name)?.is_some_and(|stored| stored.format != *format) {
            settled.extend(of(source, name)?.tensors.into_iter().map(|(name, _)| name));
        }
    }
    Ok(settled)
}
