//! Blueprint and file to weights on a device: shapes checked, parts fused, every tensor accounted for.

use crate::arch::{Blueprint, Names};
use crate::decoder::Decoder;
use crate::source::{Source, Stored};
use kinfer_core::backend::{AttnWeights, FfnWeights, Layer, Matrix, RowOrder};
use kinfer_core::{AttnSpec, Backend, Error, LayerSpec, Result, dequantize};
use std::collections::HashSet;

/// Told after each weight: bytes of the file packed so far, and in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Loads every weight of `blueprint` from `source` onto `backend`.
pub(crate) fn decoder<B: Backend>(
    backend: B,
    blueprint: Blueprint,
    source: &dyn Source,
    progress: Progress<'_>,
) -> Result<Decoder<B>> {
    let Blueprint { spec, names } = blueprint;
    let mut total = 0;
    for name in source.tensors().into_iter().filter(|name| !names.ignores(name)) {
        total += source.tensor(name)?.map_or(0, |t| t.data.len() as u64);
    }
    let mut b = Builder {
        backend: &backend,
        source,
        arch: &spec.arch,
        progress,
        total,
        done: 0,
        used: HashSet::from([crate::arch::ROPE_FACTORS.to_string()]),
        read_per_token: 0,
        bytes: 0,
    };

    let embed = b.weight(&[Part::whole(names.embed, spec.vocab, spec.dim)])?;
    let embed_bytes = std::mem::take(&mut b.read_per_token);
    let mut layers = Vec::with_capacity(spec.layers.len());
    for (i, layer) in spec.layers.iter().enumerate() {
        layers.push(b.layer(&names, i, layer, spec.dim)?);
    }
    let norm = b.vector(names.norm, spec.dim)?;
    let head = match b.has(names.head)? {
        true => Some(b.weight(&[Part::whole(names.head, spec.vocab, spec.dim)])?),
        false => {
            b.read_per_token += embed_bytes;
            None
        }
    };
    b.check_all_used(&names)?;
    (b.progress)(total, total);
    let (bytes_per_token, weight_bytes) = (b.read_per_token, b.bytes);
    Ok(Decoder { backend, spec, embed, layers, norm, head, bytes_per_token, weight_bytes })
}

/// Consecutive rows of a stored matrix.
struct Part {
    name: String,
    /// Shape of the whole stored matrix.
    stored: (usize, usize),
    /// First row taken, and how many.
    rows: (usize, usize),
    order: RowOrder,
}

impl Part {
    fn whole(name: impl Into<String>, rows: usize, cols: usize) -> Part {
        Part { name: name.into(), stored: (rows, cols), rows: (0, rows), order: RowOrder::AsStored }
    }
}

struct Builder<'a, B: Backend> {
    backend: &'a B,
    source: &'a dyn Source,
    arch: &'a str,
    progress: Progress<'a>,
    total: u64,
    done: u64,
    used: HashSet<String>,
    read_per_token: u64,
    bytes: u64,
}

