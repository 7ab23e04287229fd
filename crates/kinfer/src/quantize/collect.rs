//! Measuring on a text what the columns of a model's matrices count.

use super::{expert, write_file};
use crate::{Error, LoadOptions, Model, Result};
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{Batch, Format, KvTypes, Role, Runner, RunnerLimits};
use kinfer_cpu::{Inputs, WeightInputs};
use kinfer_load::gguf::{Gguf, GgufError, write::Writer};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Rows of one step; fewer where their logits are in memory, too.
const ROWS: usize = 512;
const ROWS_WITH_HEAD: usize = 128;

/// Runs a model over chunks of text and sums the squares of what each of its matrices is multiplied with: an importance matrix,
/// for [`super::Options::importance`].
pub struct Collector {
    model: Arc<Model>,
    inputs: Arc<Inputs>,
    runner: Box<dyn Runner>,
    batch: Batch,
    blocks: Vec<u32>,
    chunk: usize,
    head: bool,
    chunks: u32,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Tensors of the file.
    pub tensors: usize,
    /// Experts' matrices that no token of the text was sent to, of which the file says nothing.
    pub unused: usize,
    /// Bytes of the file.
    pub written: u64,
}

impl Collector {
    /// Loads a model for chunks of at most `chunk` tokens, onto the CPU. With `head`, the output head is measured, too; for that,
    /// its logits have to be computed for every token.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::Usage`] for a chunk of no token or of more than the model's context, [`Error::Device`] for a
    /// device other than the CPU, [`Error::Memory`].
    pub fn load(gguf: Gguf, options: LoadOptions, chunk: usize, head: bool) -> Result<Collector> {
        let inputs = Arc::new(Inputs::default());
        let model = Model::load_recording(gguf, options, inputs.clone())?;
        let trained = model.spec().context;
        if !(1..=trained).contains(&chunk) {
            return Err(Error::Usage(format!(
                "chunks of {chunk} tokens: the model's context is {trained} tokens"
            )));
        }
        let rows = chunk.min(if head { ROWS_WITH_HEAD } else { ROWS });
        let blocks = chunk.div_ceil(BLOCK_LEN);
        let outputs = if head { rows } else { 0 };
        let limits = RunnerLimits {
            rows,
            outputs,
            logits: true,
            blocks,
            states: 1,
            context: chunk,
            kv: KvTypes::default(),
        };
        let runner = model.runner(limits)?;
        let (batch, blocks) = (Batch::default(), (0..blocks as u32).collect());
        Ok(Collector { model, inputs, runner, batch, blocks, chunk, head, chunks: 0 })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Adds a chunk, which is computed as a prompt by itself.
    ///
    /// # Errors
    /// [`Error::Model`] for a chunk that is too long, and for ids outside the vocabulary.
    pub fn add(&mut self, ids: &[u32]) -> Result<()> {
        let rows = self.runner.limits().rows;
        for (i, part) in ids.chunks(rows).enumerate() {
            self.batch.clear();
            self.batch.push(Role::of_prompt(ids.len()), part, i * rows, &self.blocks, false);
            if self.head {
                self.batch.outputs = (0..part.len() as u32).collect();
            }
            self.runner.step(&self.batch)?;
        }
        self.chunks += 1;
        Ok(())
    }

    /// Writes the sums to the file `path`, which is replaced: in llama.cpp's format, with the names of the texts.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] where the model computed something that is not finite.
    pub fn write(&self, path: &Path, datasets: &[&str]) -> Result<Collected> {
        let mut writer = Writer::default();
        writer
            .set("general.type", "imatrix")
            .set("imatrix.datasets", datasets)
            .set("imatrix.chunk_count", self.chunks)
            .set("imatrix.chunk_size", self.chunk as u32);
        write(writer, &self.inputs.weights(), path, &self.model.device())
    }
}

/// Writes a file of these metadata with the sums of `weights`, which `device` computed.
fn write(mut writer: Writer, weights: &[WeightInputs], path: &Path, device: &str) -> Result<Collected> {
    let tensors = by_tensor(weights);
    let fail = |problem| GgufError { path: path.into(), problem };
    let mut data = Vec::with_capacity(2 * tensors.len());
    let mut unused = 0;
    for (name, matrices) in &tensors {
        let cols = matrices.values().map(|m| m.squares.len()).max().unwrap_or(0);
        let count = matrices.keys().last().map_or(0, |last| last + 1);
        let (mut sums, mut counts) = (vec![0f32; cols * count], vec![0f32; count]);
        for (&at, matrix) in matrices {
            counts[at] = matrix.rows as f32;
            let sums = &mut sums[at * cols..(at + 1) * cols];
            sums.iter_mut().zip(&matrix.squares).for_each(|(to, &from)| *to = from as f32);
        }
        if let Some(at) = sums.iter().position(|sum| !sum.is_finite()) {
            let column = at % cols;
            let what =
                format!("`{name}` was multiplied with something that is not finite, in column {column}");
            return Err(kinfer_core::Error::Backend { device: device.into(), source: what.into() }.into());
        }
        unused += counts.iter().filter(|&&rows| rows == 0.0).count();
        for (end, width, values) in [("in_sum2", cols, sums), ("counts", 1, counts)] {
            let shape = [width as u64, count as u64];
            writer.tensor(format!("{name}.{end}"), &shape, Format::F32.tensor_type()).map_err(fail)?;
            data.push(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        }
    }
    let written = write_file(path, |out| Ok(writer.write(out, &data).map_err(fail)?))?;
    Ok(Collected { tensors: tensors.len(), unused, written })
}

/// Of each tensor that was multiplied its matrices, under the names that a GGUF file has: there the matrices of all experts are one
/// tensor.
fn by_tensor(weights: &[WeightInputs]) -> BTreeMap<String, BTreeMap<usize, &WeightInputs>> {
    let mut tensors: BTreeMap<String, BTreeMap<usize, &WeightInputs>> = BTreeMap::new();
    for weight in weights {
        for (name, matrix) in &weight.parts {
            let (name, matrix) = expert(name).unwrap_or_else(|| (name.clone(), *matrix));
            tensors.entry(name).or_default().insert(matrix, weight);
        }
    }
    tensors.retain(|_, matrices| matrices.values().any(|m| m.rows > 0));
    tensors
}

#[cfg(test)]
mod tests {
    use super::super::Importance;
    use super::*;

    fn weight(parts: &[(&str, usize)], rows: u64, squares: &[f64]) -> WeightInputs {
        let parts = parts.iter().map(|&(name, matrix)| (name.into(), matrix)).collect();
        WeightInputs { parts, rows, squares: squares.into() }
    }

    #[test]
    fn matrices_are_found_under_the_names_of_gguf_files() {
        let fused = "blk.0.attn_qkv.weight";
        let weights = [
            weight(&[("token_embd.weight", 0)], 0, &[]),
            weight(&[(fused, 0), (fused, 0), (fused, 0)], 9, &[1.0]),
            weight(&[("blk.0.ffn_gate_exps.weight", 0), ("blk.0.ffn_up_exps.weight", 0)], 0, &[]),
            weight(&[("blk.0.ffn_gate_exps.weight", 1), ("blk.0.ffn_up_exps.weight", 1)], 5, &[1.0]),
            weight(&[("blk.1.ffn_down.10.weight", 0)], 4, &[1.0]),
        ];
        let got: Vec<(String, Vec<(usize, u64)>)> = by_tensor(&weights)
            .into_iter()
            .map(|(name, matrices)| (name, matrices.into_iter().map(|(at, w)| (at, w.rows)).collect()))
            .collect();
        let want = [
            (fused, vec![(0, 9)]),
            ("blk.0.ffn_gate_exps.weight", vec![(0, 0), (1, 5)]),
            ("blk.0.ffn_up_exps.weight", vec![(0, 0), (1, 5)]),
            ("blk.1.ffn_down_exps.weight", vec![(10, 4)]),
        ];
        assert_eq!(got, want.map(|(name, matrices)| (name.to_owned(), matrices)));
    }

    #[test]
    fn what_is_written_is_read_as_means() {
        const UP: &str = "blk.0.ffn_up_exps.weight";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("imatrix.gguf");
        let mut writer = Writer::default();
        writer.set("general.type", "imatrix");
        let chosen = weight(&[(UP, 1)], 4, &[8.0, 2.0, 0.0]);
        let weights = [weight(&[(UP, 0)], 0, &[]), chosen.clone(), weight(&[(UP, 2)], 1, &[5.0, 6.0, 7.0])];
        let report = write(writer, &weights, &path, "cpu").unwrap();
        assert_eq!((report.tensors, report.unused), (1, 1));
        assert_eq!(report.written, std::fs::metadata(&path).unwrap().len());
        let read = Importance::open(&path).unwrap();
        let rows: Vec<_> = (0..4).map(|e| read.of(UP).unwrap().row(e).map(<[f32]>::to_vec)).collect();
        let want = [[1.0; 3], [2.0, 0.5, 0.0], [5.0, 6.0, 7.0]].map(|row| Some(row.to_vec()));
        assert_eq!(rows, [&want[..], &[None]].concat());

        let broken = WeightInputs { squares: vec![1.0, f64::NAN, 1.0], ..chosen };
        let error = write(Writer::default(), &[broken], &path, "cpu").unwrap_err();
        assert!(error.to_string().contains("column 1") && error.to_string().contains(UP), "{error}");
        assert!(Importance::open(&path).is_ok(), "what was there stays");
    }
}
