//! Attention, experts, and the fused stages: a product ends with its bias and residual, and what follows q, k and v is one launch.

use crate::driver::{Argument, Grid};
use crate::kv::MAX_HEAD_DIM;
use crate::ops::{
    activate, activated_product, arguments, norm, norm_code, norm_heads, norm_threads, product,
};
use crate::step::Field;
use crate::{Act, Cuda, Kv, Step, Vector, Weight};
use kinfer_core::backend::{AttnWeights, FfnWeights, NormWeights, Scratch};
use kinfer_core::batch::Role;
use kinfer_core::{AttnSpec, FfnSpec, Mask, NormKind, NormSpec, QkNorm, Result};

/// Heads of a block of the kernels that write the cache.
const HEADS_AT_ONCE: usize = 4;

/// Query heads of a block of `attend_latent`.
const LATENT_HEADS: usize = 2;

/// What a block of prompt attention takes: `Prompt` of `kernels/cuda/prompt.cuh`.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// The kernel.
    pub name: &'static str,
    /// Elements of a head at most.
    pub dim: usize,
    warps: usize,
    /// Query rows, which are positions times heads of a group, and keys at a time.
    queries: usize,
    keys: usize,
    /// Whether queries are in shared memory.
    shares_queries: bool,
    /// Whether scores may have linear biases.
    biased: bool,
}

const fn tile(name: &'static str, dim: usize, warps: usize) -> Tile {
    Tile { name, dim, warps, queries: 128, keys: 64, shares_queries: false, biased: false }
}

/// From the narrowest on; of those that a kind of attention can have, the first one is taken.
pub(crate) const TILES: [Tile; 4] = [
    tile("attend_prompt_64", 64, 4),
    Tile { biased: true, ..tile("attend_biased_64", 64, 8) },
    Tile { biased: true, ..tile("attend_prompt_128", 128, 8) },
    Tile { queries: 64, keys: 32, shares_queries: true, ..tile("attend_prompt_256", 256, 4) },
];

impl Tile {
    /// Whether it is made for such heads. The widest ones leave no register for keys behind the queries' own.
    fn takes(&self, head_dim: usize, group: usize, mask: Mask, biased: bool) -> bool {
        let masked = mask == Mask::Causal || self.dim < 256;
        head_dim <= self.dim && group <= self.queries && masked && (self.biased || !biased)
    }

    /// Bytes of shared memory: two tiles of keys and values, and the queries, of 16 bits.
    pub fn shared(&self) -> u32 {
        let queries = if self.shares_queries { self.queries } else { 0 };
        (2 * self.dim * (4 * self.keys + queries)) as u32
    }
}

/// `Rows` of `kernels/cuda/attention.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rows {
    positions: u64,
    tables: u64,
    ends: u64,
}

/// `Turn` of `attention.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Turn {
    q_norm: u64,
    k_norm: u64,
    cosines: u64,
    sines: u64,
    eps: f32,
    half: i32,
    layer: i32,
    apart: i32,
}

/// `Attend` of `attention.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Attend {
    qkv: u64,
    heads: i32,
    group: i32,
    scale: f32,
    cap: f32,
    window: i32,
    stride: i32,
    sinks: u64,
    slopes: u64,
}

/// Where the rows stand that see keys by this mask; to write keys, any.
fn rows(step: &Step, mask: Mask) -> Rows {
    let ends = match mask {
        Mask::Causal => 0,
        Mask::Bidirectional => step.field(Field::Ends),
    };
    Rows { positions: step.field(Field::Positions), tables: step.field(Field::Tables), ends }
}

