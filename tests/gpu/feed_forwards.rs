//! Feed-forwards, with and without experts.

use super::*;

/// Where all rows are generated ones a product ends with the activation, beside prompts it does not: that must not show.
#[test]
fn activated_products_have_the_bits_of_both_kernels() {
    struct Case {
        format: Format,
        act: Activation,
        gated: bool,
        biased: bool,
        /// Of the hidden rows, and of what reads them.
        hidden: usize,
        down: Format,
    }
    fn run<B: Backend>(b: &B, case: &Case, n: usize, beside: bool) -> Vec<f32> {
        let Case { format, act, gated, biased, hidden, down } = *case;
        let dim = if format.block_len() == 256 { 768 } else { 224 };
        let vector = |seed, n| {
            let mut random = Random::new(seed);
            let values: Vec<f32> = (0..n).map(|_| random.uniform() - 0.5).collect();
            biased.then(|| b.vector(&values).unwrap())
        };
        let table = b.weight(&[Stored::new(Format::F32, 60, dim, 1).matrix()]).unwrap();
        let up = [Stored::new(format, hidden, dim, 2), Stored::new(format, hidden, dim, 3)];
        let up: Vec<_> = up[usize::from(!gated)..].iter().map(Stored::matrix).collect();
        let weights = FfnWeights {
            norm: None,
            gate_up: b.weight(&up).unwrap(),
            gate_up_bias: vector(4, up.len() * hidden),
            down: b.weight(&[Stored::new(down, dim, hidden, 5).matrix()]).unwrap(),
            down_bias: vector(6, dim),
            post_norm: None,
        };
        let mut spec = spec(60, dim, 1, 64, None);
        spec.layers[0].ffn = FfnSpec { hidden, gated, act, norm: NORM, experts: None };
        let mut batch = batch(Role::Generated, n);
        if beside {
            batch.push(Role::Prompt, &[50, 51, 52], 0, &[2], true);
        }
        let rows = batch.rows();
        let mut step = b.step(&spec.whole(), rows, 4).unwrap();
        let mut s = scratch(b, rows, dim, 1, hidden);
        b.begin(&mut step, &[], &batch).unwrap();
        b.embed(&step, &table, 20.0, &mut s.x).unwrap();
        b.ffn(&mut step, &spec.layers[0].ffn, &weights, &mut s).unwrap();
        b.read(&mut step, &s.x).unwrap()[..n * dim].to_vec()
    }
    let case = |format, act, gated, biased, hidden, down| Case { format, act, gated, biased, hidden, down };
    let mut cases = Vec::new();
    for format in Format::all() {
        cases.push(case(format, Activation::Silu, true, false, 96, Format::Q8_0));
    }
    for act in [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::SwigluOai] {
        cases.push(case(Format::Q4_K, act, true, true, 160, Format::Q8_0));
        // Neither whole groups nor read by integers alone.
        cases.push(case(Format::Q8_0, act, false, true, 72, Format::F16));
        cases.push(case(Format::Q6_K, act, true, true, 40, Format::F32));
        cases.push(case(Format::Q4_0, act, false, false, 96, Format::Q5_0));
    }
    let cuda = common::gpu();
    for case in &cases {
        let Case { format, act, gated, biased, hidden, .. } = case;
        let name = format!("{format}, {act:?} of {hidden}, gated: {gated}, biased: {biased}");
        let alone = run(&cuda, case, 1, false);
        for n in [1, 5, 11, 40] {
            let got = run(&cuda, case, n, false);
            assert!(got == run(&cuda, case, n, true), "{name}: {n} rows beside a prompt");
            assert!(got[..alone.len()] == alone, "{name}: one of {n} rows");
        }
        let error = nmse(&alone, &run(&Candle::cpu(), case, 1, false));
        println!("{name}: NMSE {error:.1e}");
        assert!(error < 1e-3, "{name}: NMSE {error:.1e}");
    }
}

