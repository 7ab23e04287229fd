//! Attention and convolutions.

use super::*;

/// A latent as wide as heads are, but for what turns.
const LATENT: LatentSpec = LatentSpec { rank: 256, q_rank: None, plain: 32, value: 32, eps: 1e-6 };

/// Slopes of linear biases, none of which is another one's.
fn slopes(heads: usize) -> Option<Arc<[f32]>> {
    Some((0..heads).map(|h| 0.3 / (h + 1) as f32).collect())
}

/// Widths of heads, numbers of heads and lengths that fill no tile; several partitions; windows, caps, sinks and linear biases.
#[test]
fn attention_of_every_shape() {
    /// Outputs of prompt chunks of these lengths, and of three generated rows after them.
    fn attend<B: Backend>(b: &B, spec: &ModelSpec, kv: KvType, prompts: [usize; 2]) -> [Vec<f32>; 2] {
        let part = spec.whole();
        let attn = &part.attn[0];
        let sinks: Vec<f32> = (0..attn.heads).map(|h| h as f32 / 2.0).collect();
        // Where there is a soft cap, too.
        let sinks = attn.softcap.map(|_| b.vector(&sinks).unwrap());
        let table = b.weight(&[Stored::new(Format::F32, spec.vocab, spec.dim, 1).matrix()]).unwrap();
        let rows = prompts[0].max(prompts[1]);
        let mut cache = b.kv(&spec.whole(), 32, 0, KvTypes { k: kv, v: kv }).unwrap();
        let mut step = b.step(&spec.whole(), rows, 32).unwrap();
        let (mut qkv, mut out) = (b.act(rows, spec.dim).unwrap(), b.act(rows, attn.q_dim()).unwrap());
        let blocks: Vec<u32> = (0..32).rev().collect();
        let (mut all, mut start) = ([Vec::new(), Vec::new()], 0);
        for n in [prompts[0], prompts[1], 1, 1, 1] {
            let mut batch = Batch::default();
            let tokens: Vec<u32> = (start..start + n).map(|t| (t % spec.vocab) as u32).collect();
            let role = if n == 1 { Role::Generated } else { Role::Prompt };
            batch.push(role, &tokens, start, &blocks[..(start + n).div_ceil(32)], true);
            b.begin(&mut step, &[], &batch).unwrap();
            b.embed(&step, &table, 20.0, &mut qkv).unwrap();
            b.kv_write(&step, &mut cache, 0, attn, &qkv).unwrap();
            b.attend(&mut step, &cache, 0, attn, sinks.as_ref(), &qkv, &mut out).unwrap();
            all[role as usize].extend_from_slice(b.read(&mut step, &out).unwrap());
            start += n;
        }
        all
    }
    let cuda = common::gpu();
    for (heads, head_dim, window, softcap, biased, prompts) in [
        (1, 64, None, None, false, [330, 37]),
        (3, 80, Some(70), None, false, [330, 37]),
        (2, 128, None, Some(3.0), false, [290, 5]),
        (9, 40, Some(300), None, false, [330, 7]),
        (2, 256, None, None, false, [270, 3]),
        (2, 44, None, None, false, [70, 5]),
        // More heads than a tile has rows: prompts go the way of generated rows.
        (130, 16, None, None, false, [40, 7]),
        (3, 64, None, None, true, [290, 37]),
        (5, 112, Some(70), Some(3.0), true, [130, 5]),
        // No tile of such heads has biases: these go the same way.
        (2, 160, None, None, true, [40, 7]),
        // Latent attention.
        (3, 288, None, None, false, [40, 7]),
        (1, 576, None, Some(3.0), false, [270, 3]),
    ] {
        let mut spec = spec(61, (heads + 2) * head_dim, heads, head_dim, None);
        let attn = spec.layers[0].mixer.attn_mut().unwrap();
        (attn.window, attn.softcap) = (window, softcap);
        attn.alibi = slopes(heads).filter(|_| biased);
        attn.latent = (head_dim > 256).then_some(LATENT);
        for kv in [KvType::F32, KvType::F16, KvType::Bf16, KvType::Q8_0] {
            // The reference has no 8-bit cache; its own rounding is far below these bounds.
            let (reference, bounds) = match kv {
                KvType::Q8_0 => (KvType::F16, [1e-3, 1e-3]),
                _ => (kv, [1e-4, 1e-10]),
            };
            let got = attend(&cuda, &spec, kv, prompts);
            let truth = attend(&Candle::cpu(), &spec, reference, prompts);
            for (role, bound) in [(Role::Prompt, bounds[0]), (Role::Generated, bounds[1])] {
                let error = nmse(&got[role as usize], &truth[role as usize]);
                println!("{heads} heads of {head_dim}, {kv}, {role:?}: NMSE {error:.1e}");
                assert!(error < bound, "{heads} heads of {head_dim}, {kv}, {role:?}: NMSE {error:.1e}");
            }
        }
    }
}

