use super::*;
use crate::Error;

/// Log-probabilities as logits, so that cases read as distributions.
fn ln(p: &[f32]) -> Vec<f32> {
    p.iter().map(|p| p.ln()).collect()
}

fn gathered(p: &[f32], k: usize) -> Candidates {
    let mut c = Candidates::default();
    top_k::gather(&ln(p), k, &mut c);
    c
}

/// The kept tokens by id and their probabilities.
fn kept(c: &Candidates) -> Vec<(u32, f32)> {
    let max = c.max();
    let total: f32 = c.items.iter().map(|c| (c.logit - max).exp()).sum();
    let mut out: Vec<_> = c.items.iter().map(|i| (i.id, (i.logit - max).exp() / total)).collect();
    out.sort_by_key(|c| c.0);
    out
}

fn assert_kept(c: &Candidates, expected: &[(u32, f32)]) {
    let got = kept(c);
    let same = got.len() == expected.len()
        && got.iter().zip(expected).all(|(g, e)| g.0 == e.0 && (g.1 - e.1).abs() < 1e-6);
    assert!(same, "got {got:?}, expected {expected:?}");
}

// Expected values worked out by hand from the definitions.
const P: [f32; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

#[test]
fn top_k_keeps_the_likeliest() {
    assert_kept(&gathered(&P, 2), &[(1, 0.4 / 0.65), (3, 0.25 / 0.65)]);
    assert_kept(&gathered(&P, 1), &[(1, 1.0)]);
    for all in [0, 5, 9] {
        assert_eq!(gathered(&P, all).items.len(), 5);
    }
    // Equal logits: the lower ids.
    let ids: Vec<u32> = kept(&gathered(&[0.2; 5], 3)).iter().map(|c| c.0).collect();
    assert_eq!(ids, [0, 1, 2]);
}

#[test]
fn top_k_equals_a_full_sort() {
    let mut rng = Rng::new(1);
    for n in [1usize, 7, 64, 1000] {
        // Rounded, so that many are equal.
        let logits: Vec<f32> = (0..n).map(|_| (rng.unit() * 50.0).round() as f32).collect();
        let mut sorted: Vec<Candidate> =
            logits.iter().enumerate().map(|(id, &logit)| Candidate { id: id as u32, logit }).collect();
        sorted.sort_by(Candidate::rank);
        for k in [1usize, 2, 5, 40, 999] {
            let mut c = Candidates::default();
            top_k::gather(&logits, k, &mut c);
            c.sort(k);
            assert_eq!(c.items, sorted[..k.min(n)], "n {n} k {k}");
        }
    }
}

#[test]
fn top_p_keeps_the_nucleus() {
    // Sorted: 0.4, 0.25, 0.2, 0.1, 0.05; sums 0.4, 0.65, 0.85, 0.95, 1.
    for (p, n) in [(0.01, 1), (0.39, 1), (0.41, 2), (0.64, 2), (0.7, 3), (0.9, 4), (0.96, 5), (1.0, 5)] {
        let mut c = gathered(&P, 0);
        top_p::apply(&mut c, p);
        assert_eq!(c.items.len(), n, "p {p}");
    }
    let mut c = gathered(&P, 0);
    top_p::apply(&mut c, 0.8);
    assert_kept(&c, &[(1, 0.4 / 0.85), (3, 0.25 / 0.85), (4, 0.2 / 0.85)]);
}

#[test]
fn top_p_reaches_past_its_first_sorted_part() {
    // 3000 equal tokens: half of the probability is 1500 tokens, the lower ids.
    let mut c = Candidates::default();
    top_k::gather(&vec![0.5; 3000], 0, &mut c);
    top_p::apply(&mut c, 0.5);
    let mut ids: Vec<u32> = c.items.iter().map(|c| c.id).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..1500));
}

#[test]
fn min_p_keeps_a_fraction_of_the_likeliest() {
    for k in [0, 5] {
        let mut c = gathered(&P, k);
        min_p::apply(&mut c, 0.45);
        assert_kept(&c, &[(1, 0.4 / 0.85), (3, 0.25 / 0.85), (4, 0.2 / 0.85)]);
        min_p::apply(&mut c, 0.0);
        assert_eq!(c.items.len(), 3);
        min_p::apply(&mut c, 1.0);
        assert_kept(&c, &[(1, 1.0)]);
    }
}