pub(crate) fn kv_write(
    cuda: &Cuda,
    step: &Step,
    kv: &Kv,
    layer: usize,
    spec: &AttnSpec,
    qkv: &Act,
) -> Result<()> {
    let cache = kv.cache(layer, spec, step.blocks());
    let (from, stride, heads) = (qkv.floats(), qkv.width() as i32, spec.heads as i32);
    let rows = rows(step, spec.mask);
    let grid = Grid::new((2 * spec.kv_heads).div_ceil(HEADS_AT_ONCE), qkv.rows(), 32 * HEADS_AT_ONCE);
    // SAFETY: the batch was checked: every position has a block of the cache.
    unsafe {
        cuda.launch(step, &cuda.kernels()?.kv_write, grid, arguments![from, stride, heads, rows, cache])
    }
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn attend(
    cuda: &Cuda,
    step: &Step,
    kv: &Kv,
    layer: usize,
    spec: &AttnSpec,
    sinks: Option<&Vector>,
    qkv: &Act,
    out: &mut Act,
) -> Result<()> {
    let AttnSpec {
        heads,
        kv_heads,
        head_dim,
        scale,
        mask,
        window,
        softcap,
        ref alibi,
        rope: _,
        norm: _,
        qk_norm: _,
        gated: _,
        latent,
    } = *spec;
    out.shape(qkv.rows(), spec.q_dim())?;
    let group = heads / kv_heads;
    let cache = kv.cache(layer, spec, step.blocks());
    let attend = Attend {
        qkv: qkv.floats(),
        heads: heads as i32,
        group: group as i32,
        scale,
        cap: softcap.unwrap_or(0.0),
        // A window longer than every position is none.
        window: window.filter(|&w| w < 1 << 30).map_or(0, |w| w as i32),
        stride: qkv.width() as i32,
        sinks: sinks.map_or(0, |s| s.data.pointer()),
        slopes: alibi.as_ref().map_or(Ok(0), |_| step.slopes(layer))?,
    };
    let rows = rows(step, mask);
    // Prompts are rounded, and generated rows where heads are whole blocks; the rest is left to the product.
    let to = out.out(step.roles_of(qkv.rows()).1)?;
    let mut all_rounded = true;
    for (role, range) in step.runs() {
        let on_tiles = match &cuda.kernels()?.attend_prompt {
            Some(kernels) if role == Role::Prompt && latent.is_none() => {
                kernels.iter().find(|(tile, _)| tile.takes(head_dim, group, mask, alibi.is_some()))
            }
            _ => None,
        };
        if let Some((tile, kernel)) = on_tiles {
            let (first, count) = (range.start as i32, range.len() as i32);
            let grid = Grid {
                shared: tile.shared(),
                ..Grid::new(kv_heads, range.len().div_ceil(tile.queries / group), 32 * tile.warps)
            };
            // SAFETY: the run's rows follow each other, and their keys are in the cache.
            unsafe { cuda.launch(step, kernel, grid, arguments![attend, rows, cache, first, count, to])? };
            continue;
        }
        all_rounded &= head_dim.is_multiple_of(32);
        decode(cuda, step, attend, rows, cache, to, range, kv_heads, head_dim)?;
    }
    out.set_rounded(all_rounded);
    Ok(())
}

/// Attention over partitions of the keys, as many rows at a time as there is room for partial results.
#[allow(clippy::too_many_arguments)]
fn decode(
    cuda: &Cuda,
    step: &Step,
    attend: Attend,
    rows: Rows,
    cache: crate::kv::Cache,
    to: crate::act::Out,
    range: std::ops::Range<usize>,
    kv_heads: usize,
    head_dim: usize,
) -> Result<()> {
    let partitions = step.partitions;
    let per_row = attend.heads as usize * partitions * (head_dim + 2);
    let at_once = (step.partial_floats / per_row.max(1)).clamp(1, 65535);
    let (partials, count, dim) = (step.partials.pointer(), partitions as i32, head_dim as i32);
    let kernels = cuda.kernels()?;
    let group = attend.group as usize;
    let [small, large] = &kernels.attend_partition;
    let (heads, partition) = match head_dim > MAX_HEAD_DIM {
        true => (LATENT_HEADS, &kernels.attend_latent),
        false if group <= small.0 => (small.0, &small.1),
        false => (large.0, &large.1),
    };
    let sets = group.div_ceil(heads);
    for first in range.clone().step_by(at_once) {
        let n = at_once.min(range.end - first);
        let first = first as i32;
        let blocks = (partitions as u32, (kv_heads * sets) as u32, n as u32);
        let grid = Grid { blocks, threads: 256, shared: 0 };
        // SAFETY: the rows' keys are in the cache, and the partial results of `n` rows fit.
        unsafe {
            cuda.launch(step, partition, grid, arguments![attend, rows, cache, first, partials, to])?;
        }
        // One partition is the result.
        if partitions > 1 {
            let blocks = (attend.heads as u32, n as u32, head_dim.div_ceil(256) as u32);
            let grid = Grid { blocks, threads: 256, shared: 0 };
            let arguments = arguments![attend, rows, dim, first, partials, count, to];
            // SAFETY: as above.
            unsafe { cuda.launch(step, &kernels.attend_merge, grid, arguments)? };
        }
    }
    Ok(())
}

/// What a block multiplies with `weight`: the norm of `x`, or `x` itself.
#[allow(clippy::too_many_arguments)]
pub(crate) fn input<'a>(
    cuda: &Cuda,
    step: &Step,
    spec: NormSpec,
    w: Option<&NormWeights<Cuda>>,
    x: &'a Act,
    normed: &'a mut Act,
    weight: &Weight,
) -> Result<&'a Act> {
    match w {
        Some(w) => {
            norm(cuda, step, x, spec, &w.weight, w.bias.as_ref(), normed, Some(weight)).map(|()| &*normed)
        }
        None => Ok(x),
    }
}