/// Chunks of prompts and generated rows of three sequences, in blocks that are not in order.
#[test]
fn convolutions() {
    fn convolve<B: Backend>(b: &B, width: usize, taps: usize) -> Vec<f32> {
        let conv = ConvSpec { width, taps, norm: NORM };
        let mut spec = spec(61, 3 * width, 1, 64, None);
        spec.layers[0].mixer = Mixer::Convolution(conv);
        let part = spec.whole();
        let table = b.weight(&[Stored::new(Format::F32, spec.vocab, spec.dim, 1).matrix()]).unwrap();
        let mut random = Random::new(2);
        let weights: Vec<f32> = (0..taps * width).map(|_| random.uniform() - 0.5).collect();
        let weights = b.vector(&weights).unwrap();
        let mut cache = b.kv(&part, 12, 0, KvTypes::default()).unwrap();
        let mut step = b.step(&part, 80, 12).unwrap();
        let (mut bcx, mut out) = (b.act(80, spec.dim).unwrap(), b.act(80, width).unwrap());
        let blocks: Vec<u32> = (0..12).rev().collect();
        let (mut all, mut starts) = (Vec::new(), [0; 3]);
        for lengths in [[40, 1, 2], [1, 1, 1], [1, 1, 1], [1, 30, 30], [7, 33, 40], [1, 1, 1], [1, 1, 1]] {
            let mut batch = Batch::default();
            for (i, (start, n)) in starts.iter_mut().zip(lengths).enumerate() {
                let role = if n == 1 { Role::Generated } else { Role::Prompt };
                let tokens: Vec<u32> =
                    (*start..*start + n).map(|t| ((t * 3 + i) % spec.vocab) as u32).collect();
                let own = &blocks[4 * i..4 * i + (*start + n).div_ceil(32)];
                batch.push(role, &tokens, *start, own, true);
                *start += n;
            }
            b.begin(&mut step, &[], &batch).unwrap();
            b.embed(&step, &table, 20.0, &mut bcx).unwrap();
            b.short_conv(&mut step, &mut cache, 0, &conv, &weights, &bcx, &mut out).unwrap();
            all.extend_from_slice(b.read(&mut step, &out).unwrap());
        }
        all
    }
    let cuda = common::gpu();
    for (width, taps) in [(320, 3), (40, 2), (64, 32)] {
        let (got, truth) = (convolve(&cuda, width, taps), convolve(&Candle::cpu(), width, taps));
        let error = nmse(&got, &truth);
        println!("{taps} taps of {width}: NMSE {error:.1e}");
        assert!(got.len() == truth.len() && error < 1e-12, "{taps} taps of {width}: NMSE {error:.1e}");
    }
}