#[test]
fn temperature_is_a_power_of_the_probabilities() {
    let mut c = gathered(&[0.2, 0.8], 0);
    temperature::apply(&mut c, 0.5);
    assert_kept(&c, &[(0, 0.04 / 0.68), (1, 0.64 / 0.68)]);
    let mut c = gathered(&[0.2, 0.8], 0);
    temperature::apply(&mut c, f32::MIN_POSITIVE);
    assert_kept(&c, &[(0, 0.0), (1, 1.0)]);
}

#[test]
fn penalties_by_their_definition() {
    let s = Sampling {
        repeat_penalty: 2.0,
        frequency_penalty: 0.25,
        presence_penalty: 0.5,
        repeat_last_n: Some(4),
        ..Sampling::default()
    };
    let mut logits = vec![1.0, -1.0, 4.0, 0.0, 3.0];
    // The window is 1, 2, 2, 3: token 0 has left it.
    penalties::apply(&mut logits, &s, &[0, 1, 2, 2, 3], &mut Vec::new());
    assert_eq!(logits, [1.0, -2.75, 1.0, -0.75, 3.0]);
    // None: the whole history; 0: nothing.
    let mut logits = vec![1.0; 5];
    penalties::apply(&mut logits, &Sampling { repeat_last_n: None, ..s.clone() }, &[0; 9], &mut Vec::new());
    assert_eq!(logits, [0.5 - 2.25 - 0.5, 1.0, 1.0, 1.0, 1.0]);
    penalties::apply(&mut logits, &Sampling { repeat_last_n: Some(0), ..s }, &[1; 9], &mut Vec::new());
    assert_eq!(logits[1], 1.0);
}

#[test]
fn the_draw_follows_the_distribution() {
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
    let (mut sampler, mut rng) = (Sampler::new(5), Rng::new(42));
    let mut counts = [0f32; 5];
    let n = 50_000;
    for _ in 0..n {
        counts[sampler.draw(&ln(&P), &sampling, &[], &[], rng.unit()).unwrap() as usize] += 1.0;
    }
    for (i, p) in P.iter().enumerate() {
        let deviation = (p * (1.0 - p) / n as f32).sqrt();
        assert!((counts[i] / n as f32 - p).abs() < 5.0 * deviation, "{i}: {counts:?}");
    }
}

#[test]
fn the_chain_cuts_in_its_documented_order() {
    // Top-k 3 leaves 0.4, 0.25, 0.2 of 0.85; top-p 0.7 of that needs 0.595: two tokens. The other order would keep
    // three. Temperature comes last: at 100 the two are nearly even, and no third one appears.
    let sampling = Sampling { temperature: 100.0, top_k: 3, top_p: 0.7, min_p: 0.0, ..Sampling::default() };
    let (mut sampler, mut rng) = (Sampler::new(5), Rng::new(3));
    let mut counts = [0; 5];
    for _ in 0..2000 {
        counts[sampler.draw(&ln(&P), &sampling, &[], &[], rng.unit()).unwrap() as usize] += 1;
    }
    assert_eq!((counts[0], counts[2], counts[4]), (0, 0, 0));
    assert!(counts[1] > 850 && counts[3] > 850, "{counts:?}");
}

#[test]
fn greedy_bias_and_bans() {
    let mut sampler = Sampler::new(5);
    let mut draw = |s: &Sampling, banned: &[u32]| sampler.draw(&ln(&P), s, &[1, 1], banned, 0.5);
    let greedy = Sampling::greedy();
    assert_eq!(draw(&greedy, &[]), Ok(1));
    assert_eq!(draw(&greedy, &[1]), Ok(3));
    let biased = Sampling { logit_bias: vec![(2, 9.0)], ..greedy.clone() };
    assert_eq!(draw(&biased, &[]), Ok(2));
    let last_counts = Sampling { logit_bias: vec![(2, 9.0), (2, 0.0)], ..greedy.clone() };
    assert_eq!(draw(&last_counts, &[]), Ok(1));
    let minus = Sampling { logit_bias: vec![(1, f32::NEG_INFINITY)], ..greedy.clone() };
    assert_eq!(draw(&minus, &[]), Ok(3));
    assert_eq!(draw(&Sampling { presence_penalty: 2.0, ..greedy.clone() }, &[]), Ok(3));
    assert_eq!(sampler.draw(&[1.0, 2.0, 2.0], &greedy, &[], &[], 0.5), Ok(1));
}

