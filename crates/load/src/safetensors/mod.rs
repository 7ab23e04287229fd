//! Folders in the format that transformers saves: `config.json`, `tokenizer.json`, and weights in `.safetensors` files.
//!
//! Such a folder is given the same view that a GGUF file has: `config` turns the configuration into metadata,
//! `vocab` the tokenizer, and `names` says what each tensor is called there. The weights stay in the mapped files as
//! they are; only what is no plain copy (norm weights with an offset, rotary divisors) is computed, and matrices that are
//! quantised already (`coded`), or whose elements lie elsewhere (`made`), are made as their rows are read. So there is one path
//! from a model to a device, and writing the view gives a GGUF file.
//!
//! Nothing is guessed: a setting, tensor or part of a tokenizer that is not known to be followed exactly is an error that
//! names it.

#![forbid(unsafe_code)]

mod coded;
mod config;
mod made;
mod names;
mod ordered;
mod quantization;
mod ranks;
mod sentences;
mod unigram;
mod vocab;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use kinfer_kernels::quant::Format;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value as Json};

use crate::gguf::map::Source;
use crate::gguf::{Gguf, GgufError, Metadata, Problem, Record};

pub(crate) use coded::Piece;
use coded::{Coded, Module, Role, Storage};
use config::{Config, Delta, Heads};
pub(crate) use made::Made;
use made::Picked;
use names::{Part, Place};
use ordered::Ordered;

/// Beside one or several files of weights.
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const CONFIG: &str = "config.json";
/// What products of pooled vectors are called in GGUF files.
const AFTER_POOLING: [&str; 2] = ["dense_2", "dense_3"];
/// Gemma's tokenizer.json, the largest that is known, has 33 MB.
const MAX_JSON: u64 = 256 << 20;

/// The classes of transformers whose models can be read.
pub fn classes() -> impl Iterator<Item = &'static str> {
    names::FAMILIES.iter().map(|family| family.class)
}

/// Whether `path` is a folder, or a file of one, rather than a GGUF file.
pub(crate) fn is_it(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"))
        || path.file_name().is_some_and(|name| name == INDEX || name == CONFIG)
        || path.is_dir()
}

/// Opens the folder, or the folder of the file, `path`.
pub(crate) fn open(path: &Path) -> Result<Gguf, GgufError> {
    let folder = match path.is_dir() {
        true => path,
        false => path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    };
    let json = read_json(folder, CONFIG)?.ok_or_else(|| {
        let hint = "a folder that transformers saved has one; of GGUF files, name the file";
        error(folder, Problem::MissingFile { file: CONFIG, hint })
    })?;
    let at_config = |problem| error(&folder.join(CONFIG), problem);
    let family = Config::family(&json).map_err(at_config)?;
    let config = Config::new(&json, family).map_err(at_config)?;
    let storage = config.storage().map_err(at_config)?;
    let heads = config.heads(family).map_err(at_config)?;
    let delta = config.delta(family).map_err(at_config)?;
    let (mut entries, computed) = config.metadata(family).map_err(at_config)?;

    if let Some(pooling) = sentences::pooling(folder)? {
        entries.push((format!("{}.pooling_type", family.arch), pooling.into()));
    }

    let dense = sentences::dense(folder)?;
    if !dense.is_empty() && (family.arch != "gemma-embedding" || dense.len() != AFTER_POOLING.len()) {
        return Err(sentences::not_followed(folder, dense.len(), family.class));
    }
    let names = files(folder)?;
    let mut weights = Weights {
        files: Vec::new(),
        records: Vec::new(),
        computed: Vec::new(),
        part: names.len() + dense.len(),
        storage,
        heads,
        delta,
        modules: BTreeMap::new(),
        stacks: BTreeMap::new(),
    };
    for (part, name) in names.iter().enumerate() {
        let file = folder.join(name);
        let source = Source::map(&file).map_err(|problem| error(&file, problem))?;
        weights.add(part, &source, &config, family).map_err(|problem| error(&file, problem))?;
        weights.files.push((file, Arc::new(source)));
    }
    weights.quantised(&config, family).map_err(|problem| error(folder, problem))?;
    weights.stacked().map_err(|problem| error(folder, problem))?;
    for (dense, name) in dense.into_iter().zip(AFTER_POOLING) {
        for (width, end) in dense.widths.into_iter().zip(["in", "out"]) {
            entries.push((format!("{}.{name}_feat_{end}", family.arch), width.into()));
        }
        weights.after_pooling(dense, name)?;
    }
    for (name, values) in computed {
        weights.compute(name.into(), &[values.len()], &values).map_err(at_config)?;
    }
    if !family.encoder && !config.tied(family) && !weights.records.iter().any(|r| r.name == names::HEAD) {
        let problem = "is false, but no file has `lm_head.weight`".into();
        return Err(at_config(Problem::Setting { key: "tie_word_embeddings".into(), problem }));
    }
    entries.push(("general.name".into(), folder_name(folder).as_str().into()));
    entries.extend(weights.file_type().map(|id| ("general.file_type".into(), id.into())));
    vocab::read(folder, config.vocab_size(), &mut entries)?;
    let metadata = Metadata::new(folder.into(), entries).map_err(at_config)?;
    Gguf::of_folder(weights.files, (folder.join(CONFIG), weights.computed), metadata, weights.records)
}

