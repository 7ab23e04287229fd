//! Mixtures of experts: the rows that chose an expert are gathered, multiplied together, and added where they came from.
//!
//! A row adds up its experts in ascending order, whatever other rows there are, so its sum does not depend on batch mates.

use crate::{Act, Cpu, Step, Weight};
use kinfer_core::backend::ExpertWeights;
use kinfer_core::batch::Role;
use kinfer_core::{ExpertSpec, FfnSpec, PartSpec};
use kinfer_kernels::ops::choose_experts;

/// A row's way through one of its experts.
#[derive(Clone, Copy)]
struct Route {
    expert: u32,
    row: u32,
    weight: f32,
}

/// The choices of a layer, and buffers for the rows of one expert.
pub(crate) struct Mixture {
    routes: Vec<Route>,
    roles: Vec<Role>,
    /// `[rows, dim]`
    taken: Act,
    /// `[rows, 2 * hidden]`
    gate_up: Act,
    /// `[rows, hidden]`
    hidden: Act,
    /// `[rows, dim]`
    out: Act,
}

impl Mixture {
    /// Buffers for at most `rows` rows of the part; empty ones if it has no experts.
    pub fn new(part: &PartSpec, rows: usize, tiles: bool) -> Mixture {
        let mixtures = || part.ffn.iter().filter_map(|f| f.experts.map(|e| (e, f)));
        let most = |f: fn((ExpertSpec, &FfnSpec)) -> usize| mixtures().map(f).max().unwrap_or(0);
        let (used, hidden) = (most(|(e, _)| e.routing.used), most(|(_, f)| f.hidden));
        let rows = if used == 0 { 0 } else { rows };
        let act = |width| Act::new(rows, if rows == 0 { 0 } else { width }, tiles);
        Mixture {
            routes: Vec::with_capacity(rows * used),
            roles: Vec::with_capacity(rows),
            taken: act(part.dim),
            gate_up: act(2 * hidden),
            hidden: act(hidden),
            out: act(part.dim),
        }
    }
}

pub(crate) fn route(step: &mut Step, spec: ExpertSpec, bias: Option<&[f32]>, logits: &Act) {
    let routes = &mut step.mixture.routes;
    routes.clear();
    for row in 0..logits.rows() {
        choose_experts(logits.row(row), bias, &spec.routing, |expert, weight| {
            routes.push(Route { expert: expert as u32, row: row as u32, weight });
        });
    }
    routes.sort_unstable_by_key(|r| (r.expert, r.row));
}

pub(crate) fn experts(
    cpu: &Cpu,
    step: &mut Step,
    spec: &FfnSpec,
    w: &ExpertWeights<Weight, Vec<f32>>,
    x: &Act,
    sum: &mut Act,
) {
    let (dim, width) = (x.width(), spec.hidden);
    sum.shape(x.rows(), dim);
    cpu.rows_mut(sum, 0..dim, |row, _| row.fill(0.0));
    let (mixture, roles) = step.mixture_and_roles();
    let Mixture { routes, roles: chosen, taken, gate_up, hidden, out } = mixture;
    for same in routes.chunk_by(|a, b| a.expert == b.expert) {
        let e = same[0].expert as usize;
        let [up, down] = &w.products[e];
        chosen.clear();
        chosen.extend(same.iter().map(|route| roles[route.row as usize]));
        taken.shape(same.len(), dim);
        cpu.rows_mut(taken, 0..dim, |row, r| row.copy_from_slice(x.row(same[r].row as usize)));
        cpu.product(up, taken, chosen, gate_up);
        if let Some(bias) = of_expert(&w.gate_up_bias, e, up.rows()) {
            cpu.rows_mut(gate_up, 0..bias.len(), |row, _| cpu.ops.add(row, bias));
        }
        hidden.shape(same.len(), width);
        cpu.rows_mut(hidden, 0..width, |row, r| {
            let both = gate_up.row(r);
            let up = spec.gated.then(|| &both[width..]);
            cpu.activate_slices(spec.act, &both[..width], up, row);
        });
        cpu.product(down, hidden, chosen, out);
        let bias = of_expert(&w.down_bias, e, dim);
        cpu.rows_mut(out, 0..dim, |row, r| {
            if let Some(bias) = bias {
                cpu.ops.add(row, bias);
            }
            cpu.ops.scale(row, same[r].weight);
        });
        cpu.add_rows(sum, out, |r| same[r].row as usize);
    }
}

/// The `n` biases of expert `e`.
fn of_expert(biases: &Option<Vec<f32>>, e: usize, n: usize) -> Option<&[f32]> {
    biases.as_ref().map(|all| &all[e * n..(e + 1) * n])
}