pub(crate) fn attn_in(
    cuda: &Cuda,
    step: &Step,
    spec: &AttnSpec,
    w: &AttnWeights<Cuda>,
    kv: &mut Kv,
    layer: usize,
    s: &mut Scratch<Cuda>,
) -> Result<()> {
    let AttnSpec {
        heads,
        kv_heads,
        head_dim,
        rope,
        norm: block_norm,
        scale: _,
        mask,
        window: _,
        softcap: _,
        alibi: _,
        qk_norm,
        gated: _,
        latent: _,
    } = spec;
    let AttnWeights {
        norm: input_norm,
        qkv,
        qkv_bias,
        q_norm,
        k_norm,
        sinks: _,
        latent: _,
        out: _,
        out_bias: _,
        post_norm: _,
    } = w;
    let x = input(cuda, step, *block_norm, input_norm.as_ref(), &s.x, &mut s.norm, qkv)?;
    s.qkv.shape(x.rows(), qkv.rows)?;
    product(cuda, step, qkv, x, &mut s.qkv, qkv_bias.as_ref(), false)?;
    // Norms over all heads together, and those with a bias, come first.
    let (q_dim, kv_dim) = (spec.q_dim(), spec.kv_dim());
    let (mut by_head, cols) = ([0, 0], [0..q_dim, q_dim..q_dim + kv_dim]);
    let (kind, apart) = match qk_norm {
        Some(QkNorm::Heads | QkNorm::Rows) | None => (NormKind::Rms, 0),
        Some(QkNorm::LayerRows) => (NormKind::Layer, 0),
        Some(QkNorm::LayerHeads) => (NormKind::Layer, *head_dim as i32),
    };
    for ((norm, to), cols) in [q_norm, k_norm].into_iter().zip(&mut by_head).zip(cols) {
        let Some(NormWeights { weight, bias }) = norm else { continue };
        let width = spec.qk_norm_width(cols.len());
        if width == *head_dim && bias.is_none() {
            *to = weight.data.pointer();
        } else {
            let norm = NormSpec { kind, eps: block_norm.eps };
            norm_heads(cuda, step, &mut s.qkv, cols, width, norm, weight, bias.as_ref())?;
        }
    }
    let (cosines, sines, half) = match rope {
        Some(rope) => step.rope(*rope)?,
        None => (0, 0, 0),
    };
    let [q_norm, k_norm] = by_head;
    let (eps, is_layer) = (block_norm.eps, i32::from(kind == NormKind::Layer));
    let turn = Turn { q_norm, k_norm, cosines, sines, eps, half, layer: is_layer, apart };
    let cache = kv.cache(layer, spec, step.blocks());
    let (at, stride, query_heads) = (s.qkv.floats(), s.qkv.width() as i32, *heads as i32);
    let rows = rows(step, *mask);
    s.qkv.set_rounded(false);
    let blocks = (heads + 2 * kv_heads).div_ceil(HEADS_AT_ONCE);
    let grid = Grid::new(blocks, s.qkv.rows(), 32 * HEADS_AT_ONCE);
    // SAFETY: heads are at most 256 wide, which making a step checked; every position has a block of the cache.
    unsafe {
        let arguments = arguments![at, stride, query_heads, turn, rows, cache];
        cuda.launch(step, &cuda.kernels()?.qkv_finish, grid, arguments)
    }
}

