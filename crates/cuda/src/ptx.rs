//! The embedded PTX of `kernels/cuda`, which `kernels/cuda/build-ptx` makes and `build.rs` compresses: a fifth of the text.

use std::io::Read;

/// Which of the kernels' PTX a GPU runs: that of its own compute capability or of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Compute capability 7.5 and later: every row is computed in 8-bit integers.
    Sm75,
    /// 8.0 and later: prompts on tensor cores, in bf16.
    Sm80,
    /// 9.0 alone: products of four warps, and kernels that begin before the last one has ended.
    Sm90a,
}

impl Level {
    /// All levels.
    pub const ALL: [Level; 3] = [Level::Sm75, Level::Sm80, Level::Sm90a];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Sm75 => "sm75",
            Level::Sm80 => "sm80",
            Level::Sm90a => "sm90a",
        }
    }

    /// The level of this name.
    ///
    /// # Errors
    /// A message with the names that there are.
    pub fn parse(name: &str) -> Result<Level, String> {
        let names = || Level::ALL.map(Level::name).join(", ");
        let found = Level::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("unknown instruction set `{name}` of a GPU; known: {}", names()))
    }

    /// The level that `KINFER_GPU_ISA` asks for, if it does. The only place that reads it.
    ///
    /// # Errors
    /// As [`Level::parse`].
    pub fn from_env() -> Result<Option<Level>, String> {
        match std::env::var("KINFER_GPU_ISA") {
            Ok(name) if !name.is_empty() => {
                Level::parse(&name).map(Some).map_err(|e| format!("KINFER_GPU_ISA: {e}"))
            }
            _ => Ok(None),
        }
    }

    /// Whether a GPU of compute capability `capability` runs it.
    pub(crate) fn runs_on(self, capability: u32) -> bool {
        match self {
            Level::Sm75 => capability >= 75,
            Level::Sm80 => capability >= 80,
            Level::Sm90a => capability == 90,
        }
    }

    /// The best level that has run on a GPU: [`Level::Sm90a`] has not yet, and has to be asked for.
    pub(crate) fn best(capability: u32) -> Level {
        if Level::Sm80.runs_on(capability) { Level::Sm80 } else { Level::Sm75 }
    }
}

/// A module's PTX for each level, as deflate streams.
macro_rules! modules {
    ($($name:literal)*) => {
        /// Name, and PTX in the order of levels.
        static MODULES: &[(&str, [&[u8]; 3])] = &[$((
            $name,
            [
                include_bytes!(concat!(env!("OUT_DIR"), "/75/", $name, ".ptx")),
                include_bytes!(concat!(env!("OUT_DIR"), "/80/", $name, ".ptx")),
                include_bytes!(concat!(env!("OUT_DIR"), "/90a/", $name, ".ptx")),
            ],
        )),*];
    };
}

modules! {
    "rows" "draw" "attention" "delta" "floats" "peak"
    "layout_0" "layout_1" "layout_2" "layout_3" "layout_4" "layout_5" "layout_6" "layout_7" "layout_8" "layout_9"
    "layout_10" "layout_11" "layout_12" "layout_13" "layout_14" "layout_15" "layout_16" "layout_17" "layout_18" "layout_19"
    "layout_20"
}

