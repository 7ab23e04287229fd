//! A file's tensors to the weights of layers on a device: shapes checked, parts fused.

mod other;

pub(crate) use other::{DELTA_CONV, SHORT_CONV};

use crate::arch::Names;
use crate::loading::Loading;
use crate::scales;
use crate::source::Stored;
use kinfer_core::backend::{
    AttnWeights, ExpertWeights, Ffn, FfnWeights, LatentWeights, Layer, Matrix, MixerWeights, MoeWeights,
    NormWeights, RowOrder, SharedExpert,
};
use kinfer_core::{
    AttnSpec, Backend, Error, ExpertSpec, FfnSpec, LatentSpec, LayerSpec, Mixer, NormKind, NormSpec, QkNorm,
    Result, dequantize,
};
use std::borrow::Cow;

/// Consecutive rows of a stored matrix.
pub(crate) struct Part {
    name: String,
    /// Shape of the whole stored tensor: a matrix, or one for each expert.
    stored: Vec<usize>,
    /// First row taken, and how many, counted through all matrices.
    rows: (usize, usize),
    order: RowOrder,
}

impl Part {
    /// All of the matrix `{name}.weight`.
    pub fn whole(name: &str, rows: usize, cols: usize) -> Part {
        Part { name: weight(name), stored: vec![rows, cols], rows: (0, rows), order: RowOrder::AsStored }
    }
}

impl Part {
    /// Which of the tensor's matrices it lies in.
    fn expert(&self) -> usize {
        match self.stored[..] {
            [_, rows, _] => self.rows.0 / rows.max(1),
            _ => 0,
        }
    }

    /// Rows of the whole stored tensor.
    fn all_rows(&self) -> usize {
        self.stored[..self.stored.len() - 1].iter().product()
    }
}

pub(crate) struct Builder<'b, 'a, B: Backend> {
    pub backend: &'b B,
    pub all: &'b mut Loading<'a>,
    /// Bytes of weights that one generated token reads.
    pub read_per_token: u64,
    /// Bytes of weights on the device.
    pub bytes: u64,
}

impl<B: Backend> Builder<'_, '_, B> {
    pub fn layer(
        &mut self,
        names: &Names,
        i: usize,
        spec: &LayerSpec,
        has: [bool; 2],
        dim: usize,
    ) -> Result<Layer<B>> {
        let LayerSpec { mixer, ffn, parallel: _, renormed } = spec;
        let name = |part: &str| format!("blk.{i}.{part}");
        let before_mixer = match names.stream_norms {
            _ if !has[0] => None,
            _ if i == 0 => names.embed_norm.map(String::from),
            Some([_, after_ffn]) => Some(format!("blk.{}.{after_ffn}", i - 1)),
            None => None,
        };
        let before_mixer = before_mixer.map(|name| self.norm(&name, mixer.norm(), dim, 1.0)).transpose()?;
        let after_attn = names.stream_norms.map(|[after_attn, _]| after_attn);
        let renorms = match after_attn.filter(|_| *renormed && has[0]) {
            Some(first) => {
                let mut norm = |part: &str, spec| self.norm(&name(part), spec, dim, 1.0);
                Some([norm(first, mixer.norm())?, norm(SECOND_NORM, ffn.norm)?])
            }
            None => None,
        };
        let before_ffn = after_attn.filter(|_| !*renormed && has[1]);
        // What was just normed may go without another norm.
        let attn_norm = match names.attn_norm {
            Some(part) if before_mixer.is_some() && !self.has(&weight(&name(part)))? => None,
            part => part,
        };
        Ok(Layer {
            stream_norms: [before_mixer, self.block_norm(before_ffn, &name, ffn.norm, dim, 1.0)?],
            renorms,
            mixer: match mixer {
                _ if !has[0] => None,
                Mixer::Attention(attn) => Some(MixerWeights::Attention(
                    attn.clone(),
                    self.attention(names, &name, attn, attn_norm, dim)?,
                )),
                Mixer::DeltaNet(delta) => {
                    Some(MixerWeights::DeltaNet(*delta, self.delta_net(&name, delta, attn_norm, dim)?))
                }
                Mixer::Convolution(conv) => {
                    Some(MixerWeights::Convolution(*conv, self.convolution(&name, conv, attn_norm, dim)?))
                }
            },
            ffn: match ffn.experts {
                _ if !has[1] => None,
                Some(experts) => Some(Ffn::Mixture(self.mixture(names, &name, ffn, experts, dim)?)),
                None => Some(Ffn::Dense(self.dense(names, &name, ffn, dim)?)),
            },
        })
    }

