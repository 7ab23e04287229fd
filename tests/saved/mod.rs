//! The folder that transformers would save of a toy.

use crate::{Toy, bits12, fnv};
use kinfer_core::backend::RowOrder;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value as Json;

/// A tensor in MXFP4.
pub struct Mxfp4 {
    /// Of each element, by its place in [`LEVELS`].
    codes: Vec<u8>,
    /// Of each block of 32 elements, 127 more than it is.
    exponents: Vec<u8>,
}

const LEVELS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

impl Mxfp4 {
    /// Tensor `name`, as `make_toys.py` computes it.
    pub fn new(name: &str, shape: &[usize]) -> Mxfp4 {
        let (bits, elements) = (bits12(name), shape.iter().product::<usize>() as u32);
        let most = 127 - shape[shape.len() - 1].ilog2() / 2;
        Mxfp4 {
            codes: (0..elements).map(|i| (bits(i) >> 8) as u8).collect(),
            exponents: (0..elements).step_by(32).map(|i| (most - (bits(i) & 3)) as u8).collect(),
        }
    }

    pub fn values(&self) -> Vec<f32> {
        let value = |(i, &code): (usize, &u8)| {
            let size = LEVELS[usize::from(code & 7)] * 2f32.powi(i32::from(self.exponents[i / 32]) - 127);
            if code & 8 == 0 { size } else { -size }
        };
        self.codes.iter().enumerate().map(value).collect()
    }
}

/// Rows of `each` elements of all of `parts`, in turns.
fn in_turns<T: Copy>(parts: &[Vec<T>], each: usize) -> Vec<T> {
    let rows = 0..parts[0].len() / each;
    rows.flat_map(|r| parts.iter().flat_map(move |p| p[r * each..(r + 1) * each].iter().copied())).collect()
}

/// Rows of `each` elements, by runs of them: the first one, and how many.
fn in_runs(runs: &Json, values: &[f32], each: usize) -> Vec<f32> {
    let number = |v: &Json| v.as_u64().unwrap() as usize * each;
    let runs = runs.as_array().unwrap().iter().map(|run| (number(&run[0]), number(&run[1])));
    runs.flat_map(|(first, count)| values[first..first + count].iter().copied()).collect()
}

/// Matrices of `rows` by `cols`, turned.
fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let turn = |m: &[f32]| (0..rows * cols).map(|i| m[i % rows * cols + i / rows]).collect::<Vec<f32>>();
    values.chunks_exact(rows * cols).flat_map(turn).collect()
}

/// Heads of `len` elements each, all queries, keys and values: those of each group, which has one key and this many queries.
fn in_groups(values: &[f32], queries: usize, len: usize) -> Vec<f32> {
    let heads: Vec<&[f32]> = values.chunks_exact(len).collect();
    let groups = heads.len() / (queries + 2);
    let (q, others) = heads.split_at(groups * queries);
    let (k, v) = others.split_at(groups);
    (0..groups).flat_map(|g| [&q[g * queries..(g + 1) * queries], &[k[g], v[g]]].concat().concat()).collect()
}

