//! Every operation against a double-precision oracle, and every ISA against the scalar definition bit for bit.

mod common;

use common::{Rng, SPECIAL, all_ops, nmse, same_bits};
use half::{bf16, f16};
use kinfer_kernels::ops::{
    ConvRow, ConvTaps, DeltaRow, ExpertGroups, Ops, Routing, Scores, choose_experts, rope_table,
};

const SIZES: [usize; 16] = [0, 1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 65, 100, 576, 577, 2051];

/// Runs `op` on every ISA: bit-equal to the first, whose result is returned.
fn on_all(what: &str, op: impl Fn(&Ops) -> Vec<f32>) -> Vec<f32> {
    let all = all_ops();
    let want = op(all[0]);
    for o in &all[1..] {
        assert!(same_bits(&op(o), &want), "{what}: {} differs from scalar", o.isa());
    }
    want
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// In units of the oracle's last single-precision place.
fn ulps(got: f32, want: f64) -> f64 {
    let (_, exp) = frexp(want.abs().max(f64::from(f32::MIN_POSITIVE)));
    (f64::from(got) - want).abs() / 2f64.powi(exp - 24)
}

/// `x = m * 2^e` with `m` in 1/2..1, for normal `x`.
fn frexp(x: f64) -> (f64, i32) {
    let e = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1022;
    (x / 2f64.powi(e), e)
}

#[test]
fn rms_norm() {
    for n in SIZES {
        let mut rng = Rng::new(n as u64);
        let (x, w) = (rng.normals(n), rng.normals(n));
        let got = on_all(&format!("rms_norm {n}"), |o| {
            let mut out = vec![0.0; n];
            o.rms_norm(&x, &w, 1e-5, &mut out);
            out
        });
        let mean = f64s(&x).iter().map(|v| v * v).sum::<f64>() / n.max(1) as f64;
        let want: Vec<f64> =
            (0..n).map(|i| f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(w[i])).collect();
        assert!(nmse(&got, &want) < 1e-13, "{n}: {}", nmse(&got, &want));
    }
}

#[test]
fn layer_norm() {
    for n in SIZES {
        let mut rng = Rng::new(n as u64);
        // A mean that is large beside the spread: what would cancel in one pass.
        let x: Vec<f32> = rng.normals(n).iter().map(|v| v + 30.0).collect();
        let (w, b) = (rng.normals(n), rng.normals(n));
        for bias in [None, Some(&b[..])] {
            let got = on_all(&format!("layer_norm {n}"), |o| {
                let mut out = vec![0.0; n];
                o.layer_norm(&x, &w, bias, 1e-5, &mut out);
                out
            });
            let mean = f64s(&x).iter().sum::<f64>() / n.max(1) as f64;
            let var = f64s(&x).iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n.max(1) as f64;
            let want: Vec<f64> = (0..n)
                .map(|i| (f64::from(x[i]) - mean) / (var + 1e-5).sqrt() * f64::from(w[i]))
                .zip(&b)
                .map(|(y, b)| y + bias.map_or(0.0, |_| f64::from(*b)))
                .collect();
            // The mean is rounded to 2e-6, an ulp of 30.
            assert!(nmse(&got, &want) < 1e-11, "{n}: {}", nmse(&got, &want));
        }
    }
}

#[test]
fn rms_norm_heads_equals_rms_norm() {
    for head_dim in [1, 15, 64, 80, 130] {
        let mut rng = Rng::new(head_dim as u64);
        let (x, w) = (rng.normals(5 * head_dim), rng.normals(head_dim));
        let got = on_all("rms_norm_heads", |o| {
            let mut x = x.clone();
            o.rms_norm_heads(&mut x, &w, 1e-6);
            x
        });
        let mut want = vec![0.0; x.len()];
        for (x, out) in x.chunks(head_dim).zip(want.chunks_mut(head_dim)) {
            all_ops()[0].rms_norm(x, &w, 1e-6, out);
        }
        assert!(same_bits(&got, &want));
    }
}

#[test]
fn layer_norm_heads_equals_layer_norm() {
    for width in [1, 15, 64, 80, 130] {
        let mut rng = Rng::new(width as u64);
        let (x, w, b) = (rng.normals(5 * width), rng.normals(5 * width), rng.normals(5 * width));
        for bias in [None, Some(&b[..])] {
            let got = on_all("layer_norm_heads", |o| {
                let mut x = x.clone();
                o.layer_norm_heads(&mut x, width, &w, bias, 1e-6);
                x
            });
            let mut want = vec![0.0; x.len()];
            for (i, out) in want.chunks_mut(width).enumerate() {
                let of = |all: &'_ [f32]| all[i * width..(i + 1) * width].to_vec();
                all_ops()[0].layer_norm(&of(&x), &of(&w), bias.map(of).as_deref(), 1e-6, out);
            }
            assert!(same_bits(&got, &want));
        }
    }
}

#[test]
fn add_and_scale() {
    for n in SIZES {
        let mut rng = Rng::new(n as u64);
        let (x, y) = (rng.normals(n), rng.normals(n));
        let sum = on_all("add", |o| {
            let mut x = x.clone();
            o.add(&mut x, &y);
            x
        });
        assert!((0..n).all(|i| sum[i] == x[i] + y[i]));
        let scaled = on_all("scale", |o| {
            let mut x = x.clone();
            o.scale(&mut x, 1.7);
            x
        });
        assert!((0..n).all(|i| scaled[i] == x[i] * 1.7));
    }
}

/// Arguments over the whole useful range, dense near 0.
fn arguments() -> Vec<f32> {
    let mut x: Vec<f32> = (-8000..8000).map(|i| i as f32 * 0.0025).collect();
    x.extend((-300..300).map(|i| (i as f32 * 0.1).exp2() * if i % 2 == 0 { 1.0 } else { -1.0 }));
    x
}

#[test]
fn silu() {
    let x = arguments();
    let one = vec![1.0; x.len()];
    let got = on_all("silu", |o| {
        let mut out = vec![0.0; x.len()];
        o.silu_mul(&x, &one, &mut out);
        out
    });
    for (&x, &got) in x.iter().zip(&got) {
        let want = f64::from(x) / (1.0 + (-f64::from(x)).exp());
        if x > -87.0 {
            assert!(ulps(got, want) < 4.0, "silu({x}) = {got}, not {want}");
        } else {
            // `exp` ends at e^88: x / e^88 stands for what is smaller still.
            assert!(f64::from(got).abs() < 1e-37 * f64::from(-x), "silu({x}) = {got}");
        }
    }
}

#[test]
fn gelu_tanh() {
    let x = arguments();
    let one = vec![1.0; x.len()];
    let got = on_all("gelu", |o| {
        let mut out = vec![0.0; x.len()];
        o.gelu_tanh_mul(&x, &one, &mut out);
        out
    });
    for (&x, &got) in x.iter().zip(&got) {
        let d = f64::from(x);
        // 1/2 (1 + tanh u) = 1 / (1 + e^-2u); the direct form cancels for u << 0 even in double precision.
        let u = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
        let want = d / (1.0 + (-2.0 * u).exp());
        // The rounding of 2u, an ulp and more of it, is an absolute error of the exponent.
        let bound = (4.0 + 5.0 * u.abs().min(90.0)) * 6e-8 * want.abs() + 1e-37 * d.abs();
        assert!((f64::from(got) - want).abs() <= bound, "gelu({x}) = {got}, not {want}");
    }
}

/// `x / 2 * (1 + erf(x / sqrt(2)))` by Simpson's rule over the normal density, 2000 steps.
fn gelu_by_integration(x: f64) -> f64 {
    let steps = 2000;
    let h = x / f64::from(steps);
    let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let weight = |i| if i == 0 || i == steps { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
    let area: f64 = (0..=steps).map(|i| weight(i) * density(f64::from(i) * h)).sum::<f64>() * h / 3.0;
    x * (0.5 + area)
}

#[test]
fn gelu() {
    let x: Vec<f32> =
        (-900..900).map(|i| i as f32 * 0.01).chain([20.0, -20.0, 1e30, f32::INFINITY]).collect();
    let got = on_all("gelu", |o| {
        let mut out = x.clone();
        o.gelu(&mut out);
        out
    });
    for (&x, &got) in x.iter().zip(&got) {
        let want = if x.abs() < 10.0 { gelu_by_integration(f64::from(x)) } else { f64::from(x.max(0.0)) };
        let near = (f64::from(got) - want).abs() <= 3e-7 * f64::from(x.abs()) + 1e-36;
        assert!(if x.is_infinite() { got == x } else { near }, "gelu({x}) = {got}, not {want}");
    }
}

#[test]
fn without_a_gate_is_with_an_up_of_one() {
    type Gated = fn(&Ops, &[f32], &[f32], &mut [f32]);
    type Alone = fn(&Ops, &mut [f32]);
    let pairs: [(Gated, Alone); 3] =
        [(Ops::silu_mul, Ops::silu), (Ops::gelu_tanh_mul, Ops::gelu_tanh), (Ops::gelu_mul, Ops::gelu)];
    for n in SIZES {
        let x = Rng::new(n as u64).normals(n);
        let one = vec![1.0; n];
        for (gated, alone) in pairs {
            let with = on_all("gated", |o| {
                let mut out = vec![0.0; n];
                gated(o, &x, &one, &mut out);
                out
            });
            let without = on_all("alone", |o| {
                let mut x = x.clone();
                alone(o, &mut x);
                x
            });
            assert!(same_bits(&with, &without));
        }
    }
}

#[test]
fn glu_multiplies_gate_and_up() {
    for n in SIZES {
        let mut rng = Rng::new(n as u64);
        let (g, u) = (rng.normals(n), rng.normals(n));
        let got = on_all("silu_mul", |o| {
            let mut out = vec![0.0; n];
            o.silu_mul(&g, &u, &mut out);
            out
        });
        let want: Vec<f64> =
            (0..n).map(|i| f64::from(g[i]) / (1.0 + (-f64::from(g[i])).exp()) * f64::from(u[i])).collect();
        assert!(nmse(&got, &want) < 1e-13);
        let got = on_all("gelu_tanh_mul", |o| {
            let mut out = vec![0.0; n];
            o.gelu_tanh_mul(&g, &u, &mut out);
            out
        });
        let k = (2.0 / std::f64::consts::PI).sqrt();
        let want: Vec<f64> = (0..n)
            .map(|i| {
                let x = f64::from(g[i]);
                0.5 * x * (1.0 + (k * (x + 0.044715 * x * x * x)).tanh()) * f64::from(u[i])
            })
            .collect();
        assert!(nmse(&got, &want) < 1e-13);
    }
}

#[test]
fn softcap() {
    for cap in [30.0, 50.0, 1.0] {
        let x = arguments();
        let got = on_all("softcap", |o| {
            let mut x = x.clone();
            o.softcap(&mut x, cap);
            x
        });
        for (&x, &got) in x.iter().zip(&got) {
            let want = f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh();
            assert!(ulps(got, want) < 6.0, "softcap {cap} of {x}: {got}, not {want}");
        }
    }
    for n in SIZES {
        let x = Rng::new(n as u64).normals(n);
        on_all("softcap", |o| {
            let mut x = x.clone();
            o.softcap(&mut x, 2.0);
            x
        });
    }
}

#[test]
fn rope_turns_pairs_and_keeps_the_rest() {
    for (head_dim, dim) in [(2, 2), (16, 16), (64, 64), (80, 80), (80, 20), (128, 64), (33, 30), (8, 0)] {
        let (heads, half, position) = (3, dim / 2, 70_001);
        let x = Rng::new(head_dim as u64).normals(heads * head_dim);
        let freq: Vec<f32> = (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect();
        let (mut cos, mut sin) = (vec![0.0; half], vec![0.0; half]);
        rope_table(position, &freq, 1.25, &mut cos, &mut sin);
        let got = on_all("rope", |o| {
            let mut x = x.clone();
            o.rope(&mut x, head_dim, &cos, &sin);
            x
        });
        let mut want = f64s(&x);
        for h in 0..heads {
            for (i, f) in freq.iter().enumerate() {
                let a = f64::from(position as f32 * f);
                let (s, c) = (a.sin() * 1.25, a.cos() * 1.25);
                let (p, q) = (h * head_dim + i, h * head_dim + half + i);
                (want[p], want[q]) = (want[p] * c - want[q] * s, want[p] * s + want[q] * c);
            }
        }
        assert!(nmse(&got, &want) < 1e-13, "{head_dim} {dim}: {}", nmse(&got, &want));
        for h in 0..heads {
            let rest = h * head_dim + 2 * half..(h + 1) * head_dim;
            assert_eq!(got[rest.clone()], x[rest]);
        }
    }
}

#[test]
fn rope_table_at_position_zero_is_identity() {
    let (mut cos, mut sin) = ([0.0; 3], [1.0; 3]);
    rope_table(0, &[1.0, 0.1, 0.01], 1.0, &mut cos, &mut sin);
    assert_eq!((cos, sin), ([1.0; 3], [0.0; 3]));
}

#[test]
fn experts_are_chosen_by_their_probability() {
    let logits = [0.5, 2.0, -1.0, 2.0, 1.0];
    let routed = |bias: Option<&[f32]>, routing| {
        let mut chosen = Vec::new();
        choose_experts(&logits, bias, &routing, |i, w| chosen.push((i, w)));
        chosen
    };
    let softmax =
        |used, renormalise| Routing { used, scores: Scores::Softmax, renormalise, scale: 1.0, groups: None };
    let of = |used, renormalise| routed(None, softmax(used, renormalise));
    let e = |i: usize| f64::from(logits[i]).exp();
    let all: f64 = (0..5).map(e).sum();
    for (renormalise, sum) in [(false, all), (true, e(1) + e(3) + e(4))] {
        let chosen = of(3, renormalise);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 3, 4], "the first of equals is first");
        assert!(chosen.iter().all(|&(i, w)| (f64::from(w) - e(i) / sum).abs() < 1e-7), "{chosen:?}");
    }
    assert_eq!(of(9, true).len(), 5, "no more than there are");

    // A bias chooses, and weighs nothing: sigmoids are 0.62, 0.88, 0.27, 0.88, 0.73.
    let sigmoid = |i: usize| 1.0 / (1.0 + f64::from(-logits[i]).exp());
    let bias = [0.5, -0.3, 0.7, 0.0, 0.0];
    let routing = Routing { used: 3, scores: Scores::Sigmoid, renormalise: true, scale: 2.5, groups: None };
    let chosen = routed(Some(&bias), routing);
    assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 2, 3]);
    let sum = sigmoid(0) + sigmoid(2) + sigmoid(3);
    assert!(chosen.iter().all(|&(i, w)| (f64::from(w) - 2.5 * sigmoid(i) / sum).abs() < 1e-6), "{chosen:?}");
    // Biased softmax: the scores are probabilities, 0.09, 0.38, 0.02, 0.38, 0.14.
    let chosen = routed(Some(&[0.4, 0.0, 0.0, 0.0, -0.1]), softmax(2, false));
    assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1]);
    assert!(chosen.iter().all(|&(i, w)| (f64::from(w) - e(i) / all).abs() < 1e-7), "{chosen:?}");
}

