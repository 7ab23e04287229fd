//! A model as parts, each on a device of its own, and the step that leads the residual stream through them.

use crate::loading::Loading;
use crate::states::States;
use crate::tails::Tails;
use kinfer_core::{
    Batch, DeviceMemory, Error, Model, ModelSpec, Outputs, PartSpec, Result, Runner, RunnerLimits,
};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

/// Which device computes which block of a model; devices are numbered as they are given to [`crate::build_parts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Embedding of tokens.
    pub embed: usize,
    /// Attention and feed-forward of each layer. Those of a parallel layer are on one device.
    pub layers: Vec<[usize; 2]>,
    /// Final norm and output head.
    pub head: usize,
}

impl Placement {
    /// All of a model of `layers` layers on the first device.
    pub fn whole(layers: usize) -> Self {
        Placement { embed: 0, layers: vec![[0; 2]; layers], head: 0 }
    }

    /// Whether some block is on device `device`.
    pub fn uses(&self, device: usize) -> bool {
        self.segments().iter().any(|s| s.device == device)
    }

    /// What device `device` has.
    pub(crate) fn has(&self, device: usize) -> Has {
        Has {
            embed: self.embed == device,
            layers: self.layers.iter().map(|l| l.map(|d| d == device)).collect(),
            head: self.head == device,
        }
    }

    /// Blocks are counted through: embedding, attention and feed-forward of each layer, head.
    fn device_of(&self, block: usize) -> usize {
        match block.checked_sub(1) {
            None => self.embed,
            Some(b) => self.layers.get(b / 2).map_or(self.head, |layer| layer[b % 2]),
        }
    }

    /// Runs of blocks on one device.
    fn segments(&self) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        for block in 0..2 * self.layers.len() + 2 {
            let device = self.device_of(block);
            match segments.last_mut() {
                Some(last) if last.device == device => last.blocks.end = block + 1,
                _ => {
                    let first = segments.iter().all(|s| s.device != device);
                    segments.push(Segment { device, blocks: block..block + 1, first });
                }
            }
        }
        segments
    }

    /// Refuses what does not fit the model or the devices.
    pub(crate) fn check(&self, spec: &ModelSpec, devices: usize) -> Result<()> {
        let wrong =
            |problem: String| Err(Error::Batch(format!("placement of the model's blocks: {problem}")));
        if self.layers.len() != spec.layers.len() {
            return wrong(format!("{} layers; the model has {}", self.layers.len(), spec.layers.len()));
        }
        if let Some(s) = self.segments().iter().find(|s| s.device >= devices) {
            return wrong(format!("device {}; there are {devices}", s.device));
        }
        let torn = |(l, spec): (&[usize; 2], &kinfer_core::LayerSpec)| spec.parallel && l[0] != l[1];
        match self.layers.iter().zip(&spec.layers).position(torn) {
            Some(i) => wrong(format!("the blocks of layer {i} are parallel and belong on one device")),
            None => Ok(()),
        }
    }
}

/// Consecutive blocks on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    device: usize,
    blocks: Range<usize>,
    /// Whether it is the first on its device.
    first: bool,
}

/// The blocks that a part has.
#[derive(Clone, Debug)]
pub(crate) struct Has {
    pub embed: bool,
    pub layers: Vec<[bool; 2]>,
    pub head: bool,
}

impl Has {
    /// Their specs.
    pub fn part(&self, spec: &ModelSpec) -> PartSpec {
        spec.part(|i| self.layers[i])
    }

    /// Which of the part's mixers of its kind layer `i`'s is.
    pub fn cached(&self, spec: &ModelSpec, i: usize) -> usize {
        let kind = |i: usize| std::mem::discriminant(&spec.layers[i].mixer);
        (0..i).filter(|&j| self.layers[j][0] && kind(j) == kind(i)).count()
    }