/// What follows the tensor's name, type, shape and bytes.
type Saved = (&'static str, Dtype, Vec<usize>, Vec<u8>);

impl Toy {
    /// The folder that transformers would save, its weights in two files; `None` for a model whose weights stand in another
    /// order there.
    pub fn folder(&self) -> Option<tempfile::TempDir> {
        let tensors = self.json["safetensors"].as_object()?;
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::to_vec(&self.json["config"]).unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let mut map = serde_json::Map::new();
        for part in 0..2 {
            let file = format!("model-{part}.safetensors");
            let of_part = tensors.iter().enumerate().filter(|(i, _)| i % 2 == part);
            let data: Vec<(String, Saved)> = of_part
                .flat_map(|(_, (name, origin))| {
                    let saved = self.origin(name, origin);
                    saved.into_iter().map(move |part| (format!("{name}{}", part.0), part))
                })
                .collect();
            map.extend(data.iter().map(|(name, _)| (name.clone(), file.clone().into())));
            let views = data.iter().map(|(name, (_, ty, shape, bytes))| {
                (name, TensorView::new(*ty, shape.clone(), bytes).unwrap())
            });
            safetensors::serialize_to_file(views, None, &folder.path().join(file)).unwrap();
        }
        let index = serde_json::to_vec(&serde_json::json!({ "weight_map": map })).unwrap();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        Some(folder)
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        let shape = self.json["tensors"][name].as_array().unwrap().iter();
        shape.map(|n| n.as_u64().unwrap() as usize).collect()
    }

    /// What transformers saves as tensor `saved`, whose elements are `origin`'s: see `make_toys.py`.
    fn origin(&self, saved: &str, origin: &Json) -> Vec<Saved> {
        let (name, how) = (origin[0].as_str().unwrap(), origin[1].as_str().unwrap());
        let mut shape = self.shape(name);
        let others = [&origin[2], &origin[3]].map(|other| other.as_str());
        let names: Vec<&str> = [Some(name)].into_iter().chain(others).flatten().collect();
        if self.is_mxfp4(name) {
            return self.blocks(saved, &names);
        }
        let mut values = self.weights(name, &shape);
        match how.split_once(' ') {
            None if how == "=" => {}
            _ if how.ends_with("rows") => {
                let row: usize = shape[1..].iter().product();
                if let Some(other) = names.get(1) {
                    values.extend(self.weights(other, &self.shape(other)));
                }
                values = in_runs(&origin[2], &values, row);
                shape[0] = values.len() / row;
                match how {
                    "squeezed rows" => shape.insert(1, 1),
                    "log rows" => values.iter_mut().for_each(|v| *v = (-*v).ln()),
                    _ => {}
                }
            }
            None if how == "columns" => {
                let lines = values.chunks_exact(shape[1]);
                values = lines.flat_map(|line| in_runs(&origin[2], line, 1)).collect();
            }
            None if how == "squeezed" => shape.insert(1, 1),
            None if how == "+1" => values.iter_mut().for_each(|v| *v -= 1.0),
            Some(("expert", e)) => {
                let (e, count): (usize, usize) = (e.parse().unwrap(), shape.remove(0));
                let len = values.len() / count;
                values = values[e * len..(e + 1) * len].to_vec();
            }
            Some(("halves", dim)) => {
                let (dim, row): (usize, usize) = (dim.parse().unwrap(), shape[1..].iter().product());
                let order = RowOrder::AdjacentPairs { head_dim: dim, turned: dim };
                let rows = (0..shape[0]).map(|r| order.stored_row(r));
                values = rows.flat_map(|r| values[r * row..(r + 1) * row].to_vec()).collect();
            }
            Some(("after", rows)) => {
                let rows: usize = rows.parse().unwrap();
                values.splice(0..0, vec![f32::NAN; rows * shape[1]]);
                shape[0] += rows;
            }
            None if how == "transposed" => {
                let n = shape.len();
                values = transposed(&values, shape[n - 2], shape[n - 1]);
                shape.swap(n - 2, n - 1);
            }
            Some(("row", r)) => {
                let (r, cols): (usize, usize) = (r.parse().unwrap(), shape[1]);
                (values, shape) = (values[r * cols..(r + 1) * cols].to_vec(), vec![cols]);
            }
            Some(("groups", widths)) => {
                let (queries, dim) = widths.split_once(' ').unwrap();
                let (queries, dim): (usize, usize) = (queries.parse().unwrap(), dim.parse().unwrap());
                values = in_groups(&values, queries, dim * shape[1..].iter().product::<usize>());
            }
            None if how == "joined" => {
                let len = values.len() / shape[0];
                let other = self.weights(names[1], &shape);
                let experts = values.chunks_exact(len).zip(other.chunks_exact(len));
                values = experts.flat_map(|(a, b)| [a, b].concat()).collect();
                shape[1] *= 2;
            }
            _ if how.ends_with("pairs") => {
                let row: usize = shape[2..].iter().product();
                let parts = names.iter().map(|name| self.weights(name, &shape)).collect::<Vec<_>>();
                (values, shape[1]) = (in_turns(&parts, row), 2 * shape[1]);
                if how == "transposed pairs" {
                    values = transposed(&values, shape[1], shape[2]);
                    shape.swap(1, 2);
                }
            }
            _ if how == "keys and values" => {
                let of_values = self.shape(names[1]);
                let (k, v) = (shape[1] * shape[2], of_values[1] * of_values[2]);
                let (keys, others) =
                    (transposed(&values, shape[1], shape[2]), self.weights(names[1], &of_values));
                let heads = keys.chunks_exact(k).zip(others.chunks_exact(v));
                values = heads.flat_map(|(keys, values)| [keys, values].concat()).collect();
                shape = vec![values.len() / shape[1], shape[1]];
            }
            _ => panic!("{how}"),
        }
        vec![("", Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())]
    }

    /// Blocks and scales of a tensor in MXFP4, in which the rows of the tensors `names` take turns.
    fn blocks(&self, saved: &str, names: &[&str]) -> Vec<Saved> {
        let mut shape = self.shape(names[0]);
        let (cols, all) = (shape[2], names.iter().map(|name| Mxfp4::new(name, &shape)).collect::<Vec<_>>());
        let codes = in_turns(&all.iter().map(|t| t.codes.clone()).collect::<Vec<_>>(), cols);
        let scales = in_turns(&all.iter().map(|t| t.exponents.clone()).collect::<Vec<_>>(), cols / 32);
        let packed: Vec<u8> = codes.as_chunks::<2>().0.iter().map(|[even, odd]| even | odd << 4).collect();
        shape[1] *= names.len();
        shape[2] /= 32;
        let blocks = [&shape[..], &[16]].concat();
        let parts = vec![("_blocks", Dtype::U8, blocks, packed), ("_scales", Dtype::U8, shape, scales)];
        for (end, _, _, bytes) in &parts {
            // The bytes that transformers has read.
            let sum = self.json["mxfp4"][format!("{saved}{end}")].as_u64().unwrap();
            assert_eq!(u64::from(fnv(bytes)), sum, "{saved}{end}");
        }
        parts
    }
}