/// What a block's last product reads.
pub(crate) enum From {
    Attention,
    Hidden,
}

/// The end of a block: `s.x += norm(weight * from + bias)`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn residual(
    cuda: &Cuda,
    step: &Step,
    weight: &Weight,
    s: &mut Scratch<Cuda>,
    from: From,
    bias: Option<&Vector>,
    spec: NormSpec,
    post_norm: Option<&NormWeights<Cuda>>,
) -> Result<()> {
    let Scratch { x, proj, attn, hidden, .. } = s;
    let from = match from {
        From::Attention => attn,
        From::Hidden => hidden,
    };
    let Some(w) = post_norm else { return product(cuda, step, weight, from, x, bias, true) };
    proj.shape(from.rows(), weight.rows)?;
    product(cuda, step, weight, from, proj, bias, false)?;
    add_norm(cuda, step, spec, w, proj, x)
}

/// `x += norm(y)`.
fn add_norm(
    cuda: &Cuda,
    step: &Step,
    spec: NormSpec,
    w: &NormWeights<Cuda>,
    y: &Act,
    x: &mut Act,
) -> Result<()> {
    x.set_rounded(false);
    let ((kind, eps), from, weight) = (norm_code(spec), y.floats(), w.weight.data.pointer());
    let bias = w.bias.as_ref().map_or(0, |b| b.data.pointer());
    let (to, width) = (x.floats(), x.width() as i32);
    let grid = Grid::new(x.rows(), 1, norm_threads(x.width()));
    // SAFETY: both have these rows, and the weight their width.
    unsafe {
        cuda.launch(
            step,
            &cuda.kernels()?.add_norm,
            grid,
            arguments![from, kind, eps, weight, bias, to, width],
        )
    }
}

pub(crate) fn ffn(
    cuda: &Cuda,
    step: &Step,
    spec: &FfnSpec,
    w: &FfnWeights<Cuda>,
    s: &mut Scratch<Cuda>,
) -> Result<()> {
    let FfnSpec { hidden, gated, act, norm: block_norm, experts: _ } = *spec;
    let FfnWeights { norm: input_norm, gate_up, gate_up_bias, down, down_bias, post_norm } = w;
    let x = input(cuda, step, block_norm, input_norm.as_ref(), &s.x, &mut s.norm, gate_up)?;
    let bias = gate_up_bias.as_ref();
    s.hidden.shape(x.rows(), hidden)?;
    if !activated_product(cuda, step, gate_up, x, &mut s.hidden, bias, act, gated, down)? {
        let up = if gated { &mut s.gate_up } else { &mut s.hidden };
        up.shape(x.rows(), gate_up.rows)?;
        product(cuda, step, gate_up, x, up, bias, false)?;
        let from = up.floats();
        activate(cuda, step, act, from, gated, &mut s.hidden, Some(down))?;
    }
    residual(cuda, step, down, s, From::Hidden, down_bias.as_ref(), block_norm, post_norm.as_ref())
}
