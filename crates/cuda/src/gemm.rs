//! Which product on tensor cores a GPU has, and which of its tiles a product gets.

use crate::driver::{Argument, Function, Gpu, Grid};
use crate::ptx::Level;
use crate::{Cuda, Step};
use kinfer_core::Result;

/// Rows of W of a tile, and of X but for large products; experts' rows are cut into tiles of so many.
pub(crate) const TILE: usize = 128;
const THREADS: usize = 256;

/// The kernels of one kind of weight.
pub(crate) struct Gemm {
    small: Tile,
    /// With twice the rows of X.
    large: Option<Tile>,
}

struct Tile {
    rows: usize,
    function: Function,
}

impl Gemm {
    /// The kernels in `module`, named by `name`; `None` if the tensor cores of the GPU take no bf16.
    pub fn new(gpu: &Gpu, module: &'static str, name: impl Fn(&str) -> String) -> Result<Option<Gemm>> {
        let tile = |rows, kernel| {
            let function = gpu.function(module, &name(kernel))?;
            Ok(Tile { rows, function })
        };
        Ok(match gpu.level {
            Level::Sm75 => None,
            Level::Sm80 => Some(Gemm { small: tile(TILE, "gemm")?, large: None }),
            Level::Sm90a => {
                Some(Gemm { small: tile(TILE, "gemm128")?, large: Some(tile(2 * TILE, "gemm256")?) })
            }
        })
    }

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
        let grid = Grid {
            shared: tile.function.shared,
            ..Grid::new(n.div_ceil(tile.rows), rows.div_ceil(TILE), THREADS)
        };
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
        let grid =
            Grid { shared: self.small.function.shared, ..Grid::new(tiles, rows.div_ceil(TILE), THREADS) };
        // SAFETY: by this function's contract.
        unsafe { cuda.launch(step, &self.small.function, grid, arguments) }
    }
}
