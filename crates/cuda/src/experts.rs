//! Mixtures of experts: routing, and the products of the rows that went to each; and those of the heads of latent attention, which are alike.

use crate::driver::{Argument, Gpu, Grid};
use crate::gemm::TILE;
use crate::memory::Buffer;
use crate::ops::{Ending, FloatProduct, Product, activate_to, arguments, quads, round};
use crate::step::Mode;
use crate::weight::Kernels;
use crate::{Act, Cuda, Step, Vector, Weight};
use kinfer_core::backend::ExpertWeights;
use kinfer_core::batch::Role;
use kinfer_core::{Error, ExpertGroups, ExpertSpec, FfnSpec, PartSpec, Result, Routing, Scores};
use std::ops::Range;
use std::sync::Arc;

/// Experts of a layer at most: their weights are a kernel's parameters, of which there are 4 KiB.
pub(crate) const MAX_EXPERTS: usize = 256;

/// Which weight each row is multiplied with: pairs of a row and an expert, or rows of heads.
pub(crate) struct Choice {
    /// Of each pair its expert.
    pub chosen: Buffer,
    /// Roles of the pairs, those of their rows.
    pub roles: Buffer,
    /// Pairs of prompt rows by experts, and tiles of them: `Groups` of `gemm.cuh`.
    order: Buffer,
    tiles: Buffer,
}

impl Choice {
    /// Buffers for at most `n` pairs.
    pub(crate) fn new(gpu: &Arc<Gpu>, n: usize) -> Result<Choice> {
        let numbers = |count| gpu.alloc(4 * count, "experts");
        Ok(Choice {
            chosen: numbers(n)?,
            roles: numbers(n)?,
            order: numbers(n)?,
            tiles: numbers(4 * tiles(n, n))?,
        })
    }
}

/// Buffers for rows on their way through experts. A row has a pair for each expert that it went to.
pub(crate) struct Mixture {
    /// `[rows, used]`, and the weights of the experts.
    choice: Choice,
    weights: Buffer,
    up: Act,
    hidden: Act,
    down: Act,
}

impl Mixture {
    /// Buffers for at most `rows` rows; `None`: the part has no experts.
    pub(crate) fn new(gpu: &Arc<Gpu>, part: &PartSpec, rows: usize) -> Result<Option<Mixture>> {
        let mixtures = || part.ffn.iter().filter_map(|f| f.experts.map(|e| (e, f)));
        let Some(used) = mixtures().map(|(e, _)| e.routing.used).max() else { return Ok(None) };
        let up = mixtures().map(|(_, f)| f.up_dim()).max().unwrap_or(0);
        let hidden = mixtures().map(|(_, f)| f.hidden).max().unwrap_or(0);
        let n = rows * used;
        Ok(Some(Mixture {
            choice: Choice::new(gpu, n)?,
            weights: gpu.alloc(4 * n, "experts")?,
            up: Act::new(gpu, n, up)?,
            hidden: Act::new(gpu, n, hidden)?,
            down: Act::new(gpu, n, part.dim)?,
        }))
    }
}

/// Most tiles that so many pairs fill: each expert's last one may have a single pair.
fn tiles(pairs: usize, experts: usize) -> usize {
    pairs / TILE + pairs.min(experts)
}

/// `Routing` of `rows.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Route {
    bias: u64,
    count: i32,
    used: i32,
    sigmoid: i32,
    renormalise: i32,
    scale: f32,
    groups: i32,
    groups_used: i32,
    judged_by: i32,
}

/// `Groups` of `gemm.cuh`; all 0 for a product with one weight.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Groups {
    order: u64,
    tiles: u64,
    per_row: i32,
    pad: i32,
}

pub(crate) fn route(
    cuda: &Cuda,
    step: &Step,
    spec: ExpertSpec,
    bias: Option<&Vector>,
    x: &Act,
) -> Result<()> {
    let ExpertSpec { count, routing: Routing { used, scores, renormalise, scale, groups }, shared: _ } = spec;
    let groups = groups.unwrap_or(ExpertGroups { count: 0, used: 0, judged_by: 0 });
    let mixture =
        step.mixture.as_ref().ok_or_else(|| Error::Batch("a model without experts routes".into()))?;
    let route = Route {
        bias: bias.map_or(0, |b| b.data.pointer()),
        count: count as i32,
        used: used as i32,
        sigmoid: i32::from(scores == Scores::Sigmoid),
        renormalise: i32::from(renormalise),
        scale,
        groups: groups.count as i32,
        groups_used: groups.used as i32,
        judged_by: groups.judged_by as i32,
    };
    let (from, chosen, weights) = (x.floats(), mixture.choice.chosen.pointer(), mixture.weights.pointer());
    let (roles, pairs) = (step.roles_of(x.rows()).1, mixture.choice.roles.pointer());
    let arguments = arguments![from, route, chosen, weights, roles, pairs];
    // SAFETY: the buffers have room for the model's largest `used`.
    unsafe { cuda.launch(step, &cuda.kernels()?.route, Grid::new(x.rows(), 1, 32), arguments) }
}

