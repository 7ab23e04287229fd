//! Reading and writing GGUF: round trips, split models, typed access, the real test models.

use std::path::{Path, PathBuf};

use kinfer_kernels::quant::{Format, TensorType};
use kinfer_load::gguf::write::Writer;
use kinfer_load::gguf::{Array, Gguf, Problem, Value, ValueType};
use sha2::{Digest, Sha256};

fn f32() -> TensorType {
    Format::F32.tensor_type()
}

fn bytes_of(writer: &Writer, data: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    writer.write(&mut out, data).unwrap();
    out
}

fn with(key: &str, value: impl Into<Value>) -> Gguf {
    let mut writer = Writer::default();
    writer.set(key, value);
    Gguf::from_bytes(bytes_of(&writer, &[])).unwrap()
}

#[test]
fn every_value_type_round_trips() {
    let mut writer = Writer::default();
    writer.set("u8", 250u8).set("i8", -3i8).set("u16", 65000u16).set("i16", -30000i16);
    writer.set("u32", u32::MAX).set("i32", i32::MIN).set("u64", u64::MAX).set("i64", i64::MIN);
    writer.set("f32", 0.1f32).set("f64", 0.1f64).set("bool", true).set("str", "모델\u{0}é");
    writer
        .set("numbers", &[1u32, 2, 3][..])
        .set("floats", &[0.5f32, -1.0][..])
        .set("bools", &[true, false][..]);
    writer.set("texts", &["", "가", "ab"][..]).set("none", &[][..] as &[i64]);
    let gguf = Gguf::from_bytes(bytes_of(&writer, &[])).unwrap();
    let meta = gguf.metadata();
    assert_eq!(meta.get::<u8>("u8").unwrap(), 250);
    assert_eq!(meta.get::<i8>("i8").unwrap(), -3);
    assert_eq!(meta.get::<u16>("u16").unwrap(), 65000);
    assert_eq!(meta.get::<i16>("i16").unwrap(), -30000);
    assert_eq!(meta.get::<u32>("u32").unwrap(), u32::MAX);
    assert_eq!(meta.get::<i32>("i32").unwrap(), i32::MIN);
    assert_eq!(meta.get::<u64>("u64").unwrap(), u64::MAX);
    assert_eq!(meta.get::<i64>("i64").unwrap(), i64::MIN);
    assert_eq!(meta.get::<f32>("f32").unwrap(), 0.1);
    assert_eq!(meta.get::<f64>("f64").unwrap(), 0.1);
    assert!(meta.get::<bool>("bool").unwrap());
    assert_eq!(meta.get::<&str>("str").unwrap(), "모델\u{0}é");
    assert_eq!(meta.get::<Vec<u32>>("numbers").unwrap(), [1, 2, 3]);
    assert_eq!(meta.get::<Vec<usize>>("numbers").unwrap(), [1, 2, 3]);
    assert_eq!(meta.get::<Vec<f32>>("floats").unwrap(), [0.5, -1.0]);
    assert_eq!(meta.get::<Vec<bool>>("bools").unwrap(), [true, false]);
    assert_eq!(meta.get::<Vec<&str>>("texts").unwrap(), ["", "가", "ab"]);
    assert_eq!(meta.get::<Vec<&[u8]>>("texts").unwrap(), ["".as_bytes(), "가".as_bytes(), b"ab"]);
    assert_eq!(meta.get::<Vec<&str>>("none").unwrap(), [""; 0]);
    let texts: &Array = meta.get("texts").unwrap();
    assert_eq!((texts.len(), texts.element_type()), (3, ValueType::String));
    let shown: Vec<String> = texts.iter().map(|v| v.unwrap().to_string()).collect();
    assert_eq!(shown, ["", "가", "ab"]);
    assert_eq!(meta.get::<&Value>("texts").unwrap().to_string(), "[3 x string]");

    // Copying the entries into a new file gives the same bytes.
    let mut copy = Writer::default();
    for (key, value) in meta.iter() {
        copy.set(key, value.clone());
    }
    assert_eq!(bytes_of(&copy, &[]), bytes_of(&writer, &[]));
}

