//! The embedded PTX of `kernels/cuda`, which `kernels/cuda/build-ptx` makes.

/// What a GPU's PTX may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Compute capability 7.5.
    Plain,
    /// 8.0 and later: tensor cores that take bf16.
    TensorCores,
    /// 9.0 alone: products of four warps, and kernels that begin before the last one has ended.
    Hopper,
}

impl Level {
    pub fn of(capability: u32) -> Level {
        match capability {
            90 => Level::Hopper,
            80.. => Level::TensorCores,
            _ => Level::Plain,
        }
    }
}

/// A module's PTX for each level.
macro_rules! modules {
    ($($name:literal)*) => {
        /// Name, and PTX in the order of levels.
        static MODULES: &[(&str, [&str; 3])] = &[$((
            $name,
            [
                include_str!(concat!("../../../kernels/cuda/ptx/75/", $name, ".ptx")),
                include_str!(concat!("../../../kernels/cuda/ptx/80/", $name, ".ptx")),
                include_str!(concat!("../../../kernels/cuda/ptx/90a/", $name, ".ptx")),
            ],
        )),*];
    };
}

modules! {
    "rows" "attention" "floats" "peak"
    "layout_0" "layout_1" "layout_2" "layout_3" "layout_4" "layout_5" "layout_6" "layout_7" "layout_8" "layout_9"
    "layout_10" "layout_11" "layout_12" "layout_13" "layout_14" "layout_15" "layout_16" "layout_17" "layout_18" "layout_19"
}

/// The PTX of a module.
pub(crate) fn module(name: &str, level: Level) -> Option<&'static str> {
    MODULES.iter().find(|m| m.0 == name).map(|m| m.1[level as usize])
}

/// The module with the kernels of a packed layout.
pub(crate) fn layout_module(layout: usize) -> Option<&'static str> {
    MODULES.get(4 + layout).map(|m| m.0)
}

/// Bytes of each parameter of a kernel, from its declaration.
pub(crate) fn parameters(ptx: &str, name: &str) -> Option<Vec<usize>> {
    let declaration = ptx.split_once(&format!(".entry {name}("))?.1.split_once(')')?.0;
    let parameters = declaration.split(',').map(str::trim).filter(|p| p.starts_with(".param"));
    parameters
        .map(|p| match p.split_once('[') {
            Some((_, size)) => size.trim_end_matches(']').parse().ok(),
            None => p.split_whitespace().find_map(|word| match word {
                ".u64" | ".b64" | ".s64" | ".f64" => Some(8),
                ".u32" | ".b32" | ".s32" | ".f32" => Some(4),
                _ => None,
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_declaration() {
        let ptx = ".visible .entry a(\n.param .u64 .ptr .align 1 a_0,\n.param .f32 a_1\n)\n.visible .entry b(\n.param .align 8 .b8 b_0[64]\n)";
        assert_eq!(parameters(ptx, "a"), Some(vec![8, 4]));
        assert_eq!(parameters(ptx, "b"), Some(vec![64]));
        assert_eq!(parameters(ptx, "c"), None);
    }

    /// A driver of CUDA 12 takes the text, and every layout has its kernels.
    #[test]
    fn every_module_is_whole() {
        for (name, texts) in MODULES {
            for (ptx, target) in texts.iter().zip(["sm_75", "sm_80", "sm_90a"]) {
                assert!(ptx.starts_with(".version 8.0\n"), "{name}");
                assert!(ptx.contains(&format!(".target {target}")), "{name}");
            }
        }
        for format in kinfer_kernels::quant::Format::all() {
            let Some(layout) = kinfer_kernels::pack::Layout::of(format).and_then(|l| l.index()) else {
                continue;
            };
            let name = layout_module(layout).unwrap();
            for kernel in ["matvec1", "matvec8", "experts", "embed"] {
                let kernel = format!("{kernel}_{layout}");
                for level in [Level::Plain, Level::TensorCores, Level::Hopper] {
                    assert!(parameters(module(name, level).unwrap(), &kernel).is_some(), "{kernel}");
                }
            }
            assert!(parameters(module(name, Level::TensorCores).unwrap(), &format!("gemm_{layout}")).is_some());
        }
    }
}
