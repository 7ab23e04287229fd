//! What a test computes and reads, from the model's shape.

use super::measure::{Case, Kind};
use kinfer::{KvTypes, LayerSpec, Mixer, Model, ModelSpec};

/// Weights as a model reads them.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Bytes that a generated token reads.
    pub token: u64,
    /// Those of the output head among them, which a prompt reads once.
    pub head: u64,
}

impl Weights {
    /// A model's. The head's bytes are those of the file, of which packed ones differ by up to 6 %.
    pub fn of(model: &Model) -> Weights {
        let head = ["output.weight", "token_embd.weight"].iter().find_map(|name| model.gguf().tensor(name));
        Weights { token: model.bytes_per_token(), head: head.map_or(0, |t| t.bytes() as u64) }
    }
}

/// Work of one run of a test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Operations of products with weights and of attention, two per multiply-add.
    pub operations: f64,
    /// Bytes of weights, keys and values, each counted once per step that reads it.
    pub bytes: f64,
}

impl Work {
    /// The work of `case` for a model of this shape, whose keys and values have the types `kv`.
    pub fn of(case: &Case, spec: &ModelSpec, weights: Weights, kv: KvTypes) -> Work {
        let products: usize = spec.layers.iter().map(|l| layer_weights(l, spec.dim)).sum();
        let (steps, heads, head_steps) = match case.kind {
            Kind::Prefill => (case.steps(), 1, 1),
            Kind::Decode => (case.steps(), case.all_tokens(), case.steps()),
        };
        let mut work = Work {
            operations: 2.0 * (products * case.all_tokens() + spec.vocab * spec.dim * heads) as f64,
            bytes: (weights.token.saturating_sub(weights.head) * steps as u64
                + weights.head * head_steps as u64) as f64,
        };
        // A step of several tokens reads once what any of them sees.
        let rows = if case.kind == Kind::Prefill { case.ubatch } else { 1 };
        // What convolutions add to their products is lost beside them: a few rows of a layer's width.
        for attn in spec.layers.iter().filter_map(|l| l.mixer.attn()) {
            let window = attn.window.unwrap_or(usize::MAX);
            let (mut seen, mut read) = (0, 0);
            for at in 0..case.tokens {
                let position = case.depth + at;
                seen += (position + 1).min(window);
                if (at + 1).is_multiple_of(rows) || at + 1 == case.tokens {
                    read += (position + 1).min(window.saturating_add(at % rows));
                }
            }
            let (seen, read) = ((seen * case.parallel) as f64, (read * case.parallel) as f64);
            work.operations += 4.0 * attn.q_dim() as f64 * seen;
            work.bytes += (attn.kv_heads * kv.row_bytes(attn.head_dim)) as f64 * read;
        }
        // A state is read and written once for each token of a sequence: multiplied with a key, changed, and multiplied with a query.
        for delta in spec.layers.iter().filter_map(|l| l.mixer.delta()) {
            let state = (delta.value_heads * delta.key_dim * delta.value_dim) as f64;
            work.operations += 7.0 * state * case.all_tokens() as f64;
            work.bytes += 2.0 * state * size_of::<f32>() as f64 * (case.steps() * case.parallel) as f64;
        }
        work
    }
}

/// Weights of a layer's products.
fn layer_weights(layer: &LayerSpec, dim: usize) -> usize {
    let LayerSpec { mixer, ffn, parallel: _, renormed: _ } = layer;
    let mixer = match mixer {
        Mixer::Attention(attn) => dim * (attn.qkv_dim() + attn.q_dim() * (1 + usize::from(attn.gated))),
        Mixer::Convolution(conv) => 4 * dim * conv.width,
        Mixer::DeltaNet(delta) => dim * (delta.projection_dim() + delta.all_values()),
    };
    let (experts, router) = ffn.experts.map_or((1, 0), |e| (e.routing.used, e.count * dim));
    mixer + experts * dim * (ffn.up_dim() + ffn.hidden) + router
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinfer::{Activation, AttnSpec, FfnSpec, KvType, Mask, NormKind, NormSpec};

    const NORM: NormSpec = NormSpec { kind: NormKind::Rms, eps: 1e-5 };

    /// Two layers, the first with a window of 4: 2 heads of 8 over one, so 16 query columns and 8 of keys.
    fn spec() -> ModelSpec {
        let layer = |window| LayerSpec {
            mixer: Mixer::Attention(AttnSpec {
                heads: 2,
                kv_heads: 1,
                head_dim: 8,
                scale: 1.0,
                mask: Mask::Causal,
                window,
                softcap: None,
                alibi: None,
                qk_norm: None,
                rope: None,
                norm: NORM,
                gated: false,
                latent: None,
            }),
            ffn: FfnSpec { hidden: 32, gated: true, act: Activation::Silu, norm: NORM, experts: None },
            parallel: false,
            renormed: false,
        };
        ModelSpec {
            arch: "test".into(),
            vocab: 100,
            dim: 16,
            context: 64,
            embed_scale: 1.0,
            norm: NORM,
            logit_softcap: None,
            ropes: Vec::new(),
            long: None,
            layers: vec![layer(Some(4)), layer(None)],
            pooling: None,
        }
    }

    const WEIGHTS: Weights = Weights { token: 1000, head: 300 };
    /// Of both layers: q, k, v of 16 x 32, the output of 16 x 16, three of 16 x 32.
    const PRODUCTS: f64 = 2.0 * (16 * 32 + 16 * 16 + 3 * 16 * 32) as f64;

    #[test]
    fn decode_reads_all_weights_and_what_each_sequence_sees() {
        let case = Case { kind: Kind::Decode, tokens: 2, depth: 5, parallel: 3, ubatch: 8 };
        let work = Work::of(&case, &spec(), WEIGHTS, KvType::F16.into());
        // Positions 5 and 6 see 6 and 7 keys, and 4 each in the window.
        let seen = 3.0 * (6 + 7 + 4 + 4) as f64;
        assert_eq!(work.operations, 6.0 * 2.0 * (PRODUCTS + 1600.0) + 4.0 * 16.0 * seen);
        assert_eq!(work.bytes, 2000.0 + 2.0 * 8.0 * 2.0 * seen);
        // 8 codes of 8 and of 4 bits, each with a scale.
        let kv = KvTypes { k: KvType::Q8_0, v: KvType::Q4_0 };
        let work = Work::of(&case, &spec(), WEIGHTS, kv);
        assert_eq!(work.bytes, 2000.0 + (8 + 2 + 4 + 2) as f64 * seen);
    }

    #[test]
    fn a_prompt_reads_the_head_once_and_keys_once_per_step() {
        let case = Case { kind: Kind::Prefill, tokens: 5, depth: 4, parallel: 1, ubatch: 3 };
        let work = Work::of(&case, &spec(), WEIGHTS, KvType::F32.into());
        let seen = (5 + 6 + 7 + 8 + 9 + 5 * 4) as f64;
        assert_eq!(work.operations, 5.0 * 2.0 * PRODUCTS + 2.0 * 1600.0 + 4.0 * 16.0 * seen);
        // Steps of 3 and 2 tokens: 7 and 9 keys; in the window 4 of the last token and one for each before it.
        let read = (7 + 9 + 6 + 5) as f64;
        assert_eq!(work.bytes, 2.0 * 700.0 + 300.0 + 2.0 * 8.0 * 4.0 * read);
    }
}