#[test]
fn numbers_convert_only_exactly() {
    assert_eq!(with("k", 7u64).metadata().get::<i8>("k").unwrap(), 7);
    assert_eq!(with("k", 7i32).metadata().get::<usize>("k").unwrap(), 7);
    assert_eq!(with("k", 0.5f64).metadata().get::<f32>("k").unwrap(), 0.5);
    assert_eq!(with("k", 10000u32).metadata().get::<f32>("k").unwrap(), 10000.0);
    assert_eq!(with("k", 7u64).metadata().opt::<u32>("absent").unwrap(), None);

    let got = |value: Value, read: &dyn Fn(&Gguf) -> Problem| match read(&with("k", value)) {
        Problem::WrongType { key, expected, got } => {
            assert_eq!(key, "k");
            format!("{expected} <- {got}")
        }
        other => panic!("{other:?}"),
    };
    let u32_of = |gguf: &Gguf| gguf.metadata().get::<u32>("k").unwrap_err().problem;
    let f32_of = |gguf: &Gguf| gguf.metadata().opt::<f32>("k").unwrap_err().problem;
    let vec_of = |gguf: &Gguf| gguf.metadata().get::<Vec<u32>>("k").unwrap_err().problem;
    let str_of = |gguf: &Gguf| gguf.metadata().get::<&str>("k").unwrap_err().problem;
    let bool_of = |gguf: &Gguf| gguf.metadata().get::<bool>("k").unwrap_err().problem;
    assert_eq!(got((-1i32).into(), &u32_of), "u32 <- i32 -1");
    assert_eq!(got((1u64 << 40).into(), &u32_of), "u32 <- u64 1099511627776");
    assert_eq!(got(1.0f32.into(), &u32_of), "u32 <- f32 1");
    assert_eq!(got(0.1f64.into(), &f32_of), "f32 <- f64 0.1");
    assert_eq!(got(16777217u32.into(), &f32_of), "f32 <- u32 16777217");
    assert_eq!(got("x".into(), &u32_of), "u32 <- string \"x\"");
    assert_eq!(got(1u8.into(), &bool_of), "bool <- u8 1");
    assert_eq!(got(1u8.into(), &str_of), "string <- u8 1");
    assert_eq!(got((&[1i64, -1][..]).into(), &vec_of), "array of u32 <- an array whose element 1 is i64 -1");
    assert_eq!(got((&["a"][..]).into(), &u32_of), "u32 <- [1 x string]");
    assert!(matches!(
        with("k", 1u8).metadata().get::<u32>("absent").unwrap_err().problem,
        Problem::MissingKey { key, expected: "u32" } if key == "absent"
    ));
}

#[test]
fn tensors_round_trip() {
    let mut writer = Writer::default();
    let q1_0 = TensorType::from_id(41).unwrap();
    writer.set("general.alignment", 64u32);
    writer.tensor("b", &[2, 3], f32()).unwrap().tensor("a", &[64, 2], Format::Q4_0.tensor_type()).unwrap();
    writer.tensor("unsupported", &[128, 2], q1_0).unwrap().tensor("scalar", &[], f32()).unwrap();
    let (b, a, u) = ([1u8; 24], [2u8; 72], [3u8; 36]);
    let gguf = Gguf::from_bytes(bytes_of(&writer, &[&b, &a, &u, &[4; 4]])).unwrap();
    let names: Vec<&str> = gguf.tensors().map(|t| t.name()).collect();
    assert_eq!(names, ["b", "a", "unsupported", "scalar"]);
    let tensor = gguf.tensor("a").unwrap();
    assert_eq!((tensor.shape(), tensor.elements(), tensor.data()), (&[64, 2][..], 128, &a[..]));
    assert_eq!(tensor.format().unwrap(), Format::Q4_0);
    assert_eq!(gguf.tensor("scalar").unwrap().data(), [4; 4]);
    assert_eq!(gguf.tensor("scalar").unwrap().elements(), 1);
    assert!(gguf.tensor("c").is_none());

    let unsupported = gguf.tensor("unsupported").unwrap();
    assert_eq!((unsupported.type_name().as_ref(), unsupported.data()), ("Q1_0", &u[..]));
    let error = unsupported.format().unwrap_err().to_string();
    assert_eq!(
        error,
        "(in memory): tensor \"unsupported\": Q1_0 is not supported yet; supported: \
         F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 \
         IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M TQ1_0 TQ2_0 NVFP4"
    );
}

