//! A model on its way from a file to its devices: each part's weights, and that every tensor was accounted for.

use crate::arch::{Blueprint, Names};
use crate::build::{Builder, Part, weight};
use crate::decoder::{Decoder, Head};
use crate::parts::Has;
use crate::source::Source;
use kinfer_core::{Backend, Error, ModelSpec, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// Told after each weight: bytes of the file packed so far, and in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A model on its way from a file to its devices.
pub(crate) struct Loading<'a> {
    pub spec: Arc<ModelSpec>,
    names: Names,
    logit_scale: f32,
    pub post_norm_scale: f32,
    pub source: &'a dyn Source,
    pub progress: Progress<'a>,
    /// Bytes of the file to pack, and packed.
    pub total: u64,
    pub done: u64,
    /// Tensors that some part has used.
    pub used: HashSet<String>,
}

impl<'a> Loading<'a> {
    pub fn new(blueprint: Blueprint, source: &'a dyn Source, progress: Progress<'a>) -> Result<Self> {
        let Blueprint { spec, names, logit_scale, post_norm_scale } = blueprint;
        let mut total = 0;
        for name in source.tensors().into_iter().filter(|name| !names.ignores(name)) {
            total += source.tensor(name)?.map_or(0, |t| t.data.bytes() as u64);
        }
        let used = names.rope_factors.iter().map(|name| name.to_string()).collect();
        Ok(Loading {
            spec: Arc::new(spec),
            names,
            logit_scale,
            post_norm_scale,
            source,
            progress,
            total,
            done: 0,
            used,
        })
    }

    /// Whether positions end with a table.
    pub fn has_position_table(&self) -> bool {
        self.names.positions.is_some()
    }

    /// Loads the weights of the blocks that `has` names onto `backend`.
    pub fn part<B: Backend>(&mut self, backend: B, has: Has) -> Result<Decoder<B>> {
        let (spec, names) = (self.spec.clone(), self.names);
        let tied = spec.generates() && self.source.tensor(&weight(names.head))?.is_none();
        let mut b = Builder { backend: &backend, all: self, read_per_token: 0, bytes: 0 };
        let mut embed = None;
        if has.embed || has.head && tied {
            if !has.embed {
                b.all.total += b.stored(&weight(names.embed), &[spec.vocab, spec.dim])?.data.bytes() as u64;
            }
            embed = Some(b.weight(&[Part::whole(names.embed, spec.vocab, spec.dim)])?);
        }
        let embed_bytes = std::mem::take(&mut b.read_per_token);
        let embed_bias = match names.token_types.filter(|_| has.embed).map(weight) {
            // Some encoders have no types.
            Some(name) if b.has(&name)? => {
                let types = b.all.source.tensor(&name)?.and_then(|t| t.shape.first().copied());
                // Every token is of the first type: a text is not one of a pair.
                let values = b.values(&name, &[types.unwrap_or(1).max(1), spec.dim])?;
                Some(b.upload(&values[..spec.dim])?)
            }
            _ => None,
        };
        let positions = match names.positions.filter(|_| has.embed) {
            Some(name) => {
                let values = b.values(&weight(name), &[spec.context, spec.dim])?;
                Some(b.upload(&values)?)
            }
            None => None,
        };
        b.read_per_token = 0;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (i, (layer, has)) in spec.layers.iter().zip(&has.layers).enumerate() {
            layers.push(b.layer(&names, i, layer, *has, spec.dim)?);
        }
        let mut head = None;
        if has.head {
            let last = spec.layers.len().saturating_sub(1);
            let norm = match names.stream_norms {
                Some([_, after_ffn]) => format!("blk.{last}.{after_ffn}"),
                None => names.norm.into(),
            };
            let norm = b.norm(&norm, spec.norm, spec.dim, b.all.logit_scale)?;
            let weight = match tied {
                _ if !spec.generates() => None,
                false => Some(b.weight(&[Part::whole(names.head, spec.vocab, spec.dim)])?),
                true => {
                    b.read_per_token += embed_bytes;
                    None
                }
            };
            head = Some(Head { norm, weight, bias: b.bias(names.head, spec.vocab)? });
        }
        let (bytes_per_token, weight_bytes) = (b.read_per_token, b.bytes);
        let part = has.part(&spec);
        Ok(Decoder {
            backend,
            spec,
            has,
            part,
            embed,
            embed_bias,
            positions,
            layers,
            head,
            bytes_per_token,
            weight_bytes,
        })
    }

    /// After all parts.
    ///
    /// # Errors
    /// A tensor that nothing used would mean that the model computes something else than this architecture.
    pub fn finish(self) -> Result<()> {
        let unused = |name: &&str| !self.used.contains(*name) && !self.names.ignores(name);
        if let Some(name) = self.source.tensors().into_iter().find(unused) {
            return Err(Error::Unsupported {
                what: format!("tensor `{name}` in a model of architecture `{}`", self.spec.arch),
                supported: "the tensors that this architecture's published models have".into(),
            });
        }
        // Reading a small tensor brings its neighbours' pages back, up to 2 MiB of them: 40 MB of SmolLM2's.
        self.source.tensors().into_iter().for_each(|name| self.source.release(name));
        (self.progress)(self.total, self.total);
        Ok(())
    }
}
