use super::*;
use std::fs;

/// A file of these f32 tensors, shapes innermost first.
fn file(tensors: &[(&str, &[u64], &[f32])]) -> Gguf {
    let mut writer = Writer::default();
    writer.set("general.architecture", "llama").set("general.type", "imatrix").set("llama.block_count", 1u32);
    for (name, shape, _) in tensors {
        writer.tensor(*name, shape, Format::F32.tensor_type()).unwrap();
    }
    let data = tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    let mut bytes = Vec::new();
    writer.write(&mut bytes, data).unwrap();
    Gguf::from_bytes(bytes).unwrap()
}

/// Uneven values from -1 to 1.
fn values(count: u32, seed: u32) -> Vec<f32> {
    (0..count)
        .map(|i| (i.wrapping_add(seed).wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn read(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut out = vec![0.0; tensor.elements() as usize];
    dequantize(tensor.format().unwrap(), tensor.data(), &mut out);
    out
}

/// Writes `source` and opens what was written.
fn written(source: &Gguf, recipe: &str, options: &Options) -> Result<Gguf> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let report = write(source, &Recipe::parse(recipe)?, options, &path, &mut |_, _| {});
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), usize::from(report.is_ok()), "no rest stays");
    report?;
    // Read, so that the folder may go.
    Ok(Gguf::from_bytes(fs::read(&path).unwrap())?)
}

fn importance(name: &str, sums: &[f32], count: f32) -> Result<Importance> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix.gguf");
    let (sums_name, counts) = (format!("{name}.in_sum2"), format!("{name}.counts"));
    let cols = sums.len() as u64;
    let mut writer = Writer::default();
    writer.set("general.type", "imatrix");
    writer.tensor(&sums_name, &[cols, 1], Format::F32.tensor_type()).unwrap();
    writer.tensor(&counts, &[1, 1], Format::F32.tensor_type()).unwrap();
    let bytes = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut out = Vec::new();
    writer.write(&mut out, [bytes(sums), bytes(&[count])]).unwrap();
    fs::write(&path, out).unwrap();
    Importance::open(&path)
}

#[test]
fn columns_that_count_more_lose_less() {
    const NAME: &str = "blk.0.ffn_up.weight";
    let x = values(32 * 8, 1);
    let source = file(&[(NAME, &[32, 8], &x), ("output.weight", &[32, 1], &x[..32])]);
    let sums: Vec<f32> = (0..32).map(|i| if i == 5 { 1000.0 } else { 1.0 }).collect();
    let error = |options: &Options| {
        let got = read(&written(&source, "q4_0", options).unwrap(), NAME);
        (0..8).map(|r| (got[32 * r + 5] - x[32 * r + 5]).powi(2)).sum::<f32>()
    };
    let weighted = Options { importance: Some(importance(NAME, &sums, 10.0).unwrap()), ..Options::default() };
    assert!(error(&weighted) < 0.2 * error(&Options::default()));

    for (name, sums, named) in [(NAME, &sums[..16], "32 columns"), ("blk.9.x.weight", &sums, "no tensor")] {
        let options =
            Options { importance: Some(importance(name, sums, 1.0).unwrap()), ..Options::default() };
        let error = written(&source, "q4_0", &options).unwrap_err();
        assert!(matches!(&error, Error::Usage(what) if what.contains(named)), "{error}");
    }
    assert!(matches!(importance(NAME, &[f32::NAN], 1.0), Err(Error::Usage(_))));
}

#[test]
fn experts_are_joined_in_their_order() {
    let (a, b) = (values(64, 1), values(64, 2));
    let source = file(&[
        ("blk.0.ffn_up.10.weight", &[32, 2], &b),
        ("blk.0.ffn_up.9.weight", &[32, 2], &a),
        ("blk.0.ffn_norm.weight", &[32], &a[..32]),
    ]);
    let gguf = written(&source, "f32", &Options::default()).unwrap();
    assert_eq!(gguf.tensor("blk.0.ffn_up_exps.weight").unwrap().shape(), [32, 2, 2]);
    assert_eq!(read(&gguf, "blk.0.ffn_up_exps.weight"), [a.clone(), b].concat());
    assert_eq!(read(&gguf, "blk.0.ffn_norm.weight"), a[..32]);
}

/// Scales of whole matrices stay beside what stays in NVFP4, and are multiplied into what gets another format.
#[test]
fn scales_of_matrices_are_multiplied_in() {
    const NAMES: [&str; 3] = ["blk.0.ffn_up.weight", "blk.0.ffn_gate_exps.weight", "blk.0.ffn_down.0.weight"];
    let nvfp4 = Format::NVFP4;
    let mut writer = Writer::default();
    writer.set("general.architecture", "llama").set("llama.block_count", 1u32);
    let shapes: [&[u64]; 3] = [&[64, 2], &[64, 2, 3], &[64, 2]];
    let scales: [&[f32]; 3] = [&[0.5], &[1e-4, 2.0, 3.0], &[-7.0]];
    let mut data = Vec::new();
    for ((name, shape), scales) in NAMES.iter().zip(shapes).zip(scales) {
        writer.tensor(*name, shape, nvfp4.tensor_type()).unwrap();
        let count = nvfp4.bytes_for(shape.iter().product::<u64>() as usize).unwrap();
        data.push((0..count).map(|i| (i * 37 % 127) as u8).collect::<Vec<u8>>());
        for (end, values) in [("scale", scales), ("input_scale", &scales[..1])] {
            let name = name.replace("weight", end);
            writer.tensor(name, &[values.len() as u64], Format::F32.tensor_type()).unwrap();
            data.push(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        }
    }
    let mut bytes = Vec::new();
    writer.write(&mut bytes, data).unwrap();
    let source = Gguf::from_bytes(bytes).unwrap();
    let floats = written(&source, "f32", &Options::default()).unwrap();
    let names: Vec<&str> = floats.tensors().map(|t| t.name()).collect();
    let joined = "blk.0.ffn_down_exps.weight";
    assert_eq!(names, [NAMES[0], NAMES[1], joined]);
    for ((name, scales), out) in NAMES.iter().zip(scales).zip([NAMES[0], NAMES[1], joined]) {
        let (stored, got) = (read(&source, name), read(&floats, out));
        for (i, (v, g)) in stored.iter().zip(&got).enumerate() {
            assert_eq!(v * scales.get(i / 128).unwrap_or(&scales[0]), *g, "{name} {i}");
        }
    }
}

#[test]
fn values_that_a_format_cannot_hold_are_named() {
    const NAME: &str = "blk.0.ffn_up.weight";
    for (value, recipe) in [(1e6, "f16"), (f32::NAN, "q8_0"), (f32::INFINITY, "bf16"), (-7e4, "q4_0")] {
        let mut x = values(64, 1);
        x[40] = value;
        let source = file(&[(NAME, &[32, 2], &x), ("output.weight", &[32, 1], &[0.0; 32])]);
        let error = written(&source, recipe, &Options::default()).unwrap_err().to_string();
        assert!(error.contains(NAME), "{recipe}: {error}");
    }
}

/// Rows stored in halves become pairs: the inverse of how they are taken when such a file is loaded.
#[test]
fn rows_are_ordered_for_the_file() {
    let order = RowOrder::AdjacentPairs { head_dim: 6, turned: 4 };
    for r in 0..12 {
        assert_eq!(source_row(order, order.stored_row(r)), r);
    }
}
