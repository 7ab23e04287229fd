//! Which blocks of a model GPUs take, and which the CPU.

use crate::{EngineBuilder, Error, Result};
use kinfer_core::{DeviceMemory, ModelSpec, RunnerLimits};
use kinfer_models::Placement;

/// How much of a model GPUs take; the CPU has the rest. Means nothing on other devices, and has to be the default there.
#[derive(Clone, Debug, Default)]
pub struct Offload {
    /// Which layers.
    pub layers: GpuLayers,
    /// Mixtures of experts of the first so many layers are the CPU's, and the rest of these layers is not. The experts are most of
    /// such a model's bytes, and a token reads few of them.
    pub cpu_experts: usize,
    /// Shares of the layers for this GPU and those that follow it in the driver's order; empty: it alone has all.
    pub split: Vec<f32>,
}

/// Which layers GPUs take: always the last ones, so that the stream of activations changes devices once.
#[derive(Clone, Debug)]
pub enum GpuLayers {
    /// As many as fit in the GPUs' memory beside such an engine. Of a model with experts, more and more of those are left to the CPU
    /// before whole layers are.
    Fit(EngineBuilder),
    /// The output and so many layers less one; all, if it is more than there are. As llama.cpp counts.
    Last(usize),
}

impl Default for GpuLayers {
    fn default() -> Self {
        GpuLayers::Fit(EngineBuilder::default())
    }
}

impl Offload {
    /// Whether it leaves nothing to choose: what a device without parts takes.
    pub(crate) fn is_default(&self) -> bool {
        let Self { layers, cpu_experts, split } = self;
        matches!(layers, GpuLayers::Fit(_)) && *cpu_experts == 0 && split.is_empty()
    }

    /// Shares of the GPUs, the first one's at the front.
    pub(crate) fn shares(&self) -> Result<Vec<f32>> {
        if self.split.is_empty() {
            return Ok(vec![1.0]);
        }
        let legal =
            self.split.iter().all(|s| s.is_finite() && *s >= 0.0) && self.split.iter().any(|s| *s > 0.0);
        match legal {
            true => Ok(self.split.clone()),
            false => Err(Error::Usage(format!(
                "shares of the GPUs: {:?}; they must be numbers from 0, and one of them above it",
                self.split
            ))),
        }
    }

    /// The placement on GPUs with these shares, as devices `0..shares.len()`, and the CPU behind them. `memory` says what one would
    /// take, of each device.
    pub(crate) fn placement(
        &self,
        spec: &ModelSpec,
        shares: &[f32],
        memory: impl Fn(&Placement, &RunnerLimits) -> Result<Vec<DeviceMemory>>,
    ) -> Result<Placement> {
        let all = spec.layers.len() + 1;
        let builder = match &self.layers {
            GpuLayers::Last(n) => return Ok(place(spec, shares, (*n).min(all), self.cpu_experts)),
            GpuLayers::Fit(builder) => builder,
        };
        let (_, limits) = builder.runner_limits(spec)?;
        let lacking = |placement: &Placement| -> Result<Option<DeviceMemory>> {
            let gpus = memory(placement, &limits)?.into_iter().take(shares.len());
            Ok(gpus.into_iter().find(|m| m.available.is_some_and(|a| m.total() + RESERVE > a)))
        };
        let mixtures = spec.layers.iter().rposition(|l| l.ffn.experts.is_some()).map_or(0, |last| last + 1);
        let fewer_experts = (self.cpu_experts..=mixtures.max(self.cpu_experts)).map(|experts| (all, experts));
        let fewer_layers = (1..all).rev().map(|layers| (layers, mixtures.max(self.cpu_experts)));
        let mut last = None;
        for (layers, experts) in fewer_experts.chain(fewer_layers) {
            let placement = place(spec, shares, layers, experts);
            match lacking(&placement)? {
                None => return Ok(placement),
                lacking => last = lacking,
            }
        }
        let m =
            last.map_or((String::new(), 0, 0), |m| (m.device.clone(), m.total(), m.available.unwrap_or(0)));
        Err(Error::Memory {
            what: format!("even the output layer of the model on {}", m.0),
            needed: m.1 + RESERVE,
            available: m.2,
        })
    }
}

/// Bytes of a GPU that stay free where layers are fitted: kernels' code, and what allocations leave between them.
const RESERVE: u64 = 256 << 20;

/// The last `on_gpu` of layers and output on the GPUs, but mixtures of experts of the first `cpu_experts` layers.
fn place(spec: &ModelSpec, shares: &[f32], on_gpu: usize, cpu_experts: usize) -> Placement {
    let (layers, cpu) = (spec.layers.len(), shares.len());
    let first = layers + 1 - on_gpu;
    let sum: f32 = shares.iter().sum();
    let device = |item: usize| {
        if item < first {
            return cpu;
        }
        // The middle of the item on a line along which the shares lie.
        let at = (item - first) as f32 + 0.5;
        let mut end = 0.0;
        let found = shares.iter().position(|share| {
            end += share / sum * on_gpu as f32;
            at < end
        });
        found.unwrap_or(cpu.saturating_sub(1))
    };
    let layer = |(i, spec): (usize, &kinfer_core::LayerSpec)| {
        let device = device(i);
        let away = i < cpu_experts && spec.ffn.experts.is_some() && !spec.parallel;
        [device, if away { cpu } else { device }]
    };
    let placed: Vec<[usize; 2]> = spec.layers.iter().enumerate().map(layer).collect();
    let head = device(layers);
    Placement { embed: placed.first().map_or(head, |l| l[0]), layers: placed, head }
}

#[cfg(test)]
mod tests;
