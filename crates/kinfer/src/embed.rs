//! Embeddings: texts as vectors.

use crate::{Error, Model, Result};
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{Batch, KvTypes, Pooling, Role, RunnerLimits, dequantize};
use kinfer_load::tokenizer::Encode;
use kinfer_models::arch;
use kinfer_models::source::{Source, Stored};
use std::ops::Range;

/// Rows of a step, unless a single text needs more.
const ROWS: usize = 512;

/// How texts are embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbedOptions {
    /// How the hidden states of a text become one vector; `None`: as the model file says.
    pub pooling: Option<Pooling>,
    /// Whether vectors are scaled to length 1, so that the product of two is the cosine of their angle. Default true.
    pub normalise: bool,
    /// Whether a text that is longer than the model's context is cut, instead of being an error. What the tokenizer puts at a
    /// text's end stays there.
    pub truncate: bool,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self { pooling: None, normalise: true, truncate: false }
    }
}

/// A text as a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The vector, as wide as the model; of EmbeddingGemma as wide as its last product.
    pub values: Vec<f32>,
    /// Tokens that were computed, with those that the tokenizer adds.
    pub tokens: usize,
    /// Tokens that were cut off.
    pub cut: usize,
}

impl Model {
    /// The embeddings of `texts`, in their order. Texts are computed together where they are short; what a text's vector is does
    /// not depend on the others. A call has a cache and buffers of its own, so many texts are better given at once.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] for a text that exceeds the model's context; [`Error::Usage`] where neither file nor options say how
    /// to pool, and for a text without tokens; [`Error::Tokenizer`]; [`Error::Memory`]; [`Error::Model`].
    pub fn embed<S: AsRef<str>>(&self, texts: &[S], options: &EmbedOptions) -> Result<Vec<Embedding>> {
        let EmbedOptions { pooling, normalise, truncate } = *options;
        let Some(pooling) = pooling.or(self.spec().pooling) else {
            return Err(Error::Usage(
                "the model file does not say how hidden states become one vector; ask for mean, cls or last, as the model's card \
                 says (decoders that were trained to embed mostly take the last one)"
                    .into(),
            ));
        };
        let mut all = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            all.push(self.ids_to_embed(i + 1, text.as_ref(), truncate)?);
        }
        let mut done: Vec<Embedding> = all
            .iter()
            .map(|(ids, cut)| Embedding { values: vec![0.0; self.spec().dim], tokens: ids.len(), cut: *cut })
            .collect();
        let ids: Vec<&[u32]> = all.iter().map(|(ids, _)| ids.as_slice()).collect();
        self.compute(&ids, pooling, &mut done)?;
        for matrix in self.after_pooling()? {
            done.iter_mut().for_each(|e| e.values = product(&matrix, &e.values));
        }
        if normalise {
            done.iter_mut().for_each(|e| normalised(&mut e.values));
        }
        Ok(done)
    }

    /// Tokens of text `number`, and how many were cut off.
    fn ids_to_embed(&self, number: usize, text: &str, truncate: bool) -> Result<(Vec<u32>, usize)> {
        // As data: what looks like a control token in the text is text.
        let encode = |eos| self.tokenizer().encode(text, Encode { special: false, bos: None, eos });
        let mut ids = encode(None)?;
        let (tokens, limit) = (ids.len(), self.spec().context);
        if tokens == 0 {
            return Err(Error::Usage(format!("text {number} is empty: it has no tokens to embed")));
        }
        let cut = tokens.saturating_sub(limit);
        if cut > 0 {
            if !truncate {
                return Err(Error::TextTooLong { number, tokens, limit });
            }
            let end = encode(Some(false))?.len();
            let from = end.saturating_sub(cut);
            ids.drain(from..(from + cut).min(tokens));
        }
        Ok((ids, cut))
    }

    /// What EmbeddingGemma's pooled vectors are multiplied with, each as wide as the vector before it.
    fn after_pooling(&self) -> Result<Vec<Vec<f32>>> {
        let mut matrices = Vec::new();
        let mut width = self.spec().dim;
        let found = arch::AFTER_POOLING.into_iter().filter(|_| self.spec().arch == "gemma-embedding");
        for name in found {
            let Some(Stored { shape, format, data }) = Source::tensor(self.gguf(), name)? else { continue };
            if shape.len() != 2 || shape[1] != width {
                let (expected, got) = (format!("[rows, {width}]"), format!("{shape:?}"));
                return Err(kinfer_core::Error::Shape { name: name.into(), expected, got }.into());
            }
            let mut values = vec![0.0; shape[0] * width];
            dequantize(format, &data.rows(0..shape[0]), &mut values);
            matrices.push(values);
            width = shape[0];
        }
        Ok(matrices)
    }

    fn compute(&self, texts: &[&[u32]], pooling: Pooling, done: &mut [Embedding]) -> Result<()> {
        let total: usize = texts.iter().map(|ids| ids.len()).sum();
        let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        // Where positions see the whole text, it is computed at once.
        let least = if self.spec().generates() { 1 } else { longest };
        let rows = total.min(ROWS).max(least);
        let steps = steps(texts, rows);
        let blocks_of = |piece: &Piece| piece.range.end.div_ceil(BLOCK_LEN);
        let blocks = steps.iter().map(|s| s.iter().map(blocks_of).sum()).max().unwrap_or(0);
        let pieces = steps.iter().map(Vec::len).max().unwrap_or(0);
        let outputs = if pooling == Pooling::Mean { rows } else { pieces };
        let limits = RunnerLimits {
            rows,
            outputs,
            logits: false,
            blocks,
            states: pieces,
            context: self.spec().context,
            kv: KvTypes::default(),
        };
        if steps.is_empty() {
            return Ok(());
        }
        let mut runner = self.runner(limits)?;
        let mut batch = Batch::default();
        for step in &steps {
            batch.clear();
            let mut first = 0;
            for (state, piece) in (0..).zip(step) {
                let (ids, next) = (texts[piece.text], first + blocks_of(piece) as u32);
                let (row, role) = (batch.rows(), Role::of_prompt(ids.len()));
                let table: Vec<u32> = (first..next).collect();
                batch.push_state(state, role, &ids[piece.range.clone()], piece.range.start, &table, false);
                let wanted = piece.wanted(ids.len(), pooling);
                batch.outputs.extend(wanted.map(|i| (row + i - piece.range.start) as u32));
                first = next;
            }
            let states = runner.step(&batch)?;
            let mut at = 0;
            for piece in step {
                let len = texts[piece.text].len();
                let share = if pooling == Pooling::Mean { 1.0 / len as f32 } else { 1.0 };
                for _ in piece.wanted(len, pooling) {
                    let sum = done[piece.text].values.iter_mut();
                    sum.zip(states.row(at)).for_each(|(sum, x)| *sum += share * x);
                    at += 1;
                }
            }
        }
        Ok(())
    }
}