pub(crate) fn experts(
    cuda: &Cuda,
    step: &mut Step,
    spec: &FfnSpec,
    w: &ExpertWeights<Weight, Vector>,
    x: &Act,
    out: &mut Act,
) -> Result<()> {
    let mut mixture = step.mixture.take();
    let mixed = match (&mut mixture, spec.experts) {
        (Some(m), Some(experts)) => mix(cuda, step, spec, experts.routing.used, w, m, x, out),
        _ => Err(Error::Batch("a model without experts mixes them".into())),
    };
    step.mixture = mixture;
    mixed
}

#[allow(clippy::too_many_arguments)]
fn mix(
    cuda: &Cuda,
    step: &Step,
    spec: &FfnSpec,
    used: usize,
    w: &ExpertWeights<Weight, Vector>,
    m: &mut Mixture,
    x: &Act,
    out: &mut Act,
) -> Result<()> {
    let FfnSpec { hidden, gated: _, act, norm: _, experts: _ } = *spec;
    let ExpertWeights { products, gate_up_bias, down_bias } = w;
    if products.len() > MAX_EXPERTS {
        return Err(Error::Unsupported {
            what: format!("a layer of {} experts on CUDA", products.len()),
            supported: format!("up to {MAX_EXPERTS}"),
        });
    }
    let pairs = x.rows() * used;
    let (roles, device_roles) = step.roles_of(x.rows());
    if !x.is_rounded() {
        round(cuda, step, x, device_roles)?;
    }
    m.hidden.shape(pairs, hidden)?;
    m.down.shape(pairs, x.width())?;
    let floats = products.first().is_some_and(|[_, down]| down.reads_floats(roles));
    let pair_roles = m.choice.roles.pointer();
    let to = if floats { m.hidden.out(pair_roles)? } else { m.hidden.out_rounded(pair_roles)? };
    let count = products.len();
    let up = Operand { weight: &|i| &products[i][0], count, biases: gate_up_bias.as_ref(), per_row: used, x };
    if products.first().is_some_and(|[up, _]| up.activates(roles, spec.gated).is_some()) {
        let ending = Ending::activated(act, spec.gated, to);
        for of in Pairs::of_roles(roles, used) {
            of.products(cuda, step, &up, ending, &m.choice, &m.hidden)?;
        }
    } else {
        m.up.shape(pairs, spec.up_dim())?;
        for of in Pairs::of_roles(roles, used) {
            of.group(cuda, step, &m.choice, count)?;
            of.products(cuda, step, &up, Ending::default(), &m.choice, &m.up)?;
        }
        activate_to(cuda, step, act, m.up.floats(), spec.gated, pairs, to)?;
    }
    let down =
        Operand { weight: &|i| &products[i][1], count, biases: down_bias.as_ref(), per_row: 1, x: &m.hidden };
    for of in Pairs::of_roles(roles, used) {
        of.products(cuda, step, &down, Ending::default(), &m.choice, &m.down)?;
    }
    out.shape(x.rows(), x.width())?;
    let (from, weights, to, width) = (m.down.floats(), m.weights.pointer(), out.floats(), x.width() as i32);
    let (used, grid) = (used as i32, quads(x.width(), x.rows()));
    // SAFETY: the buffers have these rows.
    unsafe { cuda.launch(step, &cuda.kernels()?.mix, grid, arguments![from, weights, used, to, width]) }
}

/// The product of each head's rows with its weight.
pub(crate) fn heads(cuda: &Cuda, step: &Step, weights: &[Weight], x: &Act, out: &Act) -> Result<()> {
    let (choice, rows, count) = (step.heads()?, step.rows(), weights.len());
    let of = Operand { weight: &|h| &weights[h], count, biases: None, per_row: 1, x };
    let product = |pairs: Range<usize>, role| {
        let pairs = Pairs { pairs, role };
        pairs.group(cuda, step, choice, count)?;
        pairs.products(cuda, step, &of, Ending::default(), choice, out)
    };
    let roles = step.roles_of(rows).0;
    if roles.iter().all(|r| *r == roles[0]) {
        return product(0..count * rows, roles[0]);
    }
    for head in 0..count {
        let mut first = head * rows;
        for same in roles.chunk_by(|a, b| a == b) {
            product(first..first + same.len(), same[0])?;
            first += same.len();
        }
    }
    Ok(())
}

/// What the rows of experts are multiplied with.
struct Operand<'a> {
    /// The weight of an expert.
    weight: &'a dyn Fn(usize) -> &'a Weight,
    /// Experts.
    count: usize,
    /// Of all experts.
    biases: Option<&'a Vector>,
    /// Pairs that share a row of `x`.
    per_row: usize,
    x: &'a Act,
}

/// Pairs of consecutive rows of one role.
struct Pairs {
    pairs: Range<usize>,
    role: Role,
}

impl Pairs {
    /// All pairs of rows that have these roles.
    fn of_roles(roles: &[Role], used: usize) -> impl Iterator<Item = Pairs> {
        let mut end = 0;
        roles.chunk_by(|a, b| a == b).map(move |same| {
            let start = end;
            end += same.len() * used;
            Pairs { pairs: start..end, role: same[0] }
        })
    }