    fn attention(
        &mut self,
        names: &Names,
        name: &dyn Fn(&str) -> String,
        attn: &AttnSpec,
        norm: Option<&str>,
        dim: usize,
    ) -> Result<AttnWeights<B>> {
        let (qkv, qkv_bias) = match attn.gated {
            true => (self.weight(&gated_parts(names, name, attn, dim))?, None),
            false => self.projection(name, names.fused_qkv, &qkv_parts(names, attn), dim)?,
        };
        let latent = attn.latent.map(|latent| self.latent(name, attn, latent)).transpose()?;
        Ok(AttnWeights {
            norm: self.block_norm(norm, name, attn.norm, dim, 1.0)?,
            qkv,
            qkv_bias,
            q_norm: self.qk_norm(names, &name("attn_q_norm"), attn, attn.heads)?,
            k_norm: self.qk_norm(names, &name("attn_k_norm"), attn, attn.kv_heads)?,
            sinks: names.attn_sinks.map(|part| self.vector(&name(part), attn.heads)).transpose()?,
            latent,
            out: self.weight(&[Part::whole(&name(names.attn_out), dim, attn.out_dim())])?,
            out_bias: self.bias(&name(names.attn_out), dim)?,
            post_norm: self.block_norm(
                names.attn_post_norm,
                name,
                attn.norm,
                dim,
                self.all.post_norm_scale,
            )?,
        })
    }

    /// The norm of the queries, or keys, of `heads` heads. Its elements are taken in the order of their rows.
    fn qk_norm(
        &mut self,
        names: &Names,
        name: &str,
        attn: &AttnSpec,
        heads: usize,
    ) -> Result<Option<NormWeights<B>>> {
        let Some(kind) = attn.qk_norm else { return Ok(None) };
        let all = heads * attn.head_dim;
        let shape = match kind {
            QkNorm::Heads => vec![attn.head_dim],
            QkNorm::Rows | QkNorm::LayerRows => vec![all],
            QkNorm::LayerHeads => vec![heads, attn.head_dim],
        };
        let order = names.qk_rows.order(attn.head_dim);
        let ordered =
            |values: &[f32]| -> Vec<f32> { (0..values.len()).map(|r| values[order.stored_row(r)]).collect() };
        let values = self.values(&weight(name), &shape)?;
        let weight = self.upload(&ordered(&values))?;
        let bias = match kind {
            QkNorm::LayerRows => self.bias_values(name, all)?,
            QkNorm::Heads | QkNorm::Rows | QkNorm::LayerHeads => None,
        };
        let bias = bias.map(|values| self.upload(&ordered(&values))).transpose()?;
        Ok(Some(NormWeights { weight, bias }))
    }

    /// What latent attention has beside the common projections.
    fn latent(
        &mut self,
        name: &dyn Fn(&str) -> String,
        attn: &AttnSpec,
        spec: LatentSpec,
    ) -> Result<LatentWeights<B>> {
        let q = match spec.q_rank {
            None => None,
            Some(q_rank) => {
                let rows = attn.projected_q_dim();
                let order = latent_order(attn, spec, rows / attn.heads);
                let part = Part { order, ..Part::whole(&name("attn_q_b"), rows, q_rank) };
                Some((self.vector(&name("attn_q_a_norm"), q_rank)?, self.weight(&[part])?))
            }
        };
        let mut of_heads = |part: &str, rows: usize, cols: usize| {
            let matrix = |h| Part {
                name: weight(&name(part)),
                stored: vec![attn.heads, rows, cols],
                rows: (h * rows, rows),
                order: RowOrder::AsStored,
            };
            (0..attn.heads).map(|h| self.weight(&[matrix(h)])).collect::<Result<Vec<_>>>()
        };
        let (k_up, v_up) =
            (of_heads("attn_k_b", spec.rank, spec.plain)?, of_heads("attn_v_b", spec.value, spec.rank)?);
        Ok(LatentWeights { q, kv_norm: self.vector(&name("attn_kv_a_norm"), spec.rank)?, k_up, v_up })
    }