#[test]
fn version_2_reads_the_same() {
    let mut writer = Writer::default();
    writer.set("a", 1u32).tensor("t", &[2], f32()).unwrap();
    let mut bytes = bytes_of(&writer, &[&[9; 8]]);
    bytes[4] = 2;
    let gguf = Gguf::from_bytes(bytes).unwrap();
    assert_eq!((gguf.version(), gguf.tensor("t").unwrap().data()), (Some(2), &[9u8; 8][..]));
}

#[test]
fn an_unknown_tensor_type_does_not_hide_the_rest() {
    let mut writer = Writer::default();
    writer.tensor("t", &[2], f32()).unwrap().tensor("new", &[2], f32()).unwrap();
    let mut bytes = bytes_of(&writer, &[&[1; 8], &[2; 8]]);
    let at = bytes.windows(3).position(|w| w == b"new").unwrap() + 3 + 4 + 8;
    bytes[at] = 200;
    let gguf = Gguf::from_bytes(bytes).unwrap();
    assert_eq!(gguf.tensor("t").unwrap().data(), [1; 8]);
    let new = gguf.tensor("new").unwrap();
    assert_eq!((new.type_name().as_ref(), new.tensor_type(), new.data()), ("type 200", None, &[][..]));
    assert!(matches!(new.format().unwrap_err().problem, Problem::Unsupported { ty, .. } if ty == "type 200"));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = Writer::default();
    assert!(matches!(
        writer.tensor("t", &[33], Format::Q4_0.tensor_type()),
        Err(Problem::PartialBlock { .. })
    ));
    assert!(matches!(writer.tensor("t", &[1; 5], f32()), Err(Problem::Dims { got: 5, .. })));
    assert!(matches!(writer.tensor("t", &[0], f32()), Err(Problem::EmptyShape { .. })));
    writer.tensor("t", &[1], f32()).unwrap();
    let sink = &mut std::io::sink();
    let no_data: [&[u8]; 0] = [];
    assert!(matches!(writer.write(sink, no_data), Err(Problem::DataCount { expected: 1, got: 0 })));
    assert!(matches!(writer.write(sink, [[0; 4], [0; 4]]), Err(Problem::DataCount { expected: 1, got: 2 })));
    assert!(matches!(writer.write(sink, [[0; 5]]), Err(Problem::DataSize { expected: 4, got: 5, .. })));
    writer.tensor("t", &[1], f32()).unwrap();
    assert!(matches!(writer.write(sink, [[0; 4], [0; 4]]), Err(Problem::DuplicateTensor { .. })));
    let mut writer = Writer::default();
    writer.set("general.alignment", 24u32);
    assert!(matches!(writer.write(sink, no_data), Err(Problem::Alignment { got: 24 })));
    let mut writer = Writer::default();
    writer.set("", 1u8);
    assert!(matches!(writer.write(sink, no_data), Err(Problem::EmptyName { .. })));
}

#[test]
fn data_written_in_pieces_is_the_same_file() {
    let mut writer = Writer::default();
    writer.set("general.alignment", 64u32);
    writer.tensor("a", &[3], f32()).unwrap().tensor("b", &[1 << 10], f32()).unwrap();
    let (a, b) = ([7u8; 12], (0..4096).map(|i| i as u8).collect::<Vec<_>>());
    let mut pieces = Vec::new();
    writer
        .write_with(&mut pieces, |i, out| match i {
            0 => out.write_all(&a),
            _ => b.chunks(100).try_for_each(|piece| out.write_all(piece)),
        })
        .unwrap();
    assert_eq!(pieces, bytes_of(&writer, &[&a, &b]));

    let short = writer.write_with(&mut std::io::sink(), |_, out| out.write_all(&a));
    assert!(matches!(short, Err(Problem::DataSize { tensor, expected: 4096, got: 12 }) if tensor == "b"));
    let failed = writer.write_with(&mut std::io::sink(), |_, _| Err(std::io::Error::other("no source")));
    assert_eq!(failed.unwrap_err().to_string(), "cannot write: no source");
}

