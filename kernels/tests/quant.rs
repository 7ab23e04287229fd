//! The stored formats against the `gguf` Python package. `tests/data/make.py` writes the data.

use std::collections::BTreeMap;

use kinfer_kernels::quant::{Format, TensorType, dequantize};

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