    fn dense(
        &mut self,
        names: &Names,
        name: &dyn Fn(&str) -> String,
        spec: &FfnSpec,
        dim: usize,
    ) -> Result<FfnWeights<B>> {
        let parts = gate_up_parts(names, spec, spec.hidden);
        let (gate_up, gate_up_bias) = self.projection(name, names.gate_up[1], &parts, dim)?;
        Ok(FfnWeights {
            norm: self.block_norm(names.ffn_norm, name, spec.norm, dim, 1.0)?,
            gate_up,
            gate_up_bias,
            down: self.weight(&[Part::whole(&name(names.down), dim, spec.hidden)])?,
            down_bias: self.bias(&name(names.down), dim)?,
            post_norm: self.block_norm(
                names.ffn_post_norm,
                name,
                spec.norm,
                dim,
                self.all.post_norm_scale,
            )?,
        })
    }

    /// Router and experts; a tensor holds the matrices of all experts, one after the other, or there is one for each.
    fn mixture(
        &mut self,
        names: &Names,
        name: &dyn Fn(&str) -> String,
        ffn: &FfnSpec,
        spec: ExpertSpec,
        dim: usize,
    ) -> Result<MoeWeights<B>> {
        let apart = self.has(&weight(&name(&format!("{}.0", names.down))))?;
        let part = |part: &str, e: usize, rows: usize, cols: usize| match apart {
            true => Part::whole(&name(&format!("{part}.{e}")), rows, cols),
            false => Part {
                name: weight(&name(&format!("{part}_exps"))),
                stored: vec![spec.count, rows, cols],
                rows: (e * rows, rows),
                order: RowOrder::AsStored,
            },
        };
        let router = self.weight(&[Part::whole(&name("ffn_gate_inp"), spec.count, dim)])?;
        let before = self.read_per_token;
        let up_parts = gate_up_parts(names, ffn, ffn.hidden);
        let mut products = Vec::with_capacity(spec.count);
        for e in 0..spec.count {
            let up: Vec<Part> = up_parts.iter().map(|p| part(p.0, e, ffn.hidden, dim)).collect();
            products.push([self.weight(&up)?, self.weight(&[part(names.down, e, dim, ffn.hidden)])?]);
        }
        let up_parts: Vec<(&str, usize)> = up_parts.iter().map(|p| (p.0, ffn.hidden)).collect();
        let experts = ExpertWeights {
            products,
            gate_up_bias: self.expert_biases(name, &up_parts, spec.count)?,
            down_bias: self.expert_biases(name, &[(names.down, dim)], spec.count)?,
        };
        // A token reads those that it goes to.
        let all = self.read_per_token - before;
        self.read_per_token = before + all / spec.count as u64 * spec.routing.used as u64;
        Ok(MoeWeights {
            spec,
            norm: self.block_norm(names.ffn_norm, name, ffn.norm, dim, 1.0)?,
            router,
            router_bias: self.bias(&name("ffn_gate_inp"), spec.count)?,
            choice_bias: self.bias(&name("exp_probs_b"), spec.count)?,
            experts,
            shared: spec.shared.map(|hidden| self.shared(names, name, ffn, hidden, dim)).transpose()?,
            post_norm: self.block_norm(names.ffn_post_norm, name, ffn.norm, dim, self.all.post_norm_scale)?,
        })
    }

