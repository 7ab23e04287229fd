use super::*;
use kinfer_core::{
    Activation, AttnSpec, ExpertSpec, FfnSpec, LayerSpec, Mask, Mixer, NormKind, NormSpec, Routing, Scores,
};

/// A model of `layers` layers, of which those in `mixtures` have experts.
fn model(layers: usize, mixtures: std::ops::Range<usize>) -> ModelSpec {
    let norm = NormSpec { kind: NormKind::Rms, eps: 1e-5 };
    let routing = Routing { used: 2, scores: Scores::Softmax, renormalise: true, scale: 1.0, groups: None };
    let experts = ExpertSpec { count: 4, routing, shared: None };
    let layer = |i| LayerSpec {
        mixer: Mixer::Attention(AttnSpec {
            heads: 1,
            kv_heads: 1,
            head_dim: 32,
            scale: 1.0,
            window: None,
            softcap: None,
            alibi: None,
            qk_norm: None,
            rope: None,
            norm,
            gated: false,
            latent: None,
            mask: Mask::Causal,
        }),
        ffn: FfnSpec {
            hidden: 32,
            gated: true,
            act: Activation::Silu,
            norm,
            experts: mixtures.contains(&i).then_some(experts),
        },
        parallel: false,
        renormed: false,
    };
    ModelSpec {
        arch: "test".into(),
        vocab: 32,
        dim: 32,
        context: 64,
        embed_scale: 1.0,
        norm,
        logit_softcap: None,
        pooling: None,
        ropes: Vec::new(),
        long: None,
        layers: (0..layers).map(layer).collect(),
    }
}

fn last(n: usize) -> Offload {
    Offload { layers: GpuLayers::Last(n), ..Offload::default() }
}

/// Where an offload puts a model on GPUs of these shares; each block takes 1 GiB, and each GPU has so many.
fn placed(offload: &Offload, spec: &ModelSpec, gib: u64) -> Result<Placement> {
    let shares: Vec<f32> = offload.shares()?.into_iter().filter(|s| *s > 0.0).collect();
    offload.placement(spec, &shares, |placement, _| {
        let blocks = || placement.layers.iter().flatten().chain([&placement.embed, &placement.head]);
        let memory = |device: usize| DeviceMemory {
            device: format!("device {device}"),
            weights: (blocks().filter(|d| **d == device).count() as u64) << 30,
            kv: 0,
            scratch: 0,
            available: (device < shares.len()).then_some((gib << 30) + RESERVE),
        };
        Ok((0..=shares.len()).map(memory).collect())
    })
}

#[test]
fn the_last_layers_go_to_the_gpu_and_the_output_counts() {
    let spec = model(3, 0..0);
    let at = |n| {
        let Placement { embed, layers, head } = placed(&last(n), &spec, 0).unwrap();
        (embed, layers.iter().map(|l| l[0]).collect::<Vec<_>>(), head)
    };
    assert_eq!(at(0), (1, vec![1, 1, 1], 1));
    assert_eq!(at(1), (1, vec![1, 1, 1], 0));
    assert_eq!(at(2), (1, vec![1, 1, 0], 0));
    assert_eq!(at(4), (0, vec![0, 0, 0], 0));
    assert_eq!(at(99), at(4));
}

#[test]
fn experts_stay_where_they_are_told_to() {
    let spec = model(4, 1..4);
    let offload = Offload { cpu_experts: 2, ..last(99) };
    let layers = placed(&offload, &spec, 0).unwrap().layers;
    // The first layer has no experts.
    assert_eq!(layers, [[0, 0], [0, 1], [0, 0], [0, 0]]);
}

#[test]
fn layers_are_divided_by_shares() {
    let spec = model(7, 0..0);
    let of = |split: &[f32]| {
        let Placement { layers, head, .. } =
            placed(&Offload { split: split.to_vec(), ..last(99) }, &spec, 0).unwrap();
        layers.iter().map(|l| l[0]).chain([head]).collect::<Vec<_>>()
    };
    assert_eq!(of(&[1.0, 1.0]), [0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(of(&[3.0, 1.0]), [0, 0, 0, 0, 0, 0, 1, 1]);
    // A GPU without a share has no number.
    assert_eq!(of(&[0.0, 1.0]), [0; 8]);
    for wrong in [vec![0.0, 0.0], vec![-1.0, 2.0], vec![f32::NAN]] {
        let offload = Offload { split: wrong, ..last(99) };
        assert!(matches!(placed(&offload, &spec, 0), Err(Error::Usage(_))));
    }
}

#[test]
fn what_fits_is_found_experts_first() {
    let (dense, sparse) = (model(4, 0..0), model(4, 0..4));
    let fit = |spec: &ModelSpec, gib| placed(&Offload::default(), spec, gib).map(|p| p.layers);
    // Ten blocks with embedding and output.
    assert_eq!(fit(&dense, 10).unwrap(), [[0, 0]; 4]);
    assert_eq!(fit(&dense, 9).unwrap(), [[1, 1], [0, 0], [0, 0], [0, 0]]);
    assert_eq!(fit(&sparse, 8).unwrap(), [[0, 1], [0, 1], [0, 0], [0, 0]]);
    assert_eq!(fit(&sparse, 3).unwrap(), [[1, 1], [1, 1], [0, 1], [0, 1]]);
    let error = fit(&dense, 0).unwrap_err();
    assert!(matches!(&error, Error::Memory { what, .. } if what.contains("device 0")), "{error}");
}