/// Chunks of prompts and generated rows of three sequences, whose states are not in order; one begins anew.
#[test]
fn delta_nets() {
    fn compute<B: Backend>(b: &B, delta: DeltaSpec) -> [Vec<f32>; 2] {
        let width = delta.projection_dim();
        let mut spec = spec(61, width, 1, 64, None);
        spec.layers[0].mixer = Mixer::DeltaNet(delta);
        let part = spec.whole();
        let table = b.weight(&[Stored::new(Format::F32, spec.vocab, spec.dim, 1).matrix()]).unwrap();
        let vector = |seed, n, least: f32| {
            let mut random = Random::new(seed);
            b.vector(&(0..n).map(|_| least + random.uniform()).collect::<Vec<f32>>()).unwrap()
        };
        let weights = DeltaVectors {
            taps: vector(2, delta.taps * delta.channels(), -0.5),
            decay: vector(3, delta.value_heads, -1.0),
            dt_bias: vector(4, delta.value_heads, -0.5),
            norm: vector(5, delta.value_dim, 0.5),
        };
        let mut cache = b.kv(&part, 12, 4, KvTypes::default()).unwrap();
        let mut step = b.step(&part, 80, 12).unwrap();
        let (mut x, mut out) = (b.act(80, width).unwrap(), b.act(80, delta.all_values()).unwrap());
        let blocks: Vec<u32> = (0..12).rev().collect();
        let (mut all, mut first, mut starts) = (Vec::new(), Vec::new(), [0; 3]);
        for (at, lengths) in
            [[40, 1, 2], [1, 1, 1], [1, 1, 1], [1, 30, 30], [7, 33, 40], [1, 1, 1], [1, 1, 1], [33, 2, 1]]
                .into_iter()
                .enumerate()
        {
            if at == 7 {
                starts[0] = 0;
            }
            let mut batch = Batch::default();
            for (i, (start, n)) in starts.iter_mut().zip(lengths).enumerate() {
                let role = if n == 1 { Role::Generated } else { Role::Prompt };
                let tokens: Vec<u32> =
                    (*start..*start + n).map(|t| ((t * 3 + i) % spec.vocab) as u32).collect();
                let own = &blocks[4 * i..4 * i + (*start + n).div_ceil(32)];
                batch.push_state(3 - i as u32, role, &tokens, *start, own, true);
                *start += n;
            }
            b.begin(&mut step, &[], &batch).unwrap();
            b.embed(&step, &table, 20.0, &mut x).unwrap();
            b.delta_rule(&mut step, &mut cache, 0, &delta, &weights, &x, &mut out).unwrap();
            let rows = b.read(&mut step, &out).unwrap();
            all.extend_from_slice(rows);
            if at == 0 || at == 7 {
                first.extend_from_slice(&rows[..33 * delta.all_values()]);
            }
        }
        [all, first]
    }
    let cuda = common::gpu();
    for (key_heads, value_heads, key_dim, value_dim, sharing, taps) in [
        (2, 4, 128, 128, HeadSharing::Neighbours, 4),
        (3, 6, 24, 40, HeadSharing::Turns, 2),
        (1, 1, 250, 256, HeadSharing::Turns, 32),
        (1, 3, 33, 7, HeadSharing::Neighbours, 3),
    ] {
        let delta = DeltaSpec { key_heads, value_heads, key_dim, value_dim, sharing, taps, norm: NORM };
        let name = format!("{value_heads} heads, {key_dim} x {value_dim}, {taps} taps");
        let ([got, first], [truth, _]) = (compute(&cuda, delta), compute(&Candle::cpu(), delta));
        let error = nmse(&got, &truth);
        println!("{name}: NMSE {error:.1e}");
        assert!(got.len() == truth.len() && error < 1e-10, "{name}: NMSE {error:.1e}");
        // What begins at position 0 finds nothing of the sequence before.
        let (before, after) = first.split_at(first.len() / 2);
        assert!(before == after, "{name}: a state that begins anew");
    }
}

/// Encoders: each row sees all keys of its run, or those of a window on both sides. Texts of which some are short enough to have the other role.
#[test]
fn attention_to_what_follows() {
    fn attend<B: Backend>(b: &B, spec: &ModelSpec, kv: KvType) -> [Vec<f32>; 2] {
        let part = spec.whole();
        let attn = &part.attn[0];
        let table = b.weight(&[Stored::new(Format::F32, spec.vocab, spec.dim, 1).matrix()]).unwrap();
        let texts = [(Role::Prompt, 70), (Role::Generated, 19), (Role::Prompt, 300), (Role::Generated, 1)];
        let rows = texts.iter().map(|t| t.1).sum();
        let mut cache = b.kv(&part, 32, 0, KvTypes { k: kv, v: kv }).unwrap();
        let mut step = b.step(&part, rows, 32).unwrap();
        let (mut qkv, mut out) = (b.act(rows, spec.dim).unwrap(), b.act(rows, attn.q_dim()).unwrap());
        let (mut batch, mut blocks) = (Batch::default(), (0..32).rev());
        for (role, n) in texts {
            let tokens: Vec<u32> = (0..n).map(|t| ((t * 7 + n) % spec.vocab) as u32).collect();
            let own: Vec<u32> = blocks.by_ref().take(n.div_ceil(32)).collect();
            batch.push(role, &tokens, 0, &own, true);
        }
        b.begin(&mut step, &[], &batch).unwrap();
        b.embed(&step, &table, 20.0, &mut qkv).unwrap();
        b.kv_write(&step, &mut cache, 0, attn, &qkv).unwrap();
        b.attend(&mut step, &cache, 0, attn, None, &qkv, &mut out).unwrap();
        let all = b.read(&mut step, &out).unwrap();
        let mut by_role = [Vec::new(), Vec::new()];
        for run in &batch.runs {
            let values = &all[run.rows.start * attn.q_dim()..run.rows.end * attn.q_dim()];
            by_role[run.role as usize].extend_from_slice(values);
        }
        by_role
    }
    let cuda = common::gpu();
    for (heads, head_dim, window, biased) in [
        (2, 64, None, false),
        (3, 80, Some(70), false),
        (2, 256, Some(33), false),
        (1, 128, Some(5), false),
        (2, 32, Some(1000), false),
        (3, 64, None, true),
        (2, 128, Some(40), true),
    ] {
        let mut spec = spec(61, (heads + 2) * head_dim, heads, head_dim, None);
        let attn = spec.layers[0].mixer.attn_mut().unwrap();
        (attn.window, attn.mask) = (window, Mask::Bidirectional);
        attn.alibi = slopes(heads).filter(|_| biased);
        for kv in [KvType::F32, KvType::F16] {
            let (got, truth) = (attend(&cuda, &spec, kv), attend(&Candle::cpu(), &spec, kv));
            for (role, bound) in [(Role::Prompt, 1e-4), (Role::Generated, 1e-10)] {
                let error = nmse(&got[role as usize], &truth[role as usize]);
                let name = format!(
                    "{heads} heads of {head_dim}, window {window:?}, biased: {biased}, {kv}, {role:?}"
                );
                println!("{name}: NMSE {error:.1e}");
                assert!(error < bound, "{name}: NMSE {error:.1e}");
            }
        }
    }
}

