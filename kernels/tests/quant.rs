//! The stored formats against the `gguf` Python package. `tests/data/make.py` writes the data.

use std::collections::BTreeMap;

use kinfer_kernels::quant::{Format, TensorType, dequantize, encode};

fn data(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}; run tests/data/make.py"))
}

#[test]
fn dequantisation_is_bit_equal() {
    for format in Format::all() {
        let file = data(&format!("{}.bin", format.name().to_lowercase()));
        let per_block = format.block_bytes() + 4 * format.block_len();
        assert_eq!(file.len() % per_block, 0, "{format}: size of the golden file");
        let blocks = file.len() / per_block;
        assert!(blocks >= 12, "{format}: {blocks} blocks");
        let (raw, golden) = file.split_at(blocks * format.block_bytes());
        let mut got = vec![0.0; blocks * format.block_len()];
        dequantize(format, raw, &mut got);

        let mut decoded = Default::default();
        for (i, (got, want)) in got.iter().zip(golden.as_chunks::<4>().0).enumerate() {
            let want = f32::from_le_bytes(*want);
            // The sign and payload of a NaN (0 * inf here) are the machine's choice.
            let same = |x: f32| x.to_bits() == want.to_bits() || x.is_nan() && want.is_nan();
            assert!(same(*got), "{format} element {i}: got {got:e}, expected {want:e}");
            if let Some(quant) = format.quant() {
                let (block, i) = (i / format.block_len(), i % format.block_len());
                quant.unpack(&raw[block * format.block_bytes()..][..format.block_bytes()], &mut decoded);
                let value = decoded.value(quant.group_len, i);
                assert!(same(value), "{format} block {block} element {i}: got {value:e}, expected {want:e}");
            }
        }
    }
}

#[test]
fn the_type_table_agrees_with_the_package() {
    let text = String::from_utf8(data("types.tsv")).unwrap();
    let mut ours: BTreeMap<u32, TensorType> = TensorType::all().map(|ty| (ty.id(), ty)).collect();
    assert_eq!(ours.len(), TensorType::all().count(), "ids are unique");
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let ty =
            ours.remove(&fields[0].parse().unwrap()).unwrap_or_else(|| panic!("{line}: not in the table"));
        assert_eq!(ty.name(), fields[1]);
        assert_eq!(ty.block_len().to_string(), fields[2], "{line}");
        // The package counts Q8_1's two halves as floats; ggml stores 2 + 2 + 32 bytes.
        let bytes = if ty.name() == "Q8_1" { "40" } else { &ty.block_bytes().to_string() };
        assert_eq!(bytes, fields[3], "{line}");
    }
    // Removed from ggml, or newer than the package.
    let rest: Vec<u32> = ours.into_keys().collect();
    assert_eq!(rest, [4, 5, 31, 32, 33, 36, 37, 38, 42]);
}

/// Bell-shaped values, as weights are.
fn bell(count: usize) -> Vec<f32> {
    let mut seed = 7u64;
    let mut unit = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..6).map(|_| unit()).sum::<f32>() * 0.05).collect()
}

fn encoded(format: Format, values: &[f32], weights: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; format.bytes_for(values.len()).unwrap()];
    encode(format, values, weights, &mut out);
    out
}

/// The weighted mean square error of what is stored, relative to the values' own mean square.
fn loss(format: Format, values: &[f32], stored: &[u8], weights: &[f32]) -> f64 {
    let mut got = vec![0.0; values.len()];
    dequantize(format, stored, &mut got);
    let sum =
        |term: &dyn Fn(usize) -> f32| (0..values.len()).map(|i| f64::from(term(i) * weights[i])).sum::<f64>();
    sum(&|i| (values[i] - got[i]).powi(2)) / sum(&|i| values[i].powi(2))
}