impl<B: Backend> Builder<'_, B> {
    fn layer(&mut self, names: &Names, i: usize, spec: &LayerSpec, dim: usize) -> Result<Layer<B>> {
        let LayerSpec { attn, ffn } = spec;
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let [gate, up] = names.gate_up;
        let qk_norm = |b: &mut Self, which: usize| match names.qk_norm {
            Some(pair) => b.vector(&name(pair[which]), attn.head_dim).map(Some),
            None => Ok(None),
        };
        let post_norm = |b: &mut Self, part: Option<&str>| match part {
            Some(part) => b.vector(&name(part), dim).map(Some),
            None => Ok(None),
        };
        Ok(Layer {
            attn: AttnWeights {
                norm: self.vector(&name(names.attn_norm), dim)?,
                qkv: self.qkv(names, i, attn, dim)?,
                qkv_bias: self.qkv_bias(names, i, attn)?,
                q_norm: qk_norm(self, 0)?,
                k_norm: qk_norm(self, 1)?,
                out: self.weight(&[Part::whole(name(names.attn_out), dim, attn.q_dim())])?,
                out_bias: match self.bias(&format!("blk.{i}.{}.bias", names.attn_out), dim)? {
                    Some(values) => Some(self.upload(&values)?),
                    None => None,
                },
                post_norm: post_norm(self, names.attn_post_norm)?,
            },
            ffn: FfnWeights {
                norm: self.vector(&name(names.ffn_norm), dim)?,
                gate_up: self.weight(&[
                    Part::whole(name(gate), ffn.hidden, dim),
                    Part::whole(name(up), ffn.hidden, dim),
                ])?,
                down: self.weight(&[Part::whole(name(names.down), dim, ffn.hidden)])?,
                post_norm: post_norm(self, names.ffn_post_norm)?,
            },
        })
    }

    /// The fused projection, from three stored matrices or one.
    fn qkv(&mut self, names: &Names, i: usize, spec: &AttnSpec, dim: usize) -> Result<B::Weight> {
        let fused = format!("blk.{i}.{}.weight", names.fused_qkv);
        let is_fused = self.has(&fused)?;
        let mut first = 0;
        let parts = qkv_parts(names, spec).map(|(name, rows, order)| {
            let mut part = match is_fused {
                true => Part { rows: (first, rows), ..Part::whole(&fused, spec.qkv_dim(), dim) },
                false => Part::whole(format!("blk.{i}.{name}.weight"), rows, dim),
            };
            part.order = order;
            first += rows;
            part
        });
        self.weight(&parts)
    }

    /// The bias of the fused projection, with zeros where one of the three has none.
    fn qkv_bias(&mut self, names: &Names, i: usize, spec: &AttnSpec) -> Result<Option<B::Vector>> {
        let fused = self.bias(&format!("blk.{i}.{}.bias", names.fused_qkv), spec.qkv_dim())?;
        let mut found = fused.is_some();
        let fused = fused.unwrap_or_default();
        let mut all = Vec::with_capacity(spec.qkv_dim());
        for (name, rows, order) in qkv_parts(names, spec) {
            let own = self.bias(&format!("blk.{i}.{name}.bias"), rows)?;
            found |= own.is_some();
            let stored = match fused.get(all.len()..all.len() + rows) {
                Some(part) => part.to_vec(),
                None => own.unwrap_or_else(|| vec![0.0; rows]),
            };
            all.extend((0..rows).map(|r| stored[order.stored_row(r)]));
        }
        match found {
            true => self.upload(&all).map(Some),
            false => Ok(None),
        }
    }

    fn has(&self, name: &str) -> Result<bool> {
        Ok(self.source.tensor(name)?.is_some())
    }

    /// A tensor of this shape, its byte count checked.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>> {
        let Some(tensor) = self.source.tensor(name)? else {
            return Err(Error::MissingTensor { name: name.into(), arch: self.arch.into() });
        };
        let bytes = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes = bytes.and_then(|n| tensor.format.bytes_for(n));
        let whole_blocks = shape.last().is_some_and(|n| n.is_multiple_of(tensor.format.block_len()));
        if tensor.shape != shape || bytes != Some(tensor.data.len()) || !whole_blocks {
            return Err(Error::Shape {
                name: name.into(),
                expected: format!("{shape:?}"),
                got: format!("{:?} in {} bytes of {}", tensor.shape, tensor.data.len(), tensor.format),
            });
        }
        Ok(tensor)
    }

    /// Parts of equal width as one weight; their pages are dropped afterwards.
    fn weight(&mut self, parts: &[Part]) -> Result<B::Weight> {
        let mut matrices = Vec::with_capacity(parts.len());
        for part in parts {
            let (rows, cols) = part.stored;
            let tensor = self.stored(&part.name, &[rows, cols])?;
            let row_bytes = tensor.data.len() / rows;
            let (first, rows) = part.rows;
            matrices.push(Matrix {
                name: &part.name,
                rows,
                cols,
                format: tensor.format,
                data: &tensor.data[first * row_bytes..(first + rows) * row_bytes],
                order: part.order,
            });
        }
        let weight = self.backend.weight(&matrices)?;
        let read: u64 = matrices.iter().map(|m| m.data.len() as u64).sum();
        let bytes: u64 = matrices.iter().map(|m| self.backend.weight_bytes(m.rows, m.cols, m.format)).sum();
        for part in parts {
            if self.used.insert(part.name.clone()) {
                self.source.release(&part.name);
            }
        }
        self.bytes += bytes;
        self.read_per_token += bytes;
        self.done += read;
        (self.progress)(self.done, self.total);
        Ok(weight)
    }

    fn values(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.stored(name, &[len])?;
        let mut values = vec![0.0; len];
        dequantize(tensor.format, tensor.data, &mut values);
        self.done += tensor.data.len() as u64;
        self.used.insert(name.into());
        Ok(values)
    }

    fn bias(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        match self.has(name)? {
            true => self.values(name, len).map(Some),
            false => Ok(None),
        }
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<B::Vector> {
        let values = self.values(name, len)?;
        self.upload(&values)
    }

    fn upload(&mut self, values: &[f32]) -> Result<B::Vector> {
        let bytes = 4 * values.len() as u64;
        self.bytes += bytes;
        self.read_per_token += bytes;
        self.backend.vector(values)
    }

    /// A tensor that nothing used would mean that the model computes something else than this architecture.
    fn check_all_used(&self, names: &Names) -> Result<()> {
        let unused = |name: &&str| !self.used.contains(*name) && !names.ignores(name);
        match self.source.tensors().into_iter().find(unused) {
            None => Ok(()),
            Some(name) => Err(Error::Unsupported {
                what: format!("tensor `{name}` in a model of architecture `{}`", self.arch),
                supported: "the tensors that this architecture's published models have".into(),
            }),
        }
    }
}

/// Name, rows and row order of the query, key and value projections.
fn qkv_parts(names: &Names, spec: &AttnSpec) -> [(&'static str, usize, RowOrder); 3] {
    let [q, k, v] = names.qkv;
    let order = names.qk_rows.order(spec.head_dim);
    [(q, spec.q_dim(), order), (k, spec.kv_dim(), order), (v, spec.kv_dim(), RowOrder::AsStored)]
}