/// Tokens of a text that are computed in one step.
#[derive(Debug, PartialEq)]
struct Piece {
    text: usize,
    range: Range<usize>,
}

impl Piece {
    /// Positions whose hidden states are pooled; the text has `len`.
    fn wanted(&self, len: usize, pooling: Pooling) -> Range<usize> {
        let all = match pooling {
            Pooling::Mean => 0..len,
            Pooling::Cls => 0..1,
            Pooling::Last => len - 1..len,
        };
        all.start.max(self.range.start)..all.end.min(self.range.end)
    }
}

/// Texts in steps of at most `rows` rows: several where they fit, and one that does not fit in steps of its own.
fn steps(texts: &[&[u32]], rows: usize) -> Vec<Vec<Piece>> {
    let mut steps: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for (text, ids) in texts.iter().enumerate() {
        let len = ids.len();
        if len <= room
            && let Some(last) = steps.last_mut()
        {
            last.push(Piece { text, range: 0..len });
            room -= len;
            continue;
        }
        for from in (0..len).step_by(rows) {
            steps.push(vec![Piece { text, range: from..len.min(from + rows) }]);
        }
        // A text in pieces shares none of its steps.
        room = rows.saturating_sub(len);
    }
    steps
}

/// The product of a matrix, row after row, with `x`.
fn product(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    matrix.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

/// Scales `x` to length 1; a vector of zeros stays.
fn normalised(x: &mut [f32]) {
    let length = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if length > 0.0 {
        x.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lens: &[usize], rows: usize) -> Vec<Vec<(usize, Range<usize>)>> {
        let texts: Vec<Vec<u32>> = lens.iter().map(|&n| vec![0; n]).collect();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        steps(&texts, rows).into_iter().map(|s| s.into_iter().map(|p| (p.text, p.range)).collect()).collect()
    }

    #[test]
    fn short_texts_share_a_step_and_long_ones_have_several() {
        assert_eq!(
            cut(&[3, 4, 2, 8, 19, 1], 8),
            [
                vec![(0, 0..3), (1, 0..4)],
                vec![(2, 0..2)],
                vec![(3, 0..8)],
                vec![(4, 0..8)],
                vec![(4, 8..16)],
                vec![(4, 16..19)],
                vec![(5, 0..1)],
            ]
        );
        assert!(cut(&[], 0).is_empty());
    }

    #[test]
    fn what_is_pooled_is_in_one_piece_or_all() {
        let pieces = [0..4, 4..7].map(|range| Piece { text: 0, range });
        let wanted = |pooling| pieces.each_ref().map(|p| p.wanted(7, pooling));
        assert_eq!(wanted(Pooling::Mean), [0..4, 4..7]);
        assert_eq!(wanted(Pooling::Cls).map(|r| r.len()), [1, 0]);
        assert_eq!(wanted(Pooling::Last).map(|r| r.len()), [0, 1]);
    }

    #[test]
    fn a_product_is_of_rows() {
        assert_eq!(product(&[1.0, 2.0, 0.0, -1.0, 3.0, 0.5], &[2.0, 4.0]), [10.0, -4.0, 8.0]);
    }

    #[test]
    fn vectors_get_length_one() {
        let mut x = [3.0, 4.0];
        normalised(&mut x);
        assert_eq!(x, [0.6, 0.8]);
        let mut zero = [0.0; 2];
        normalised(&mut zero);
        assert_eq!(zero, [0.0; 2]);
    }
}
