//! Weights of the mixers that are no attention.

use super::{Builder, Part, weight};
use kinfer_core::backend::{ConvWeights, DeltaVectors, DeltaWeights, RowOrder};
use kinfer_core::{Backend, ConvSpec, DeltaSpec, Result};

/// The weights of a layer's convolution, `[width, taps]`.
pub(crate) const SHORT_CONV: &str = "shortconv.conv";

/// The same of a delta net, `[channels, taps]`.
pub(crate) const DELTA_CONV: &str = "ssm_conv1d";

impl<B: Backend> Builder<'_, '_, B> {
    pub(super) fn convolution(
        &mut self,
        name: &dyn Fn(&str) -> String,
        conv: &ConvSpec,
        norm: Option<&str>,
        dim: usize,
    ) -> Result<ConvWeights<B>> {
        let ConvSpec { width, taps, norm: norm_spec } = *conv;
        let by_tap = self.taps(&name(SHORT_CONV), width, taps)?;
        Ok(ConvWeights {
            norm: self.block_norm(norm, name, norm_spec, dim, 1.0)?,
            bcx: self.weight(&[Part::whole(&name("shortconv.in_proj"), 3 * width, dim)])?,
            taps: by_tap,
            out: self.weight(&[Part::whole(&name("shortconv.out_proj"), dim, width)])?,
        })
    }

    /// A convolution's weights by tap; they are stored channel by channel.
    fn taps(&mut self, name: &str, width: usize, taps: usize) -> Result<B::Vector> {
        let stored = self.values(&weight(name), &[width, taps])?;
        let of_tap = |j: usize| stored.iter().skip(j).step_by(taps).copied();
        let by_tap: Vec<f32> = (0..taps).flat_map(of_tap).collect();
        self.upload(&by_tap)
    }

    pub(super) fn delta_net(
        &mut self,
        name: &dyn Fn(&str) -> String,
        delta: &DeltaSpec,
        norm: Option<&str>,
        dim: usize,
    ) -> Result<DeltaWeights<B>> {
        let DeltaSpec { value_heads, value_dim, key_heads, taps, .. } = *delta;
        let whole = |part: &str, rows: usize| Part::whole(&name(part), rows, dim);
        let mut input = vec![whole("attn_qkv", delta.channels()), whole("attn_gate", delta.all_values())];
        match self.has(&weight(&name("ssm_ba")))? {
            true => {
                let order = RowOrder::Interleaved { parts: 2, rows: delta.group(), times: key_heads };
                input.push(Part { order, ..whole("ssm_ba", 2 * value_heads) });
            }
            false => input.extend(["ssm_beta", "ssm_alpha"].map(|part| whole(part, value_heads))),
        }
        let decay = self.values(&name("ssm_a"), &[value_heads])?;
        let dt_bias = self.values(&name("ssm_dt.bias"), &[value_heads])?;
        Ok(DeltaWeights {
            norm: self.block_norm(norm, name, delta.norm, dim, 1.0)?,
            input: self.weight(&input)?,
            rule: DeltaVectors {
                taps: self.taps(&name(DELTA_CONV), delta.channels(), taps)?,
                decay: self.upload(&decay)?,
                dt_bias: self.upload(&dt_bias)?,
                norm: self.vector(&name("ssm_norm"), value_dim)?,
            },
            out: self.weight(&[Part::whole(&name("ssm_out"), dim, delta.all_values())])?,
        })
    }
}