    /// The biases of all experts, `[experts, rows of the parts]`, where the file has them.
    fn expert_biases(
        &mut self,
        name: &dyn Fn(&str) -> String,
        parts: &[(&str, usize)],
        experts: usize,
    ) -> Result<Option<B::Vector>> {
        let names: Vec<String> = parts.iter().map(|p| name(&format!("{}_exps.bias", p.0))).collect();
        if !self.has(&names[0])? {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(names.len());
        for (name, part) in names.iter().zip(parts) {
            values.push(self.values(name, &[experts, part.1])?);
        }
        let of_expert =
            |e: usize| parts.iter().zip(&values).flat_map(move |(part, v)| &v[e * part.1..(e + 1) * part.1]);
        let all: Vec<f32> = (0..experts).flat_map(of_expert).copied().collect();
        self.upload(&all).map(Some)
    }

    /// The expert that every position goes to.
    fn shared(
        &mut self,
        names: &Names,
        name: &dyn Fn(&str) -> String,
        ffn: &FfnSpec,
        hidden: usize,
        dim: usize,
    ) -> Result<SharedExpert<B>> {
        let part = |part: &str, rows, cols| Part::whole(&name(&format!("{part}_shexp")), rows, cols);
        let up: Vec<Part> =
            gate_up_parts(names, ffn, hidden).iter().map(|p| part(p.0, hidden, dim)).collect();
        let gate = name("ffn_gate_inp_shexp");
        let has_gate = self.has(&weight(&gate))?;
        // A matrix of one row, which GGUF files store as a vector.
        let is_vector = self.all.source.tensor(&weight(&gate))?.is_some_and(|t| t.shape.len() == 1);
        let gate = match is_vector {
            true => Part { stored: vec![dim], ..Part::whole(&gate, 1, dim) },
            false => Part::whole(&gate, 1, dim),
        };
        Ok(SharedExpert {
            gate_up: self.weight(&up)?,
            down: self.weight(&[part(names.down, dim, hidden)])?,
            gate: if has_gate { Some(self.weight(&[gate])?) } else { None },
        })
    }

    /// A block's norm, where it has one; its weights are multiplied by `scale`.
    fn block_norm(
        &mut self,
        part: Option<&str>,
        name: &dyn Fn(&str) -> String,
        spec: NormSpec,
        dim: usize,
        scale: f32,
    ) -> Result<Option<NormWeights<B>>> {
        part.map(|part| self.norm(&name(part), spec, dim, scale)).transpose()
    }

    /// A projection made of `parts`, which the file stores one by one or as one tensor called `fused`; and its bias,
    /// with zeros where one of the parts has none.
    fn projection(
        &mut self,
        name: &dyn Fn(&str) -> String,
        fused: &str,
        parts: &[(&'static str, usize, RowOrder)],
        cols: usize,
    ) -> Result<(B::Weight, Option<B::Vector>)> {
        // Where the name is also a part's, it says nothing about the bias.
        let shared = parts.iter().any(|part| part.0 == fused);
        let fused = name(fused);
        let is_fused = !self.has(&weight(&name(parts[0].0)))? && self.has(&weight(&fused))?;
        let all: usize = parts.iter().map(|part| part.1).sum();
        let mut first = 0;
        let matrices: Vec<Part> = parts
            .iter()
            .map(|&(part, rows, order)| {
                let whole = match is_fused {
                    true => Part { rows: (first, rows), ..Part::whole(&fused, all, cols) },
                    false => Part::whole(&name(part), rows, cols),
                };
                first += rows;
                Part { order, ..whole }
            })
            .collect();

        let stored = if is_fused || !shared { self.bias_values(&fused, all)? } else { None };
        let mut found = stored.is_some();
        let stored = stored.unwrap_or_default();
        let mut bias = Vec::with_capacity(all);
        for &(part, rows, order) in parts {
            let own = if is_fused { None } else { self.bias_values(&name(part), rows)? };
            found |= own.is_some();
            let values = match stored.get(bias.len()..bias.len() + rows) {
                Some(values) => values.to_vec(),
                None => own.unwrap_or_else(|| vec![0.0; rows]),
            };
            bias.extend((0..rows).map(|r| values[order.stored_row(r)]));
        }
        let bias = if found { Some(self.upload(&bias)?) } else { None };
        Ok((self.weight(&matrices)?, bias))
    }

    /// The norm called `name`, its weight and bias multiplied by `scale`.
    pub fn norm(&mut self, name: &str, spec: NormSpec, dim: usize, scale: f32) -> Result<NormWeights<B>> {
        let mut values = self.values(&weight(name), &[dim])?;
        // An RMS norm has no bias: one in the file is a tensor that nothing uses.
        let mut bias = match spec.kind {
            NormKind::Rms => None,
            NormKind::Layer => self.bias_values(name, dim)?,
        };
        values.iter_mut().chain(bias.iter_mut().flatten()).for_each(|v| *v *= scale);
        let bias = bias.map(|values| self.upload(&values)).transpose()?;
        Ok(NormWeights { weight: self.upload(&values)?, bias })
    }

    pub fn has(&self, name: &str) -> Result<bool> {
        Ok(self.all.source.tensor(name)?.is_some())
    }

    /// A tensor of this shape, its byte count checked.
    pub fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>> {
        let Some(tensor) = self.all.source.tensor(name)? else {
            return Err(Error::MissingTensor { name: name.into(), arch: self.all.spec.arch.clone() });
        };
        let bytes = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes = bytes.and_then(|n| tensor.format.bytes_for(n));
        let whole_blocks = shape.last().is_some_and(|n| n.is_multiple_of(tensor.format.block_len()));
        if tensor.shape != shape || bytes != Some(tensor.data.bytes()) || !whole_blocks {
            return Err(Error::Shape {
                name: name.into(),
                expected: format!("{shape:?}"),
                got: format!("{:?} in {} bytes of {}", tensor.shape, tensor.data.bytes(), tensor.format),
            });
        }
        Ok(tensor)
    }

    /// Parts of equal width as one weight; their pages are dropped afterwards.
    pub fn weight(&mut self, parts: &[Part]) -> Result<B::Weight> {
        let (mut matrices, mut read) = (Vec::with_capacity(parts.len()), 0);
        let mut values = Vec::with_capacity(parts.len());
        let scales = parts.iter().map(|part| self.scale(part)).collect::<Result<Vec<_>>>()?;
        for (part, scale) in parts.iter().zip(scales) {
            let tensor = self.stored(&part.name, &part.stored)?;
            let rows = part.rows.0..part.rows.0 + part.rows.1;
            read += (tensor.data.bytes() / part.all_rows() * rows.len()) as u64;
            values.push(match self.all.source.target(&part.name).filter(|&target| target != tensor.format) {
                Some(target) => (target, Cow::Owned(self.all.source.recoded(&part.name, rows)?), 1.0),
                None => (tensor.format, tensor.data.rows(rows), scale),
            });
        }
        for (part, (format, data, scale)) in parts.iter().zip(&values) {
            let (cols, rows) = (part.stored[part.stored.len() - 1], part.rows.1);
            let (name, expert) = (part.name.as_str(), part.expert());
            let (format, scale, order) = (*format, *scale, part.order);
            matrices.push(Matrix { name, expert, rows, cols, format, data, scale, order });
        }
        let weight = self.backend.weight(&matrices)?;
        let bytes: u64 = matrices.iter().map(|m| self.backend.weight_bytes(m.rows, m.cols, m.format)).sum();
        for part in parts {
            self.all.used.insert(part.name.clone());
            if part.rows.0 + part.rows.1 == part.all_rows() {
                self.all.source.release(&part.name);
            }
        }
        self.bytes += bytes;
        self.read_per_token += bytes;
        self.all.done += read;
        (self.all.progress)(self.all.done, self.all.total);
        Ok(weight)
    }

    /// What the file multiplies the matrix that `part` lies in with.
    fn scale(&mut self, part: &Part) -> Result<f32> {
        let scales = scales::of(self.all.source, &part.name)?;
        for (name, bytes) in scales.tensors {
            if self.all.used.insert(name) {
                self.all.done += bytes;
            }
        }
        Ok(scales.values.get(part.expert()).or(scales.values.first()).copied().unwrap_or(1.0))
    }

    pub fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.stored(name, shape)?;
        let mut values = vec![0.0; shape.iter().product()];
        let rows = shape[..shape.len() - 1].iter().product();
        dequantize(tensor.format, &tensor.data.rows(0..rows), &mut values);
        let bytes = tensor.data.bytes() as u64;
        // The blocks of a parallel layer may share a norm.
        if self.all.used.insert(name.into()) {
            self.all.done += bytes;
        }
        Ok(values)
    }

    fn bias_values(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let name = format!("{name}.bias");
        match self.has(&name)? {
            true => self.values(&name, &[len]).map(Some),
            false => Ok(None),
        }
    }

    pub fn bias(&mut self, name: &str, len: usize) -> Result<Option<B::Vector>> {
        self.bias_values(name, len)?.map(|values| self.upload(&values)).transpose()
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<B::Vector> {
        let values = self.values(&weight(name), &[len])?;
        self.upload(&values)
    }

    pub fn upload(&mut self, values: &[f32]) -> Result<B::Vector> {
        let bytes = 4 * values.len() as u64;
        self.bytes += bytes;
        self.read_per_token += bytes;
        self.backend.vector(values)
    }
}

/// The second norm after attention where there are two.
pub(crate) const SECOND_NORM: &str = "attn_norm_2";

/// The tensor of a matrix or norm.
pub(crate) fn weight(name: &str) -> String {
    format!("{name}.weight")
}

/// Rows of heads of latent attention, `width` each: those that turn are stored last, and taken first.
fn latent_order(attn: &AttnSpec, spec: LatentSpec, width: usize) -> RowOrder {
    RowOrder::TurnedLast { head_dim: width, turned: attn.head_dim - spec.rank }
}

/// Name, rows and row order of the query, key and value projections.
fn qkv_parts(names: &Names, spec: &AttnSpec) -> Vec<(&'static str, usize, RowOrder)> {
    if let Some(latent) = spec.latent {
        let kv = ("attn_kv_a_mqa", spec.head_dim, latent_order(spec, latent, spec.head_dim));
        let q = match latent.q_rank {
            Some(rank) => ("attn_q_a", rank, RowOrder::AsStored),
            None => {
                let rows = spec.projected_q_dim();
                ("attn_q", rows, latent_order(spec, latent, rows / spec.heads))
            }
        };
        return vec![q, kv];
    }
    let [q, k, v] = names.qkv;
    let order = names.qk_rows.order(spec.head_dim);
    vec![(q, spec.q_dim(), order), (k, spec.kv_dim(), order), (v, spec.kv_dim(), RowOrder::AsStored)]
}

/// The same of the gate and up projections, which are `hidden` wide.
fn gate_up_parts(names: &Names, spec: &FfnSpec, hidden: usize) -> Vec<(&'static str, usize, RowOrder)> {
    let parts = if spec.gated { &names.gate_up[..] } else { &names.gate_up[1..] };
    parts.iter().map(|&part| (part, hidden, RowOrder::AsStored)).collect()
}

/// The projection of attention with a gate: of each head the rows of the query are stored before those of its gate.
fn gated_parts(names: &Names, name: &dyn Fn(&str) -> String, attn: &AttnSpec, dim: usize) -> Vec<Part> {
    let AttnSpec { heads, head_dim, .. } = *attn;
    let [q, k, v] = names.qkv.map(name);
    let order = names.qk_rows.order(head_dim);
    let of_head = |h: usize, gate: usize, order| Part {
        rows: ((2 * h + gate) * head_dim, head_dim),
        order,
        ..Part::whole(&q, 2 * attn.q_dim(), dim)
    };
    let queries = (0..heads).map(|h| of_head(h, 0, order));
    let keys = Part { order, ..Part::whole(&k, attn.kv_dim(), dim) };
    let gates = (0..heads).map(|h| of_head(h, 1, RowOrder::AsStored));
    queries.chain([keys, Part::whole(&v, attn.kv_dim(), dim)]).chain(gates).collect()
}
