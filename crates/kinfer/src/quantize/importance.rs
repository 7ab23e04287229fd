//! What an error in a column costs, measured on a text.

use super::Output;
use crate::{Error, Result};
use kinfer_core::dequantize;
use kinfer_load::gguf::{Gguf, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Mean squares of the activations that the columns of each matrix are multiplied with: what an error in a column costs.
pub struct Importance {
    path: PathBuf,
    matrices: BTreeMap<String, Columns>,
}

/// Of one tensor.
pub(super) struct Columns {
    cols: usize,
    /// `[matrices, cols]`
    values: Vec<f32>,
}

impl Columns {
    /// Those of one matrix of the tensor.
    pub fn row(&self, matrix: usize) -> Option<&[f32]> {
        self.values.get(matrix * self.cols..(matrix + 1) * self.cols)
    }
}

impl Importance {
    /// Reads a file of llama.cpp's current format, as its `llama-imatrix` writes: a GGUF file with sums of squares
    /// `NAME.in_sum2` and counts `NAME.counts`.
    ///
    /// # Errors
    /// [`Error::Gguf`] for a file that is no GGUF file, [`Error::Usage`] for one that is no importance matrix.
    pub fn open(path: &Path) -> Result<Importance> {
        let gguf = Gguf::open(path)?;
        let wrong = |what: String| Error::Usage(format!("{}: {what}", path.display()));
        if gguf.metadata().opt::<&str>("general.type")? != Some("imatrix") {
            return Err(wrong("not an importance matrix (general.type is not \"imatrix\")".into()));
        }
        let floats = |tensor: Tensor<'_>| {
            let mut values = vec![0.0; tensor.elements() as usize];
            tensor.format().map(|format| dequantize(format, tensor.data(), &mut values)).map(|()| values)
        };
        let mut matrices = BTreeMap::new();
        for sums in gguf.tensors() {
            let Some(name) = sums.name().strip_suffix(".in_sum2") else { continue };
            let counts = gguf.tensor(&format!("{name}.counts"));
            let counts = floats(counts.ok_or_else(|| wrong(format!("`{name}` has no counts")))?)?;
            let cols = sums.shape().first().map_or(0, |&n| n as usize);
            let mut values = floats(sums)?;
            if cols == 0 || values.len() != cols * counts.len() {
                return Err(wrong(format!("`{name}` has {} sums for {} counts", values.len(), counts.len())));
            }
            for (row, count) in values.chunks_exact_mut(cols).zip(&counts) {
                // An expert that was never chosen says nothing: its columns count alike.
                row.iter_mut().for_each(|v| *v = if *count > 0.0 { *v / count } else { 1.0 });
            }
            if let Some(v) = values.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
                return Err(wrong(format!("`{name}` has a mean square of {v}")));
            }
            matrices.insert(name.to_owned(), Columns { cols, values });
        }
        Ok(Importance { path: path.into(), matrices })
    }

    pub(super) fn of(&self, name: &str) -> Option<&Columns> {
        self.matrices.get(name)
    }

    /// Fails where it is of another model.
    pub(super) fn check(&self, outputs: &[Output<'_>]) -> Result<()> {
        let wrong = |what: String| Error::Usage(format!("{}: {what}", self.path.display()));
        let mut any = false;
        for output in outputs {
            let Some(columns) = self.of(&output.name) else { continue };
            let (cols, experts) = (output.shape[0], output.shape.get(2).copied().unwrap_or(1));
            let (got, of) = (columns.cols as u64, (columns.values.len() / columns.cols) as u64);
            if (cols, experts) != (got, of) {
                let name = &output.name;
                return Err(wrong(format!(
                    "`{name}` has {cols} columns and {experts} matrices, here {got} and {of}"
                )));
            }
            any = true;
        }
        if any { Ok(()) } else { Err(wrong("it names no tensor of this model".into())) }
    }
}