    /// What of the buffers is theirs: those of pairs before them end before, see [`tiles`].
    fn groups(&self, choice: &Choice, per_row: usize) -> Groups {
        let start = self.pairs.start;
        Groups {
            order: choice.order.pointer() + 4 * start as u64,
            tiles: choice.tiles.pointer() + 16 * tiles(start, start) as u64,
            per_row: per_row as i32,
            pad: 0,
        }
    }

    /// Brings those of prompts together by experts.
    fn group(&self, cuda: &Cuda, step: &Step, choice: &Choice, experts: usize) -> Result<()> {
        if self.role != Role::Prompt {
            return Ok(());
        }
        let chosen = choice.chosen.pointer() + 4 * self.pairs.start as u64;
        let Groups { order, tiles: to, .. } = self.groups(choice, 1);
        let (n, count, tiles) =
            (self.pairs.len() as i32, experts as i32, tiles(self.pairs.len(), experts) as i32);
        let arguments = arguments![chosen, n, count, order, to, tiles];
        // SAFETY: the buffers have room for all pairs of a step.
        unsafe { cuda.launch(step, &cuda.kernels()?.group_rows, Grid::new(1, 1, 1024), arguments) }
    }

    /// `out[i] = W[expert of i] x[i / per_row]`, or what `ending` says is written.
    #[allow(clippy::too_many_arguments)]
    fn products(
        &self,
        cuda: &Cuda,
        step: &Step,
        operand: &Operand<'_>,
        ending: Ending,
        choice: &Choice,
        out: &Act,
    ) -> Result<()> {
        let Operand { weight: expert, count, biases, per_row, x } = *operand;
        // In a recorded step, looking up hundreds of experts would be for nothing.
        if step.mode.get() == Mode::Replay {
            return Ok(());
        }
        if count == 0 {
            return Ok(());
        }
        let weight = expert(0);
        // Pairs count from the first one here, and so do the rows of `x`.
        let (pair, row) = (self.pairs.start, self.pairs.start / per_row);
        let n = self.pairs.len();
        for (i, segment) in weight.segments.iter().enumerate() {
            let mut pointers = [0u64; MAX_EXPERTS];
            for (e, to) in pointers.iter_mut().enumerate().take(count) {
                *to = expert(e).segments.get(i).map_or(0, |s| s.data.pointer());
            }
            let y = out.floats() + 4 * (pair * weight.rows + segment.first) as u64;
            let bias = biases.map_or(0, |b| b.data.pointer() + 4 * segment.first as u64);
            let (rows, stride, columns) = (segment.rows as i32, weight.rows as i32, x.padded() as i32);
            let gemm = match &segment.kernels {
                Kernels::Packed { gemm, .. } | Kernels::Float { gemm, .. } => gemm,
            };
            let gemm = gemm.as_ref().filter(|_| self.role == Role::Prompt);
            let (packed, floats);
            let (product, kernel, each) = match &segment.kernels {
                Kernels::Packed { units, generated, .. } => {
                    let (int8, bf16) = x.rounded()?;
                    let x = match gemm {
                        Some(_) => bf16 + 2 * (row * x.padded()) as u64,
                        None => int8 + 48 * (row * x.padded() / 32) as u64,
                    };
                    let grid = generated.one_grid(n, segment.rows, ending.pieces());
                    let (n, units) = (n as i32, *units as i32);
                    packed = Product { w: 0, x, y, bias, units, columns, rows, stride, n, add: 0, ending };
                    (Argument::new(&packed), &generated.experts, grid)
                }
                Kernels::Float { kind, experts, .. } => {
                    let from = match gemm {
                        Some(_) => x.rounded()?.1 + 2 * (row * x.padded()) as u64,
                        None => x.floats() + 4 * (row * x.width()) as u64,
                    };
                    let grid = Grid::new(n, segment.rows.div_ceil(8), 256);
                    let (kind, width, n) = (*kind, weight.cols as i32, n as i32);
                    floats = FloatProduct {
                        w: 0,
                        x: from,
                        y,
                        bias,
                        kind,
                        width,
                        columns,
                        rows,
                        stride,
                        n,
                        add: 0,
                        pad: 0,
                    };
                    (Argument::new(&floats), experts, grid)
                }
            };
            let pointers = Argument::new(&pointers);
            // SAFETY: every chosen expert has a weight; `x` and `y` have these rows.
            unsafe {
                match gemm {
                    Some(gemm) => {
                        let groups = self.groups(choice, per_row);
                        let (tiles, of) = (tiles(n, count), [product, pointers, Argument::new(&groups)]);
                        gemm.launch_groups(cuda, step, tiles, segment.rows, &of)?;
                    }
                    None => {
                        let (chosen, per_row) = (choice.chosen.pointer() + 4 * pair as u64, per_row as i32);
                        let of = [Argument::new(&chosen), Argument::new(&per_row)];
                        cuda.launch(step, kernel, each, &[product, pointers, of[0], of[1]])?;
                    }
                }
            }
        }
        Ok(())
    }
}