#[test]
fn encoding_loses_what_its_bits_cannot_hold() {
    // A little above what was measured: a search that misses its optimum is seen.
    let most = [
        (Format::F16, 1e-7),
        (Format::BF16, 3e-6),
        (Format::Q4_0, 4.4e-3),
        (Format::Q4_1, 3.4e-3),
        (Format::Q5_0, 1.07e-3),
        (Format::Q5_1, 7.9e-4),
        (Format::Q8_0, 1.65e-5),
        (Format::Q2_K, 5.05e-2),
        (Format::Q3_K, 1.46e-2),
        (Format::Q4_K, 3.45e-3),
        (Format::Q5_K, 8.4e-4),
        (Format::Q6_K, 1.93e-4),
        (Format::IQ4_NL, 4.15e-3),
        (Format::IQ4_XS, 4.2e-3),
        (Format::MXFP4, 1.21e-2),
    ];
    let values = bell(64 * 256);
    for (format, most) in most {
        assert!(format.can_encode(), "{format}");
        // As the encoder weighs them: it is to find the least of that.
        let len = format.block_len().max(32);
        let weigh = |x: &[f32]| -> Vec<f32> {
            let mean = x.iter().map(|x| x * x).sum::<f32>() / len as f32;
            x.iter().map(|x| (x * x + mean).sqrt()).collect()
        };
        let weights: Vec<f32> = values.chunks_exact(len).flat_map(weigh).collect();
        let loss = loss(format, &values, &encoded(format, &values, None), &weights);
        println!("{format}: {loss:.3e}");
        assert!(loss <= most, "{format}: {loss:e}");
    }
    assert!(!Format::IQ2_XS.can_encode() && !Format::TQ1_0.can_encode());
}

/// What is stored decodes to itself: the layouts are the decoders' inverses.
#[test]
fn stored_values_are_stored_again_without_loss() {
    for format in Format::all().filter(|f| f.can_encode() && *f != Format::F32) {
        let file = data(&format!("{}.bin", format.name().to_lowercase()));
        let blocks = file.len() / (format.block_bytes() + 4 * format.block_len());
        for raw in file[..blocks * format.block_bytes()].chunks_exact(format.block_bytes()) {
            let mut values = vec![0.0; format.block_len()];
            dequantize(format, raw, &mut values);
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            // Golden blocks have all kinds of scales; also some that no encoder would make.
            if !values.iter().all(|v| v.is_finite()) || !(1e-4..6e4).contains(&largest) {
                continue;
            }
            let even = vec![1.0; values.len()];
            let loss = loss(format, &values, &encoded(format, &values, None), &even);
            // Of two levels, the best fit of a group by itself is not always one that the block can express.
            let most = if format.block_len() == 256 { 3e-2 } else { 2e-4 };
            assert!(loss <= most, "{format}: {loss:e}");
        }
    }
}

#[test]
fn weights_decide_what_is_lost() {
    let values = bell(16 * 256);
    let weights: Vec<f32> = (0..values.len()).map(|i| if i % 8 == 0 { 50.0 } else { 0.1 }).collect();
    for format in Format::all().filter(|f| f.can_encode() && f.quant().is_some()) {
        let plain = loss(format, &values, &encoded(format, &values, None), &weights);
        let weighted = loss(format, &values, &encoded(format, &values, Some(&weights)), &weights);
        assert!(weighted < plain, "{format}: {weighted:e}, without weights {plain:e}");
    }
}

#[test]
fn odd_values_are_encoded() {
    for format in Format::all().filter(|f| f.can_encode()) {
        let len = 256;
        let mut lone = vec![0.0; len];
        lone[77] = -3.5;
        let tiny = vec![1e-30f32; len];
        let large: Vec<f32> = (0..len).map(|i| if i % 2 == 0 { 65000.0 } else { -65000.0 }).collect();
        for (what, values) in
            [("zeros", vec![0.0; len]), ("one value", lone), ("tiny", tiny), ("large", large)]
        {
            let stored = encoded(format, &values, Some(&vec![0.0; len]));
            let mut got = vec![0.0; len];
            dequantize(format, &stored, &mut got);
            let largest = values.iter().fold(1e-25, |m: f32, v| m.max(v.abs()));
            for (a, b) in values.iter().zip(&got) {
                assert!((a - b).abs() <= largest * 0.15, "{format}, {what}: {a} became {b}");
            }
        }
    }
}