#[test]
fn experts_of_every_format() {
    fn mixed<B: Backend>(b: &B, format: Format, batch: &Batch) -> Vec<f32> {
        let rows = batch.rows();
        // Several rows are routed in the other way, by a bias and with biases of the experts.
        let biased = rows > 1;
        let prompt = batch.runs[0].role == Role::Prompt;
        let routing = match biased {
            false => {
                Routing { used: 2, scores: Scores::Softmax, renormalise: true, scale: 1.0, groups: None }
            }
            true => {
                Routing { used: 2, scores: Scores::Sigmoid, renormalise: false, scale: 1.5, groups: None }
            }
        };
        let experts = ExpertSpec { count: 5, routing, shared: None };
        let vector = |n: usize| {
            let values: Vec<f32> = (0..n).map(|i| (i * 7 % 11) as f32 / 11.0 - 0.4).collect();
            biased.then(|| b.vector(&values).unwrap())
        };
        let spec = spec(300, 256, 1, 64, Some(experts));
        let ffn = &spec.layers[0].ffn;
        let table = b.weight(&[Stored::new(Format::F32, 300, 256, 1).matrix()]).unwrap();
        let router = b.weight(&[Stored::new(Format::F32, 5, 256, 2).matrix()]).unwrap();
        let expert = |i: u64| {
            // Products of generated rows with gate and up of one format end with the activation.
            let second = if prompt { Format::Q8_0 } else { format };
            let up = [Stored::new(format, 256, 256, 10 + i), Stored::new(second, 256, 256, 20 + i)];
            let down = Stored::new(format, 256, 256, 30 + i);
            [b.weight(&[up[0].matrix(), up[1].matrix()]).unwrap(), b.weight(&[down.matrix()]).unwrap()]
        };
        let weights = ExpertWeights {
            products: (0..5).map(expert).collect(),
            gate_up_bias: vector(5 * 512),
            down_bias: vector(5 * 256),
        };
        let mut step = b.step(&spec.whole(), rows, 16).unwrap();
        let act = |width| b.act(rows, width).unwrap();
        let (mut x, mut logits, mut out) = (act(256), act(5), act(256));
        b.begin(&mut step, &[], batch).unwrap();
        b.embed(&step, &table, 3.0, &mut x).unwrap();
        b.linear(&step, &router, &x, &mut logits).unwrap();
        b.route(&mut step, experts, vector(5).as_ref(), &logits).unwrap();
        b.experts(&mut step, ffn, &weights, &x, &mut out).unwrap();
        b.read(&mut step, &out).unwrap().to_vec()
    }
    let cuda = common::gpu();
    let check = |format, what: &str, batch: &Batch| {
        let error = nmse(&mixed(&cuda, format, batch), &mixed(&Candle::cpu(), format, batch));
        println!("{format}: {what}: NMSE {error:.1e}");
        assert!(error < 1e-3, "{format}: {what}: NMSE {error:.1e}");
    };
    for format in Format::all() {
        check(format, "a generated row", &batch(Role::Generated, 1));
        check(format, "7 rows of a prompt", &batch(Role::Prompt, 7));
    }
    // More than a tile of an expert, and prompts on both sides of generated rows.
    let mut several = batch(Role::Prompt, 180);
    for (role, tokens) in [(Role::Generated, 200), (Role::Generated, 201), (Role::Prompt, 202)] {
        let tokens: Vec<u32> = (tokens..tokens + if role == Role::Prompt { 70 } else { 1 }).collect();
        several.push(role, &tokens, 0, &[6, 7, 8], true);
    }
    for format in [Format::Q4_K, Format::Q8_0, Format::BF16, Format::F32] {
        check(format, "several prompts and generated rows", &several);
        check(format, "5 generated rows", &batch(Role::Generated, 5));
    }
}

/// The experts of the best groups, by the sums of their best ones; of few and of as many as there may be.
#[test]
fn experts_in_groups() {
    fn mixed<B: Backend>(b: &B, experts: ExpertSpec, biased: bool) -> Vec<f32> {
        const ROWS: usize = 9;
        let mut spec = spec(60, 64, 1, 64, Some(experts));
        spec.layers[0].ffn.hidden = 32;
        let stored =
            |rows, cols, seed| b.weight(&[Stored::new(Format::F32, rows, cols, seed).matrix()]).unwrap();
        let mut random = Random::new(3);
        let bias: Vec<f32> = (0..experts.count).map(|_| random.uniform() - 0.5).collect();
        let bias = biased.then(|| b.vector(&bias).unwrap());
        let expert = |i: usize| [stored(64, 64, 10 + i as u64), stored(64, 32, 500 + i as u64)];
        let weights = ExpertWeights {
            products: (0..experts.count).map(expert).collect(),
            gate_up_bias: None,
            down_bias: None,
        };
        let (table, router) = (stored(60, 64, 1), stored(experts.count, 64, 2));
        let mut step = b.step(&spec.whole(), ROWS, 1).unwrap();
        let act = |width| b.act(ROWS, width).unwrap();
        let (mut x, mut logits, mut out) = (act(64), act(experts.count), act(64));
        b.begin(&mut step, &[], &batch(Role::Prompt, ROWS)).unwrap();
        b.embed(&step, &table, 3.0, &mut x).unwrap();
        b.linear(&step, &router, &x, &mut logits).unwrap();
        b.route(&mut step, experts, bias.as_ref(), &logits).unwrap();
        b.experts(&mut step, &spec.layers[0].ffn, &weights, &x, &mut out).unwrap();
        b.read(&mut step, &out).unwrap().to_vec()
    }
    let cuda = common::gpu();
    for (count, used, groups) in [
        (24, 3, ExpertGroups { count: 4, used: 2, judged_by: 2 }),
        (160, 6, ExpertGroups { count: 8, used: 3, judged_by: 1 }),
        (256, 8, ExpertGroups { count: 8, used: 4, judged_by: 2 }),
        (80, 2, ExpertGroups { count: 40, used: 1, judged_by: 2 }),
    ] {
        for scores in [Scores::Softmax, Scores::Sigmoid] {
            let routing = Routing { used, scores, renormalise: false, scale: 2.0, groups: Some(groups) };
            let experts = ExpertSpec { count, routing, shared: None };
            let biased = scores == Scores::Sigmoid;
            let truth = mixed(&Candle::cpu(), experts, biased);
            let error = nmse(&mixed(&cuda, experts, biased), &truth);
            println!("{used} of {count} in {groups:?}, {scores:?}: NMSE {error:.1e}");
            assert!(error < 1e-6, "{used} of {count} in {groups:?}, {scores:?}: NMSE {error:.1e}");
            // That there are groups matters.
            let routing = Routing { groups: None, ..routing };
            assert!(nmse(&mixed(&cuda, ExpertSpec { routing, ..experts }, biased), &truth) > 1e-3);
        }
    }
}