#[test]
fn bad_logits_are_errors() {
    let mut sampler = Sampler::new(4);
    for s in [Sampling::default(), Sampling::greedy()] {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(sampler.draw(&[0.0, bad, 1.0], &s, &[], &[], 0.5).is_err());
        }
        assert!(sampler.draw(&[f32::NEG_INFINITY; 3], &s, &[], &[], 0.5).is_err());
        assert_eq!(sampler.draw(&[f32::NEG_INFINITY, 0.0], &s, &[], &[], 0.5), Ok(1));
    }
    assert!(logprobs(&[0.0, f32::NAN], None, 1, &mut Candidates::default()).is_err());
}

#[test]
fn logprobs_are_of_the_whole_vocabulary() {
    let got = logprobs(&ln(&P), Some(4), 3, &mut Candidates::default()).unwrap();
    assert!((got.logprob.unwrap() - 0.2f32.ln()).abs() < 1e-6);
    let top: Vec<u32> = got.top.iter().map(|l| l.id).collect();
    assert_eq!(top, [1, 3, 4]);
    assert!((got.top[0].logprob - 0.4f32.ln()).abs() < 1e-6);
    // Large logits do not overflow, and all of the vocabulary can be asked for.
    let got = logprobs(&[1000.0, 1000.0], None, 2, &mut Candidates::default()).unwrap();
    assert_eq!(got.logprob, None);
    assert!(got.top.iter().all(|l| (l.logprob - 0.5f32.ln()).abs() < 1e-6));
}

#[test]
fn parameters_out_of_range_are_typed_errors() {
    let d = Sampling::default;
    let bad = [
        ("temperature", Sampling { temperature: -0.1, ..d() }),
        ("temperature", Sampling { temperature: f32::NAN, ..d() }),
        ("temperature", Sampling { temperature: f32::INFINITY, ..d() }),
        ("top_p", Sampling { top_p: 0.0, ..d() }),
        ("top_p", Sampling { top_p: 1.1, ..d() }),
        ("top_p", Sampling { top_p: f32::NAN, ..d() }),
        ("min_p", Sampling { min_p: -0.1, ..d() }),
        ("min_p", Sampling { min_p: 1.5, ..d() }),
        ("repeat_penalty", Sampling { repeat_penalty: 0.0, ..d() }),
        ("presence_penalty", Sampling { presence_penalty: f32::NAN, ..d() }),
        ("frequency_penalty", Sampling { frequency_penalty: f32::INFINITY, ..d() }),
        ("logit_bias", Sampling { logit_bias: vec![(0, f32::INFINITY)], ..d() }),
        ("logit_bias", Sampling { logit_bias: vec![(0, f32::NAN)], ..d() }),
    ];
    for (expected, s) in bad {
        match s.check() {
            Err(Error::Param { name, .. }) => assert_eq!(name, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let edge = Sampling { temperature: 0.0, top_p: 1.0, min_p: 1.0, top_k: 0, ..d() };
    edge.check().unwrap();
    let ban = Sampling { logit_bias: vec![(0, f32::NEG_INFINITY)], ..d() };
    ban.check().unwrap();
}

#[test]
fn overrides_change_what_they_set() {
    let file = SamplingOverrides { temperature: Some(0.6), top_k: Some(20), ..Default::default() };
    let user = SamplingOverrides { top_k: Some(5), repeat_last_n: Some(-1), ..Default::default() };
    let s = Sampling::default().with(&file).with(&user);
    assert_eq!((s.temperature, s.top_k, s.top_p, s.repeat_last_n), (0.6, 5, 0.95, None));
    assert_eq!(user.or(&file).top_k, Some(5));
    assert_eq!(user.or(&file).temperature, Some(0.6));
    let set: Vec<_> = file.fields().into_iter().filter(|f| f.1.is_some()).map(|f| f.0).collect();
    assert_eq!(set, ["temperature", "top_k"]);
}