    /// For people; empty: everything.
    fn describe(&self) -> String {
        let (of, all) = (self.layers.len(), |b: usize| self.layers.iter().filter(|l| l[b]).count());
        let (attn, ffn) = (all(0), all(1));
        if self.embed && self.head && attn == of && ffn == of {
            return String::new();
        }
        let mut text = String::new();
        let mut add = |part: String| {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}{part}");
        };
        if self.embed {
            add("embedding".into());
        }
        let both = self.layers.iter().filter(|l| l[0] && l[1]).count();
        for (n, what) in [(both, ""), (attn - both, "attention of "), (ffn - both, "feed-forward of ")] {
            if n > 0 {
                add(format!("{what}{n} of {of} layers"));
            }
        }
        if self.head {
            add("output".into());
        }
        text
    }
}

/// A block of the forward.
pub(crate) enum Block {
    Embed,
    /// Attention, feed-forward or both of a layer.
    Layer(usize, [bool; 2]),
    Head,
}

impl Block {
    /// The blocks of that range of a model with `layers` layers, those of a layer together.
    pub fn of(blocks: Range<usize>, layers: usize) -> impl Iterator<Item = Block> {
        let embed = blocks.contains(&0).then_some(Block::Embed);
        let head = blocks.contains(&(2 * layers + 1)).then_some(Block::Head);
        let (first, end) = (blocks.start.max(1), blocks.end.min(2 * layers + 1));
        let of_layers = (first.div_ceil(2)..=end.max(first) / 2).filter_map(move |layer| {
            let has = [2 * layer - 1, 2 * layer].map(|block| (first..end).contains(&block));
            (has != [false; 2]).then_some(Block::Layer(layer - 1, has))
        });
        embed.into_iter().chain(of_layers).chain(head)
    }
}

/// The weights of some blocks on a device.
pub(crate) trait Part: Send + Sync {
    fn has(&self) -> &Has;
    fn device(&self) -> String;
    fn bytes_per_token(&self) -> u64;
    fn weight_bytes(&self) -> u64;
    fn memory(&self, limits: &RunnerLimits) -> DeviceMemory;
    fn runner(self: Arc<Self>, limits: RunnerLimits) -> Result<Box<dyn PartRunner>>;
}

/// One engine's state of a [`Part`].
pub(crate) trait PartRunner: Send {
    /// Takes over a checked batch.
    fn begin(&mut self, context: usize, batch: &Batch) -> Result<()>;
    /// Computes consecutive blocks; `stream` is the residual stream, `[rows, dim]`, where the block before them is elsewhere.
    fn run(&mut self, blocks: Range<usize>, stream: Option<&[f32]>) -> Result<()>;
    /// The residual stream, `[rows, dim]`.
    fn stream(&mut self) -> Result<&[f32]>;
    /// The wanted rows' logits, or the tokens that were drawn from them if that is enough; or, where there is no head, their hidden states.
    fn outputs(&mut self, draw: bool) -> Result<Outputs<'_>>;
}

/// A model whose parts are loaded.
pub(crate) struct Parts {
    spec: Arc<ModelSpec>,
    parts: Vec<Arc<dyn Part>>,
    segments: Vec<Segment>,
    /// Learned positions end with their table, others where the user wants.
    positions_end: bool,
}

impl Parts {
    /// `parts` are those of a placement that was checked, in the order of its devices.
    pub fn new(loading: &Loading<'_>, placement: &Placement, parts: Vec<Arc<dyn Part>>) -> Self {
        let (spec, positions_end) = (loading.spec.clone(), loading.has_position_table());
        Parts { spec, parts, segments: placement.segments(), positions_end }
    }
}

impl Model for Parts {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn device(&self) -> String {
        let part = |part: &Arc<dyn Part>| match part.has().describe() {
            what if what.is_empty() => part.device(),
            what => format!("{}: {what}", part.device()),
        };
        self.parts.iter().map(part).collect::<Vec<_>>().join("; ")
    }
    fn bytes_per_token(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes_per_token()).sum()
    }
    fn weight_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.weight_bytes()).sum()
    }
    fn memory(&self, limits: &RunnerLimits) -> Vec<DeviceMemory> {
        self.parts.iter().map(|part| part.memory(limits)).collect()
    }
    fn runner(self: Arc<Self>, limits: RunnerLimits) -> Result<Box<dyn Runner>> {
        if limits.logits {
            self.spec.check_generates()?;
        }
        let parts = self.parts.iter().map(|part| part.clone().runner(limits));
        let tails = Tails::new(&self.spec, limits.blocks);
        let states = States::new(&self.spec, limits.states);
        Ok(Box::new(PartsRunner { parts: parts.collect::<Result<_>>()?, limits, tails, states, model: self }))
    }
}