/// A product for each head, of formats of all kinds and of an odd width, and the way to it and back; rows of one role, and of both.
#[test]
fn products_of_heads() {
    const HEADS: usize = 3;
    fn multiply<B: Backend>(b: &B, format: Format, runs: &[(Role, usize)]) -> Vec<f32> {
        // A head has two columns that take no part.
        let (plain, turned, out_width) = if format == Format::F32 { (52, 2, 21) } else { (64, 2, 21) };
        let stride = plain + turned;
        let mut spec = spec(61, HEADS * stride, HEADS, 288, None);
        spec.layers[0].mixer.attn_mut().unwrap().latent = Some(LATENT);
        let part = spec.whole();
        let rows = runs.iter().map(|r| r.1).sum();
        let table = b.weight(&[Stored::new(Format::F32, spec.vocab, spec.dim, 1).matrix()]).unwrap();
        let weight = |h: u64| b.weight(&[Stored::new(format, out_width, plain, 2 + h).matrix()]).unwrap();
        let weights: Vec<_> = (0..HEADS as u64).map(weight).collect();
        let act = |rows, width| b.act(rows, width).unwrap();
        let (mut x, mut per_head) = (act(rows, spec.dim), act(HEADS * rows, plain));
        let (mut products, mut out) = (act(HEADS * rows, out_width), act(rows, spec.dim));
        let mut step = b.step(&part, rows, 8).unwrap();
        let (mut batch, mut blocks) = (Batch::default(), (0..8).rev());
        for (role, n) in runs {
            let tokens: Vec<u32> = (0..*n).map(|t| ((t * 7 + n) % spec.vocab) as u32).collect();
            let own: Vec<u32> = blocks.by_ref().take(n.div_ceil(32)).collect();
            batch.push(*role, &tokens, 0, &own, true);
        }
        b.begin(&mut step, &[], &batch).unwrap();
        b.embed(&step, &table, 2.0, &mut x).unwrap();
        b.embed(&step, &table, 1.0, &mut out).unwrap();
        let columns = |first| Heads::Columns { first, stride, width: spec.dim };
        b.rearrange(&step, &x, columns(turned), &mut per_head, Heads::Rows, HEADS, plain).unwrap();
        b.linear_heads(&step, &weights, &per_head, &mut products).unwrap();
        b.rearrange(&step, &products, Heads::Rows, &mut out, columns(0), HEADS, out_width).unwrap();
        b.rearrange(&step, &x, columns(0), &mut out, columns(plain), HEADS, turned).unwrap();
        b.read(&mut step, &out).unwrap().to_vec()
    }
    let cuda = common::gpu();
    let (prompt, generated) = (Role::Prompt, Role::Generated);
    let mixed = [(generated, 1), (prompt, 40), (generated, 2), (prompt, 33)];
    for format in [Format::F32, Format::F16, Format::Q8_0, Format::Q4_0] {
        for runs in [&[(generated, 5)][..], &[(prompt, 140)], &mixed] {
            let got = multiply(&cuda, format, runs);
            let error = nmse(&got, &multiply(&Candle::cpu(), format, runs));
            println!("{format}, {runs:?}: NMSE {error:.1e}");
            assert!(error < 1e-4, "{format}, {runs:?}: NMSE {error:.1e}");
        }
        let (mixed, alone) = (multiply(&cuda, format, &mixed), multiply(&cuda, format, &[(prompt, 40)]));
        let first = mixed.len() / 76;
        assert!(mixed[first..][..alone.len()] == alone, "{format}: beside others");
    }
}
