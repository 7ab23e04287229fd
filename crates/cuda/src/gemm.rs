//! Which product on tensor cores a GPU has, and which of its tiles a product gets.

use crate::driver::{Argument, Function, Gpu, Grid};
use crate::ptx::Level;
use crate::{Cuda, Step};
use kinfer_core::Result;
use kinfer_kernels::pack::Layout;

/// Rows of W of a tile, and of X but for large products; experts' rows are cut into tiles of so many.
pub(crate) const TILE: usize = 128;
const THREADS: usize = 256;
/// Steps of 64 columns that are in shared memory at a time: `STAGES` of `hopper.cuh`.
const STAGES: usize = 4;
/// To a multiple of which the tensor cores' matrices are aligned.
const ALIGN: usize = 1024;

/// The kernels of one kind of weight.
pub(crate) struct Gemm {
    small: Tile,
    /// With twice the rows of X.
    large: Option<Tile>,
}

struct Tile {
    rows: usize,
    function: Function,
    shared: u32,
}

impl Gemm {
    /// The kernels in `module`, named by `name`; `None` if the tensor cores of the GPU take no bf16. `bytes` of shared memory hold a block's rows of
    /// W for [`STAGES`] steps on compute capability 9.0.
    pub fn new(
        gpu: &Gpu,
        module: &'static str,
        name: impl Fn(&str) -> String,
        bytes: usize,
    ) -> Result<Option<Gemm>> {
        match gpu.level {
            Level::Sm75 => Ok(None),
            Level::Sm80 => {
                let function = gpu.function(module, &name("gemm"))?;
                Ok(Some(Gemm { small: Tile { rows: TILE, function, shared: 0 }, large: None }))
            }
            Level::Sm90a => {
                let tile = |rows: usize| {
                    let function = gpu.function(module, &name(&format!("gemm{rows}")))?;
                    let shared = (ALIGN + STAGES * rows * 2 * 64 + bytes) as u32;
                    gpu.allow_shared(&function, shared)?;
                    Ok(Tile { rows, function, shared })
                };
                Ok(Some(Gemm { small: tile(TILE)?, large: Some(tile(2 * TILE)?) }))
            }
        }
    }

    /// Bytes of shared memory that 128 rows of a layout take: `PackedRows::BYTES` of `quantised.cu`.
    pub fn packed_bytes(layout: Layout) -> usize {
        let groups = TILE / kinfer_kernels::pack::ROWS;
        groups
            * match layout.two_level {
                true => STAGES * 2 * layout.block_bytes() + 2 * layout.scale_bytes(),
                false => STAGES * layout.unit_bytes(),
            }
    }

    /// The same of 16-bit floats: `HalfRows::BYTES` of `floats.cu`.
    pub const FLOAT_BYTES: usize = STAGES * TILE * (2 * 64 + 16);

    /// The product of `rows` rows of W and `n` rows of X.
    ///
    /// # Safety
    /// As for [`Gpu::launch`].
    pub unsafe fn launch(
        &self,
        cuda: &Cuda,
        step: &Step,
        n: usize,
        rows: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        let blocks = |tile: &Tile| n.div_ceil(tile.rows) * rows.div_ceil(TILE);
        // Large tiles unpack W half as often, but have to be enough for all multiprocessors.
        let tile = match &self.large {
            Some(large) if blocks(large) >= cuda.gpu.multiprocessors => large,
            _ => &self.small,
        };
        let grid =
            Grid { shared: tile.shared, ..Grid::new(n.div_ceil(tile.rows), rows.div_ceil(TILE), THREADS) };
        // SAFETY: by this function's contract.
        unsafe { cuda.launch(step, &tile.function, grid, arguments) }
    }

    /// The products of experts with rows that were brought together in `tiles` tiles.
    ///
    /// # Safety
    /// As for [`Gpu::launch`].
    pub unsafe fn launch_groups(
        &self,
        cuda: &Cuda,
        step: &Step,
        tiles: usize,
        rows: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        let grid = Grid { shared: self.small.shared, ..Grid::new(tiles, rows.div_ceil(TILE), THREADS) };
        // SAFETY: by this function's contract.
        unsafe { cuda.launch(step, &self.small.function, grid, arguments) }
    }
}