struct PartsRunner {
    model: Arc<Parts>,
    limits: RunnerLimits,
    parts: Vec<Box<dyn PartRunner>>,
    /// Of convolutions, where there are some.
    tails: Option<Tails>,
    /// Of delta nets, where there are some.
    states: Option<States>,
}

impl Runner for PartsRunner {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn has_states(&self) -> bool {
        self.states.is_some()
    }

    fn step(&mut self, batch: &Batch) -> Result<Outputs<'_>> {
        let RunnerLimits { rows, outputs, logits, blocks, states: _, context, kv: _ } = self.limits;
        let Parts { spec, segments, positions_end, .. } = &*self.model;
        batch.check(rows, outputs, blocks, spec.vocab).map_err(Error::Batch)?;
        if let Some(run) = batch.runs.iter().find(|r| r.start > 0 && !spec.generates()) {
            return Err(Error::Batch(format!(
                "run {:?} begins at position {}; every position of `{}` models sees the whole text, so all of it must be one run",
                run.rows, run.start, spec.arch
            )));
        }
        let context = if *positions_end { context.min(spec.context) } else { context };
        let longest = batch.runs.iter().map(|r| r.start + r.rows.len()).max().unwrap_or(0);
        if longest > context {
            return Err(Error::Batch(format!("{longest} positions; this runner's context is {context}")));
        }
        if let Some(tails) = &mut self.tails {
            tails.begin(batch)?;
        }
        if let Some(states) = &mut self.states {
            states.begin(batch)?;
        }

        // The head is the last block, and computed where logits are wanted.
        let head = 2 * spec.layers.len() + 1;
        let end = if batch.outputs.is_empty() { head } else { head + 1 };
        let mut last = None;
        for Segment { device, blocks, first } in segments {
            let blocks = blocks.start..blocks.end.min(end);
            if blocks.is_empty() {
                continue;
            }
            if *first {
                self.parts[*device].begin(context, batch)?;
            }
            match last {
                None => self.parts[*device].run(blocks, None)?,
                Some(before) => {
                    // Neighbouring segments are on two devices.
                    let Ok([from, to]) = self.parts.get_disjoint_mut([before, *device]) else { continue };
                    to.run(blocks, Some(from.stream()?))?;
                }
            }
            last = Some(*device);
        }
        match last {
            Some(device) if end > head => self.parts[device].outputs(!batch.draws.is_empty()),
            _ => {
                let width = if logits { spec.vocab } else { spec.dim };
                Ok(Outputs { data: &[], width, drawn: &[] })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(blocks: Range<usize>) -> Vec<(usize, [bool; 2])> {
        let of = |b| match b {
            Block::Layer(i, has) => Some((i, has)),
            Block::Embed | Block::Head => None,
        };
        Block::of(blocks, 3).filter_map(of).collect()
    }

    #[test]
    fn blocks_of_a_layer_come_together() {
        assert_eq!(layers(0..8), [(0, [true; 2]), (1, [true; 2]), (2, [true; 2])]);
        assert_eq!(layers(0..1), []);
        assert_eq!(layers(2..4), [(0, [false, true]), (1, [true, false])]);
        assert_eq!(layers(7..8), []);
        assert!(matches!(Block::of(7..8, 3).next(), Some(Block::Head)));
        assert!(matches!(Block::of(0..2, 3).next(), Some(Block::Embed)));
    }

    #[test]
    fn segments_are_as_long_as_the_device_stays_the_same() {
        let placement = Placement { embed: 1, layers: vec![[1, 1], [0, 1], [0, 0]], head: 0 };
        let segment = |device, blocks, first| Segment { device, blocks, first };
        assert_eq!(
            placement.segments(),
            [
                segment(1, 0..3, true),
                segment(0, 3..4, true),
                segment(1, 4..5, false),
                segment(0, 5..8, false)
            ]
        );
        assert_eq!(Placement::whole(3).segments(), [segment(0, 0..8, true)]);
    }
}