/// The PTX of a module, decompressed: little more than a millisecond a megabyte.
pub(crate) fn module(name: &str, level: Level) -> Option<String> {
    let embedded = MODULES.iter().find(|m| m.0 == name)?.1[level as usize];
    let mut text = String::new();
    flate2::read::DeflateDecoder::new(embedded).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The module with the kernels of a packed layout.
pub(crate) fn layout_module(layout: usize) -> Option<&'static str> {
    let first = MODULES.iter().position(|m| m.0 == "layout_0")?;
    MODULES.get(first + layout).map(|m| m.0)
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

/// Whether a kernel waits for the one ahead of it, so that it may begin before that has ended.
pub(crate) fn waits(ptx: &str, name: &str) -> bool {
    let kernel = ptx.split_once(&format!(".entry {name}(")).map_or("", |(_, rest)| rest);
    kernel.split(".entry ").next().is_some_and(|text| text.contains("griddepcontrol.wait"))
}

/// The most dynamic shared memory that a kernel uses, bytes: its constant of `SHARED_BYTES`; 0 if it has none.
pub(crate) fn shared(ptx: &str, name: &str) -> u32 {
    let constant =
        ptx.split_once(&format!(".u32 shared_{name} = ")).and_then(|(_, rest)| rest.split_once(';'));
    constant.and_then(|(bytes, _)| bytes.parse().ok()).unwrap_or(0)
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

    #[test]
    fn shared_memory_of_a_constant() {
        let ptx = ".global .align 4 .u32 shared_a_10 = 77;\n.global .align 4 .u32 shared_a_1 = 44032;";
        assert_eq!([shared(ptx, "a_1"), shared(ptx, "a_10"), shared(ptx, "a")], [44032, 77, 0]);
    }

    /// Those with dynamic shared memory say how much, and no more than the GPUs have that run them; prompt attention's is in `stages`.
    #[test]
    fn kernels_say_what_they_share() {
        for (name, _) in MODULES.iter().filter(|m| m.0 != "attention") {
            for (level, most) in [(Level::Sm75, 64), (Level::Sm80, 99), (Level::Sm90a, 227)] {
                let ptx = module(name, level).unwrap();
                let arrays: Vec<String> = ptx
                    .lines()
                    .filter_map(|line| line.strip_prefix(".extern .shared")?.split_once("[]"))
                    .map(|(array, _)| format!(", {};", array.split_whitespace().last().unwrap()))
                    .collect();
                for kernel in ptx.split(".entry ").skip(1) {
                    let (kernel, body) = kernel.split_once('(').unwrap();
                    let bytes = shared(&ptx, kernel);
                    assert_eq!(bytes > 0, arrays.iter().any(|array| body.contains(array)), "{kernel}");
                    assert!(bytes <= most << 10, "{kernel}: {bytes}");
                }
            }
        }
    }

    /// All but those that measure a GPU wait, where it can overlap them.
    #[test]
    fn kernels_wait_for_the_one_ahead() {
        for (name, _) in MODULES.iter().filter(|m| m.0 != "peak") {
            let ptx = module(name, Level::Sm90a).unwrap();
            let names = ptx.split(".entry ").skip(1).filter_map(|rest| rest.split_once('('));
            let without: Vec<&str> = names.map(|(name, _)| name).filter(|name| !waits(&ptx, name)).collect();
            assert!(without.is_empty(), "{name}: {without:?}");
            assert!(!module(name, Level::Sm80).unwrap().contains("griddepcontrol"));
        }
        let two = ".entry a(\n)\n{\nret;\n}\n.entry b(\n)\n{\ngriddepcontrol.wait;\n}";
        assert!(!waits(two, "a") && waits(two, "b") && !waits(two, "c"));
    }

    /// A driver of CUDA 12 takes the text, and every layout has its kernels.
    #[test]
    fn every_module_is_whole() {
        for (name, _) in MODULES {
            for (level, folder, target) in
                [(Level::Sm75, "75", "sm_75"), (Level::Sm80, "80", "sm_80"), (Level::Sm90a, "90a", "sm_90a")]
            {
                let ptx = module(name, level).unwrap();
                assert!(ptx.starts_with(".version 8.0\n"), "{name}");
                assert!(ptx.contains(&format!(".target {target}")), "{name}");
                let committed =
                    format!("{}/../../kernels/cuda/ptx/{folder}/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
                assert!(
                    ptx == std::fs::read_to_string(committed).unwrap(),
                    "{name} for {target} is not what is committed"
                );
            }
        }
        for format in kinfer_kernels::quant::Format::all() {
            let Some(layout) = kinfer_kernels::pack::Layout::of(format).and_then(|l| l.index()) else {
                continue;
            };
            let name = layout_module(layout).unwrap();
            let plain = ["direct1", "direct8", "direct_experts", "embed"];
            let staged = ["matvec1", "batch8", "batch16", "batch32", "experts", "embed"];
            for (level, kernels, gemm) in [
                (Level::Sm75, &plain[..], &[][..]),
                (Level::Sm80, &staged, &["gemm"]),
                (Level::Sm90a, &staged, &["gemm128", "gemm256"]),
            ] {
                for kernel in kernels.iter().chain(gemm) {
                    let kernel = format!("{kernel}_{layout}");
                    assert!(parameters(&module(name, level).unwrap(), &kernel).is_some(), "{kernel}");
                }
            }
        }
    }
}