/// Writes part `no` (from 0) of a split model with one tensor, `t{no}`.
fn part(dir: &Path, no: u16, count: u16, total: i32) -> PathBuf {
    let mut writer = Writer::default();
    writer.set("split.no", no).set("split.count", count).set("split.tensors.count", total);
    if no == 0 {
        writer.set("general.name", "split");
    }
    writer.tensor(format!("t{no}"), &[1], f32()).unwrap();
    let path = dir.join(format!("m-{:05}-of-{count:05}.gguf", no + 1));
    std::fs::write(&path, bytes_of(&writer, &[&[no as u8; 4]])).unwrap();
    path
}

#[test]
fn split_models_open_from_any_part() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..3).map(|no| part(dir.path(), no, 3, 3)).collect();
    for path in &paths {
        let gguf = Gguf::open(path).unwrap();
        assert_eq!(gguf.metadata().get::<&str>("general.name").unwrap(), "split");
        assert_eq!(gguf.files().collect::<Vec<_>>(), paths);
        for (no, tensor) in gguf.tensors().enumerate() {
            assert_eq!((tensor.name(), tensor.data()), (format!("t{no}").as_str(), &[no as u8; 4][..]));
            assert_eq!(tensor.file(), paths[no]);
        }
        let sizes: u64 = paths.iter().map(|p| p.metadata().unwrap().len()).sum();
        assert_eq!(gguf.total_bytes(), sizes);
    }
}

#[test]
fn released_pages_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::default();
    let data: Vec<u8> = (0..1 << 20).map(|i| (i * 31 % 251) as u8).collect();
    writer.tensor("t", &[1 << 18], f32()).unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes_of(&writer, &[&data])).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let tensor = gguf.tensor("t").unwrap();
    assert_eq!(tensor.data(), data);
    #[cfg(target_os = "linux")]
    let resident = || {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
        let rss = lines.find(|line| line.starts_with("Rss:")).unwrap();
        rss.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    #[cfg(target_os = "linux")]
    let before = resident();
    tensor.release();
    #[cfg(target_os = "linux")]
    assert!(resident() + 900 < before, "{} KiB resident after release, {before} before", resident());
    assert_eq!(tensor.data(), data);
}

#[test]
fn is_shareable_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Gguf>();
    check::<kinfer_load::gguf::GgufError>();
}

fn model(name: &str) -> Gguf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-models");
    let dir = std::env::var("KINFER_TEST_MODELS").unwrap_or_else(|_| default.into());
    Gguf::open(Path::new(&dir).join(name)).unwrap_or_else(|e| {
        panic!("{e}\nrun `tests/fetch-models target/test-models`, or set KINFER_TEST_MODELS")
    })
}

/// Every key, value and tensor, as `tests/data/describe.py` prints them with the `gguf` Python package.
fn agrees_with_python(gguf: &Gguf, golden: &str) {
    let mut got = String::new();
    for (key, value) in gguf.metadata().iter() {
        got += &format!("{key}\t{}\t{}\n", value.value_type(), describe(value));
    }
    for tensor in gguf.tensors() {
        let (shape, data) = (tensor.shape(), tensor.data());
        let ends = [&data[..64], &data[data.len() - 64..]].concat();
        got += &format!(
            "{}\t{}\t{shape:?}\t{}\t{}\n",
            tensor.name(),
            tensor.type_name(),
            data.len(),
            hash(&ends)
        );
    }
    for (got, want) in got.lines().zip(golden.lines()) {
        assert_eq!(got, want);
    }
    assert_eq!(got.lines().count(), golden.lines().count());
}

/// A scalar, or the length and hash of a text or an array.
fn describe(value: &Value) -> String {
    match value {
        Value::F32(v) => format!("{:08x}", v.to_bits()),
        Value::String(text) => format!("{} {}", text.len(), hash(text.as_bytes())),
        Value::Array(array) => {
            let element = |v: Value| if let Value::String(text) = v { text } else { describe(&v) };
            let elements: Vec<String> = array.iter().map(|v| element(v.unwrap())).collect();
            format!("{} {} {}", array.len(), array.element_type(), hash(elements.join("\n").as_bytes()))
        }
        other => other.to_string(),
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn smollm2_agrees_with_python() {
    agrees_with_python(&model("SmolLM2-135M-Instruct.Q4_1.gguf"), include_str!("data/smollm2.tsv"));
}

#[test]
fn gemma3_agrees_with_python() {
    agrees_with_python(&model("gemma-3-270m-q4_k_m.gguf"), include_str!("data/gemma3-270m.tsv"));
}
