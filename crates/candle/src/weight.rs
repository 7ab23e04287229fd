//! Matrices on a candle device: dense, or quantised where candle has products with the format.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};
use kinfer_core::backend::Matrix;
use kinfer_core::{Format, dequantize};
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// Stored matrices of equal width, their rows concatenated.
pub struct Weight(Vec<Part>);

enum Part {
    /// f32, `[rows, cols]`.
    Dense(Tensor),
    /// `[rows, cols]`, as the file stores it.
    Quantised(Quantised),
}

struct Quantised {
    product: QMatMul,
    tensor: Arc<QTensor>,
    format: Format,
    /// Its bytes in this machine's memory, copied back when they are first embedded from: candle has no row of a quantised tensor.
    host: OnceLock<Vec<u8>>,
}

impl Quantised {
    fn bytes(&self) -> Result<&[u8]> {
        match self.host.get() {
            Some(bytes) => Ok(bytes),
            None => {
                let bytes = self.tensor.data()?.into_owned();
                Ok(self.host.get_or_init(|| bytes))
            }
        }
    }
}

/// candle's name of a format that it multiplies with.
fn dtype(format: Format) -> Option<GgmlDType> {
    Some(match format {
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q4_1 => GgmlDType::Q4_1,
        Format::Q5_0 => GgmlDType::Q5_0,
        Format::Q5_1 => GgmlDType::Q5_1,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q2_K => GgmlDType::Q2K,
        Format::Q3_K => GgmlDType::Q3K,
        Format::Q4_K => GgmlDType::Q4K,
        Format::Q5_K => GgmlDType::Q5K,
        Format::Q6_K => GgmlDType::Q6K,
        _ => return None,
    })
}

/// Bytes of a stored matrix on the device.
pub(crate) fn bytes(rows: usize, cols: usize, format: Format, quantised: bool) -> u64 {
    let elements = rows as u64 * cols as u64;
    match dtype(format).filter(|_| quantised) {
        Some(_) => elements / format.block_len() as u64 * format.block_bytes() as u64,
        None => 4 * elements,
    }
}

impl Weight {
    pub(crate) fn new(matrices: &[Matrix<'_>], device: &Device, quantised: bool) -> Result<Weight> {
        let part = |m: &Matrix<'_>| match dtype(m.format).filter(|_| quantised) {
            Some(dtype) => {
                let bytes: Vec<u8> = (0..m.rows).flat_map(|r| m.row(r)).copied().collect();
                let storage = QStorage::from_data(Cow::Owned(bytes), device, dtype)?;
                let tensor = Arc::new(QTensor::new(storage, (m.rows, m.cols))?);
                let (product, format) = (QMatMul::QTensor(tensor.clone()), m.format);
                Ok(Part::Quantised(Quantised { product, tensor, format, host: OnceLock::new() }))
            }
            None => {
                let mut values = vec![0f32; m.rows * m.cols];
                for (r, row) in values.chunks_exact_mut(m.cols.max(1)).enumerate() {
                    m.values(r, row);
                }
                Ok(Part::Dense(Tensor::from_vec(values, (m.rows, m.cols), device)?))
            }
        };
        matrices.iter().map(part).collect::<Result<_>>().map(Weight)
    }

    /// `x` times its transpose, `[rows of x, rows]`.
    pub(crate) fn product(&self, x: &Tensor) -> Result<Tensor> {
        let product = |part: &Part| match part {
            Part::Dense(w) => x.matmul(&w.t()?),
            Part::Quantised(w) => w.product.forward(&x.contiguous()?),
        };
        match &self.0[..] {
            [part] => product(part),
            parts => Tensor::cat(&parts.iter().map(product).collect::<Result<Vec<_>>>()?, D::Minus1),
        }
    }

    /// The rows `ids`, of a weight of one part.
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.0[..] {
            [Part::Dense(table)] => table.index_select(ids, 0),
            [Part::Quantised(table)] => {
                let (_, cols) = table.tensor.shape().dims2()?;
                let row_bytes = cols / table.format.block_len() * table.format.block_bytes();
                let data = table.bytes()?;
                let ids: Vec<u32> = ids.to_dtype(DType::U32)?.to_vec1()?;
                let mut rows = vec![0f32; ids.len() * cols];
                for (&id, row) in ids.iter().zip(rows.chunks_exact_mut(cols)) {
                    let at = id as usize * row_bytes;
                    dequantize(table.format, &data[at..at + row_bytes], row);
                }
                Tensor::from_vec(rows, (ids.len(), cols), &table.tensor.device())
            }
            _ => candle_core::bail!("an embedding of several matrices"),
        }
    }
}
