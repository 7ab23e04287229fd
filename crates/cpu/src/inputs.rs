//! What a model's weights are multiplied with: sums that say how much each of their columns counts.

use crate::{Act, Cpu};
use kinfer_core::Unfused;
use kinfer_core::backend::Matrix;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The inputs of one weight's products.
#[derive(Clone, Debug)]
pub struct WeightInputs {
    /// The stored matrices that it is made of, which all have these inputs: the tensor's name, and of the tensor's matrices which
    /// one.
    pub parts: Vec<(String, usize)>,
    /// Rows that it was multiplied with.
    pub rows: u64,
    /// Sums of the squares in each column of these rows, `[cols]`; empty before the first row.
    pub squares: Vec<f64>,
}

/// The inputs of all weights of a model, eight bytes for each column of those that were multiplied.
#[derive(Debug, Default)]
pub struct Inputs(Mutex<Vec<WeightInputs>>);

impl Inputs {
    /// All weights, in the order in which they were made.
    pub fn weights(&self) -> MutexGuard<'_, Vec<WeightInputs>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for the weight made of `parts`.
    pub(crate) fn weight(&self, parts: &[Matrix<'_>]) -> usize {
        let mut made_of: Vec<(String, usize)> = Vec::with_capacity(parts.len());
        for part in parts.iter().map(|m| (m.name.to_owned(), m.expert)) {
            // A tensor whose rows are taken in pieces is one of them.
            if !made_of.contains(&part) {
                made_of.push(part);
            }
        }
        let mut weights = self.weights();
        weights.push(WeightInputs { parts: made_of, rows: 0, squares: Vec::new() });
        weights.len() - 1
    }

    /// Adds these rows of `x`, which weight number `weight` is multiplied with.
    pub(crate) fn add(&self, weight: usize, x: &Act, of: Range<usize>) {
        let mut weights = self.weights();
        let Some(WeightInputs { rows, squares, .. }) = weights.get_mut(weight) else { return };
        squares.resize(x.width(), 0.0);
        *rows += of.len() as u64;
        for r in of {
            squares.iter_mut().zip(x.row(r)).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
    }
}

impl Cpu {
    /// This device, with the inputs of every product added to `inputs`. It runs the default stages, whose products are whole:
    /// fused ones never hold all rows of an input at once.
    pub fn recording(mut self, inputs: Arc<Inputs>) -> Unfused<Cpu> {
        self.inputs = Some(inputs);
        Unfused(self)
    }
}