/// The files of weights, which the index names if there is one.
fn files(folder: &Path) -> Result<Vec<String>, GgufError> {
    let Some(index) = read_json(folder, INDEX)? else {
        let hint = "the weights of a model in transformers' format; kinfer reads no pickled `.bin` files";
        return match folder.join(SINGLE).is_file() {
            true => Ok(vec![SINGLE.into()]),
            false => Err(error(folder, Problem::MissingFile { file: SINGLE, hint })),
        };
    };
    let wrong = |reason: &str| error(&folder.join(INDEX), Problem::Json { reason: reason.into() });
    let map = index.get("weight_map").and_then(Json::as_object);
    let map = map.ok_or_else(|| wrong("no object `weight_map`"))?;
    let names: Option<BTreeSet<&str>> = map.values().map(Json::as_str).collect();
    let names = names.ok_or_else(|| wrong("a file name in `weight_map` is no string"))?;
    // Beside the index, not anywhere on the machine.
    if let Some(name) = names.iter().find(|name| Path::new(name).components().count() != 1) {
        return Err(wrong(&format!("`{name}` is no file beside it")));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// What the files hold.
struct Weights {
    files: Vec<(PathBuf, Arc<Source>)>,
    records: Vec<Record>,
    /// Values of tensors that are no plain copies, in f32.
    computed: Vec<u8>,
    /// The number of the part that they are.
    part: usize,
    /// How quantised matrices are stored.
    storage: Option<Storage>,
    /// Where heads are in the tensors that join some.
    heads: Option<Heads>,
    /// The heads of delta nets, where the model has them.
    delta: Option<Delta>,
    /// Those matrices, whose tensors may be in several files.
    modules: BTreeMap<String, Module>,
    /// Tensors whose rows are stored as tensors of their own: the rows by number.
    stacks: BTreeMap<String, BTreeMap<usize, Vec<f32>>>,
}

impl Weights {
    fn add(
        &mut self,
        part: usize,
        source: &Source,
        config: &Config<'_>,
        family: &'static names::Family,
    ) -> Result<(), Problem> {
        let broken = |e: safetensors::SafeTensorError| Problem::Safetensors { reason: e.to_string() };
        let bytes = source.bytes();
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
        tensors.sort_unstable_by_key(|(_, info)| info.data_offsets);
        for (name, info) in tensors {
            // The length of the header is stored in the first eight bytes.
            let start = 8 + header;
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            if let Some((module, role)) = self.storage.and_then(|storage| storage.role(&name, info.dtype)) {
                let module = self.modules.entry(module.into()).or_default();
                let place = match role {
                    Role::Codes => &mut module.codes,
                    Role::Scales => &mut module.scales,
                    Role::Zeros => &mut module.zeros,
                    Role::Groups => &mut module.groups,
                    Role::Input => continue,
                };
                if place.replace(Piece { part, range, shape: info.shape.clone(), ty: info.dtype }).is_some() {
                    return Err(Problem::DuplicateTensor { tensor: name });
                }
                continue;
            }
            let place = match names::place(family, config.guessing(), &name) {
                Some(Place::Nowhere) => continue,
                Some(place) => place,
                None => return Err(Problem::ForeignTensor { tensor: name, class: family.class }),
            };
            let format = float_format(&name, info.dtype)?;
            match place {
                // Tied weights may be saved twice; transformers, too, looks at the first.
                Place::Copy(name) if name == names::HEAD && config.tied(family) => {}
                Place::Copy(name) => {
                    self.records.push(Record::new(name, &info.shape, format.tensor_type(), part, range)?);
                }
                Place::Rows(gguf_name, first) => {
                    let mut shape = info.shape.clone();
                    let rows = shape.first().copied().unwrap_or(0);
                    let skipped = rows.min(first as usize);
                    shape.iter_mut().take(1).for_each(|rows| *rows -= skipped);
                    let range = range.start + range.len() / rows.max(1) * skipped..range.end;
                    self.records.push(Record::new(gguf_name, &shape, format.tensor_type(), part, range)?);
                }
                Place::Squeezed(gguf_name) => {
                    let mut shape = info.shape.clone();
                    if shape.len() == 3 && shape[1] == 1 {
                        shape.remove(1);
                    }
                    self.records.push(Record::new(gguf_name, &shape, format.tensor_type(), part, range)?);
                }
                Place::Parts(parts) => {
                    let stored = Piece { part, range, shape: info.shape.clone(), ty: info.dtype };
                    for (gguf_name, which) in parts {
                        let stored = stored.clone();
                        if let (&[len], Part::Groups) = (info.shape.as_slice(), which) {
                            stored.check(&name)?;
                            let data = bytes.get(stored.range.clone()).unwrap_or_default();
                            let picked = Picked::of_vector(&name, which, stored, format, self.heads)?;
                            self.compute(gguf_name, &[len], &floats(format, &picked.all(data)))?;
                            continue;
                        }
                        let made = match which {
                            Part::Delta(part) => {
                                Made::Ordered(Ordered::of_floats(&name, part, stored, format, self.delta)?)
                            }
                            _ => Made::Picked(Picked::of_floats(&name, which, stored, format, self.heads)?),
                        };
                        self.records.push(Record::made(gguf_name, made)?);
                    }
                }
                Place::Row(gguf_name, row) => {
                    let data = bytes.get(range).unwrap_or_default();
                    let rows = self.stacks.entry(gguf_name).or_default();
                    if rows.insert(row, floats(format, data)).is_some() {
                        return Err(Problem::DuplicateTensor { tensor: name });
                    }
                }
                Place::PlusOne(gguf_name) => {
                    let data = bytes.get(range).unwrap_or_default();
                    let values: Vec<f32> = floats(format, data).into_iter().map(|v| v + 1.0).collect();
                    self.compute(gguf_name, &info.shape, &values)?;
                }
                Place::Decay(gguf_name) => {
                    let logarithms = floats(format, bytes.get(range).unwrap_or_default());
                    let rates = match &self.delta {
                        Some(delta) => delta.decay(&name, &logarithms)?,
                        None => return Err(Problem::ForeignTensor { tensor: name, class: family.class }),
                    };
                    self.compute(gguf_name, &info.shape, &rates)?;
                }
                Place::Nowhere => {}
            }
        }
        Ok(())
    }

    /// Adds the matrix that a pooled vector is multiplied with.
    fn after_pooling(&mut self, dense: sentences::Dense, name: &str) -> Result<(), GgufError> {
        const MATRIX: &str = "linear.weight";
        let sentences::Dense { file, widths: [width, rows] } = dense;
        let fail = |problem| error(&file, problem);
        let source = Source::map(&file).map_err(fail)?;
        let broken = |e: safetensors::SafeTensorError| fail(Problem::Safetensors { reason: e.to_string() });
        let (header, metadata) = SafeTensors::read_metadata(source.bytes()).map_err(broken)?;
        let expected = [rows as usize, width as usize];
        for (tensor, info) in metadata.tensors() {
            if tensor != MATRIX || info.shape != expected {
                let problem = format!("is of shape {:?}; `{MATRIX}` of {expected:?} is expected", info.shape);
                return Err(fail(Problem::Coded { tensor, problem }));
            }
            let format = float_format(&tensor, info.dtype).map_err(fail)?;
            let range = 8 + header + info.data_offsets.0..8 + header + info.data_offsets.1;
            let name = format!("{name}.weight");
            let record = Record::new(name, &info.shape, format.tensor_type(), self.files.len(), range);
            self.records.push(record.map_err(fail)?);
        }
        self.files.push((file, Arc::new(source)));
        Ok(())
    }

    /// Adds the matrices that are stored quantised.
    fn quantised(&mut self, config: &Config<'_>, family: &'static names::Family) -> Result<(), Problem> {
        let Some(storage) = self.storage else { return Ok(()) };
        for (name, module) in std::mem::take(&mut self.modules) {
            let weight = match storage {
                Storage::Coded(_) => format!("{name}.weight"),
                // The names of these have no end.
                Storage::Mxfp4 => name.clone(),
            };
            let place = names::place(family, config.guessing(), &weight);
            let files = &self.files;
            let bytes =
                |piece: &Piece| files[piece.part].1.bytes().get(piece.range.clone()).unwrap_or_default();
            let mut made = Vec::new();
            match (storage, place) {
                (_, Some(Place::Nowhere)) => {}
                (Storage::Coded(_), Some(Place::Copy(place)))
                    if place == names::HEAD && config.tied(family) => {}
                (Storage::Coded(scheme), Some(Place::Copy(place))) => {
                    made.push((place, Made::Coded(Coded::new(&name, scheme, module, &bytes)?)));
                }
                (Storage::Coded(scheme), Some(Place::Parts(parts))) => {
                    for (place, part) in parts {
                        let coded = Coded::new(&name, scheme, module.clone(), &bytes)?;
                        let of_part = match part {
                            Part::Delta(part) => {
                                Made::Ordered(Ordered::of_coded(&weight, part, coded, self.delta)?)
                            }
                            _ => Made::Picked(Picked::of_coded(&weight, part, coded, self.heads)?),
                        };
                        made.push((place, of_part));
                    }
                }
                (Storage::Mxfp4, Some(Place::Parts(parts))) => {
                    for (place, part) in parts {
                        made.push((place, Made::Picked(Picked::of_blocks(&name, part, &module)?)));
                    }
                }
                _ => return Err(Problem::ForeignTensor { tensor: weight, class: family.class }),
            }
            for (place, made) in made {
                self.records.push(Record::made(place, made)?);
            }
        }
        Ok(())
    }

    /// Adds the tensors whose rows are stored apart.
    fn stacked(&mut self) -> Result<(), Problem> {
        for (name, rows) in std::mem::take(&mut self.stacks) {
            let len = rows.values().next().map_or(0, Vec::len);
            let missing = (0..).zip(&rows).find(|(i, (row, values))| i != *row || values.len() != len);
            if let Some((i, (row, values))) = missing {
                let problem =
                    format!("has row {row} of {} elements in place {i} of rows of {len}", values.len());
                return Err(Problem::Coded { tensor: name, problem });
            }
            let values: Vec<f32> = rows.values().flatten().copied().collect();
            self.compute(name, &[rows.len(), len], &values)?;
        }
        Ok(())
    }

    /// Adds a tensor of these values.
    fn compute(&mut self, name: String, shape: &[usize], values: &[f32]) -> Result<(), Problem> {
        let start = self.computed.len();
        self.computed.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let range = start..self.computed.len();
        self.records.push(Record::new(name, shape, Format::F32.tensor_type(), self.part, range)?);
        Ok(())
    }

    /// What GGUF files number the format of most weights by; `None` where they have no number for it.
    fn file_type(&self) -> Option<u32> {
        if self.records.iter().any(Record::is_coded) {
            return None;
        }
        let bytes = |format: Format| -> usize {
            let of_format = self.records.iter().filter(|r| r.format() == Some(format));
            of_format.map(|r| r.bytes()).sum()
        };
        let types = [(Format::F32, 0), (Format::F16, 1), (Format::BF16, 32), (Format::MXFP4, 38)];
        Some(types.into_iter().max_by_key(|&(format, _)| bytes(format)).map_or(0, |(_, id)| id))
    }
}

/// The format of a tensor of floats.
fn float_format(tensor: &str, ty: Dtype) -> Result<Format, Problem> {
    match ty {
        Dtype::F32 => Ok(Format::F32),
        Dtype::F16 => Ok(Format::F16),
        Dtype::BF16 => Ok(Format::BF16),
        other => Err(Problem::Dtype { tensor: tensor.into(), ty: format!("{other:?}") }),
    }
}

/// Elements of a format that safetensors files have.
fn floats(format: Format, data: &[u8]) -> Vec<f32> {
    let pairs = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
    match format {
        Format::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Format::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// An object from a file of the folder; `None` where there is no such file.
fn read_json(folder: &Path, file: &str) -> Result<Option<Map<String, Json>>, GgufError> {
    let path = folder.join(file);
    let Some(bytes) = read_file(&path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| error(&path, Problem::Json { reason: e.to_string() }))
}

/// A whole file; `None` where there is none.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, GgufError> {
    let fail = |problem| error(path, problem);
    let bytes = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_JSON => {
            let (what, got) = ("bytes of a JSON file", meta.len());
            return Err(fail(Problem::TooMany { what, got, limit: MAX_JSON }));
        }
        Ok(meta) if !meta.is_file() => return Err(fail(Problem::NotAFile)),
        Ok(_) => std::fs::read(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => Err(e),
    };
    bytes.map(Some).map_err(|source| fail(Problem::Io { doing: "read", source }))
}

/// The folder's name; in the hub's cache (`models--user--name/snapshots/COMMIT`) the repository's.
fn folder_name(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let repo = folder.ancestors().nth(2).and_then(name);
    let repo = repo.and_then(|r| Some(r.strip_prefix("models--")?.rsplit_once("--")?.1.to_owned()));
    repo.or_else(|| name(&folder)).unwrap_or_default()
}

fn error(path: &Path, problem: Problem) -> GgufError {
    GgufError { path: path.into(), problem }
}