#[test]
fn experts_are_chosen_from_the_best_groups() {
    // Sigmoids: 0.95 0.12 0.50 | 0.73 0.82 0.27 | 0.88 0.62 0.05.
    let logits = [3.0, -2.0, 0.0, 1.0, 1.5, -1.0, 2.0, 0.5, -3.0];
    let chosen = |bias: Option<&[f32]>, groups| {
        let routing = Routing {
            used: 3,
            scores: Scores::Sigmoid,
            renormalise: false,
            scale: 1.0,
            groups: Some(groups),
        };
        let mut chosen = Vec::new();
        choose_experts(&logits, bias, &routing, |i, w| chosen.push((i, w)));
        let sigmoid = |i: usize| 1.0 / (1.0 + f64::from(-logits[i]).exp());
        assert!(chosen.iter().all(|&(i, w)| (f64::from(w) - sigmoid(i)).abs() < 1e-6), "{chosen:?}");
        chosen.iter().map(|c| c.0).collect::<Vec<_>>()
    };
    let groups = |used, judged_by| ExpertGroups { count: 3, used, judged_by };
    // By the best one: 0.95, 0.82, 0.88. By two: 1.45, 1.55, 1.50.
    assert_eq!(chosen(None, groups(1, 1)), [0, 2, 1]);
    assert_eq!(chosen(None, groups(1, 2)), [4, 3, 5]);
    assert_eq!(chosen(None, groups(2, 2)), [6, 4, 3]);
    assert_eq!(chosen(None, groups(3, 2)), [0, 6, 4]);
    // A bias counts where groups are ranked, too.
    let bias = [0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(chosen(Some(&bias), groups(1, 2)), [0, 2, 1]);
}

/// A text of several positions, its channels at once and in two pieces, whose weights and inputs lie among others'.
#[test]
fn short_conv() {
    const POSITIONS: usize = 7;
    for (n, taps) in SIZES.into_iter().flat_map(|n| [2, 3, 4, 32].map(|taps| (n, taps))) {
        let mut rng = Rng::new((n + taps) as u64);
        let stride = n + 3;
        let weights = rng.normals(taps * stride);
        let rows: Vec<[Vec<f32>; 3]> =
            (0..POSITIONS).map(|_| std::array::from_fn(|_| rng.normals(n))).collect();
        let before = rng.normals((taps - 1) * n);
        let run = |o: &Ops, cut: usize| {
            let mut all = vec![0.0; POSITIONS * n];
            for cols in [0..cut, cut..n] {
                let mut past: Vec<f32> =
                    (0..taps - 1).flat_map(|j| before[j * n..][cols.clone()].to_vec()).collect();
                for (p, [b, c, x]) in rows.iter().enumerate() {
                    let [b, c, x] = [b, c, x].map(|v| &v[cols.clone()]);
                    let row = ConvRow { b, c, x, taps: &weights[cols.start..], stride };
                    o.short_conv(row, &mut past, p % (taps - 1), &mut all[p * n..][cols.clone()]);
                }
            }
            all
        };
        let got = on_all(&format!("short_conv {n} of {taps} taps"), |o| run(o, 0));
        for o in all_ops() {
            let cut = n / 2 / 16 * 16;
            assert!(same_bits(&run(o, cut), &got), "{n} channels in pieces on {}", o.isa());
        }
        // Products of this text, and of what lies before it.
        let product = |p: isize, i: usize| match usize::try_from(p) {
            Ok(p) => f64::from(rows[p][0][i]) * f64::from(rows[p][2][i]),
            Err(_) => f64::from(before[(taps as isize - 1 + p) as usize * n + i]),
        };
        let want: Vec<f64> = (0..POSITIONS * n)
            .map(|at| {
                let (p, i) = (at / n, at % n);
                let tap = |j: usize| {
                    f64::from(weights[j * stride + i]) * product((p + j) as isize + 1 - taps as isize, i)
                };
                f64::from(rows[p][1][i]) * (0..taps).map(tap).sum::<f64>()
            })
            .collect();
        assert!(nmse(&got, &want) < 1e-13, "{n} channels, {taps} taps: {}", nmse(&got, &want));
    }
}

#[test]
fn causal_conv() {
    const POSITIONS: usize = 7;
    for (n, taps) in SIZES.into_iter().flat_map(|n| [2, 4, 32].map(|taps| (n, taps))) {
        let mut rng = Rng::new((n + taps) as u64);
        let (stride, past_stride, behind) = (n + 3, n + 5, taps - 1);
        let (weights, rows) = (rng.normals(taps * stride), rng.normals(POSITIONS * n));
        let before = rng.normals(behind * past_stride);
        let got = on_all(&format!("causal_conv {n} of {taps} taps"), |o| {
            let (mut all, mut past) = (vec![0.0; POSITIONS * n], before.clone());
            for (p, out) in (0..POSITIONS).zip(all.chunks_exact_mut(n.max(1))) {
                let conv = ConvTaps {
                    taps: &weights,
                    stride,
                    past: &mut past,
                    past_stride,
                    behind,
                    oldest: p % behind,
                };
                o.causal_conv(&rows[p * n..(p + 1) * n], conv, out);
            }
            all
        });
        let value = |p: isize, i: usize| match usize::try_from(p) {
            Ok(p) => f64::from(rows[p * n + i]),
            Err(_) => f64::from(before[(behind as isize + p) as usize * past_stride + i]),
        };
        let want: Vec<f64> = (0..POSITIONS * n)
            .map(|at| {
                let (p, i) = (at / n, at % n);
                let tap = |j: usize| {
                    f64::from(weights[j * stride + i]) * value((p + j) as isize - behind as isize, i)
                };
                (0..taps).map(tap).sum::<f64>()
            })
            .collect();
        assert!(nmse(&got, &want) < 1e-13, "{n} channels, {taps} taps: {}", nmse(&got, &want));
    }
}

#[test]
fn to_length() {
    for n in SIZES {
        let x = Rng::new(n as u64).normals(n);
        let got = on_all(&format!("to_length {n}"), |o| {
            let mut out = x.clone();
            o.to_length(&mut out, 0.25, 0.5);
            out
        });
        let length = (f64s(&x).iter().map(|v| v * v).sum::<f64>() + 0.5).sqrt();
        let want: Vec<f64> = f64s(&x).iter().map(|v| 0.25 * v / length).collect();
        assert!(nmse(&got, &want) < 1e-13, "{n}: {}", nmse(&got, &want));
    }
}

#[test]
fn sigmoid_mul() {
    for n in SIZES {
        let mut rng = Rng::new(n as u64);
        let (x, gate) = (rng.normals(n), rng.normals(n));
        let got = on_all(&format!("sigmoid_mul {n}"), |o| {
            let mut out = x.clone();
            o.sigmoid_mul(&gate, &mut out);
            out
        });
        let want: Vec<f64> = (0..n).map(|i| f64::from(x[i]) / (1.0 + (-f64::from(gate[i])).exp())).collect();
        assert!(nmse(&got, &want) < 1e-13, "{n}: {}", nmse(&got, &want));
    }
}

#[test]
fn delta_rule() {
    const POSITIONS: usize = 5;
    for (keys, n) in [1, 3, 16, 128].into_iter().flat_map(|k| [1, 7, 16, 24, 32, 33, 128].map(|n| (k, n))) {
        let mut rng = Rng::new((1000 * keys + n) as u64);
        let unit = |mut v: Vec<f32>| {
            let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            v.iter_mut().for_each(|x| *x /= length);
            v
        };
        let rows: Vec<[Vec<f32>; 3]> = (0..POSITIONS)
            .map(|_| [unit(rng.normals(keys)), unit(rng.normals(keys)), rng.normals(n)])
            .collect();
        let factors: Vec<[f32; 2]> =
            (0..POSITIONS).map(|p| [0.5 + p as f32 / 10.0, 0.9 - p as f32 / 10.0]).collect();
        let before = rng.normals(keys * n);
        let got = on_all(&format!("delta_rule {keys} by {n}"), |o| {
            let (mut state, mut all) = (before.clone(), Vec::new());
            for ([q, k, v], &[decay, beta]) in rows.iter().zip(&factors) {
                let mut out = vec![0.0; n];
                o.delta_rule(DeltaRow { q, k, v, decay, beta }, &mut state, &mut out);
                all.extend(out);
            }
            [all, state].concat()
        });
        let (mut state, mut want) = (f64s(&before), Vec::new());
        for ([q, k, v], &[decay, beta]) in rows.iter().zip(&factors) {
            let (q, k, v, decay, beta) = (f64s(q), f64s(k), f64s(v), f64::from(decay), f64::from(beta));
            state.iter_mut().for_each(|s| *s *= decay);
            let product =
                |x: &[f64], state: &[f64], i: usize| (0..keys).map(|j| x[j] * state[j * n + i]).sum::<f64>();
            let change: Vec<f64> = (0..n).map(|i| beta * (v[i] - product(&k, &state, i))).collect();
            (0..keys * n).for_each(|at| state[at] += k[at / n] * change[at % n]);
            want.extend((0..n).map(|i| product(&q, &state, i)));
        }
        want.extend(state);
        assert!(nmse(&got, &want) < 1e-12, "{keys} by {n}: {}", nmse(&got, &want));
    }
}

#[test]
fn conversions() {
    for n in SIZES {
        let mut rng = Rng::new(n as u64);
        let x: Vec<f32> = (0..n).map(|_| rng.normal() * 10f32.powi(rng.below(14) as i32 - 8)).collect();
        for o in all_ops() {
            let mut half = vec![f16::ZERO; n];
            o.to_f16(&x, &mut half);
            let want: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
            assert_eq!(half, want, "to_f16 on {}", o.isa());
            let mut back = vec![0.0; n];
            o.from_f16(&half, &mut back);
            assert_eq!(back, half.iter().map(|v| v.to_f32()).collect::<Vec<_>>(), "from_f16 on {}", o.isa());
            let brain: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
            o.from_bf16(&brain, &mut back);
            assert_eq!(
                back,
                brain.iter().map(|v| v.to_f32()).collect::<Vec<_>>(),
                "from_bf16 on {}",
                o.isa()
            );
        }
    }
}

#[test]
fn argmax() {
    for n in [1, 2, 15, 16, 17, 500, 511, 512, 513, 5000] {
        let mut rng = Rng::new(n as u64);
        for _ in 0..8 {
            // Few distinct values, so that equals occur.
            let mut x: Vec<f32> = (0..n).map(|_| (rng.normal() * 3.0).round()).collect();
            x[rng.below(n)] = f32::NAN;
            let mut want = None;
            for (i, &v) in x.iter().enumerate() {
                if !v.is_nan() && want.is_none_or(|w: usize| v > x[w]) {
                    want = Some(i);
                }
            }
            for o in all_ops() {
                assert_eq!(o.argmax(&x), want, "argmax of {n} on {}", o.isa());
            }
        }
    }
    for o in all_ops() {
        assert_eq!(o.argmax(&[]), None);
        assert_eq!(o.argmax(&[f32::NAN; 40]), None);
        assert_eq!(o.argmax(&[f32::NEG_INFINITY; 700]), Some(0));
    }
}

#[test]
fn odd_values_are_the_same_on_every_isa() {
    let mut rng = Rng::new(5);
    for n in [14, 16, 33, 70] {
        for _ in 0..50 {
            let mut odd = |n: usize| -> Vec<f32> {
                (0..n)
                    .map(|_| if rng.below(3) == 0 { SPECIAL[rng.below(SPECIAL.len())] } else { rng.normal() })
                    .collect()
            };
            let (x, y) = (odd(n), odd(n));
            let out = |f: &dyn Fn(&mut [f32])| {
                let mut out = x.clone();
                f(&mut out);
                out
            };
            on_all("rms_norm", |o| out(&|out| o.rms_norm(&x, &y, 1e-5, out)));
            on_all("add", |o| out(&|out| o.add(out, &y)));
            on_all("scale", |o| out(&|out| o.scale(out, -0.3)));
            on_all("softcap", |o| out(&|out| o.softcap(out, 30.0)));
            on_all("silu_mul", |o| out(&|out| o.silu_mul(&x, &y, out)));
            on_all("gelu_tanh_mul", |o| out(&|out| o.gelu_tanh_mul(&x, &y, out)));
            on_all("gelu_mul", |o| out(&|out| o.gelu_mul(&x, &y, out)));
            on_all("layer_norm", |o| out(&|out| o.layer_norm(&x, &y, Some(&x), 1e-5, out)));
            on_all("rope", |o| out(&|out| o.rope(out, n, &y[..n / 2], &y[n / 2..n / 2 * 2])));
            on_all("short_conv", |o| {
                let (mut past, row) =
                    (x.clone(), ConvRow { b: &x, c: &y, x: &y, taps: &[&x[..], &y].concat(), stride: n });
                [out(&|out| o.short_conv(row, &mut past.clone(), 0, out)), {
                    o.short_conv(row, &mut past, 0, &mut vec![0.0; n]);
                    past
                }]
                .concat()
            });
            on_all("f16", |o| {
                let mut half = vec![f16::ZERO; n];
                o.to_f16(&x, &mut half);
                out(&|out| o.from_f16(&half, out))
            });
        }
    }
}

#[test]
fn nan_is_not_hidden() {
    for o in all_ops() {
        let (x, one) = ([f32::NAN], [1.0]);
        let mut y = [0.0];
        o.silu_mul(&x, &one, &mut y);
        assert!(y[0].is_nan());
        o.gelu_tanh_mul(&x, &one, &mut y);
        assert!(y[0].is_nan());
        o.gelu_mul(&x, &one, &mut y);
        assert!(y[0].is_nan());
        let mut y = x;
        o.softcap(&mut y, 30.0);
        assert!(y[0].is_nan());
    }
}
