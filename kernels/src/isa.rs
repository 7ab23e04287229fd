//! Instruction sets: what this machine has, and which one is used.

use std::fmt;

/// An instruction-set level that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the definition that the others equal bit for bit.
    Scalar,
    /// AVX2 with FMA and F16C (Intel Haswell 2013, AMD Zen).
    Avx2,
    /// The same, with AVX-VNNI (Intel Alder Lake 2021, AMD Zen 5).
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI (Intel Ice Lake 2019, AMD Zen 4).
    Avx512Vnni,
    /// The same, with dot products of bf16 for prompts of 16-bit float weights (AMD Zen 4 2022, Intel Cooper Lake 2020).
    Avx512Bf16,
    /// The same, with AMX tiles in bf16 for prompts (Intel Sapphire Rapids 2023).
    Amx,
    /// NEON (ARMv8.0: every 64-bit ARM).
    Neon,
    /// NEON with `sdot` (ARMv8.2 of 2018 and later: Cortex-A76, Neoverse N1, Apple M1).
    Dotprod,
    /// The same, with `usdot` (ARMv8.6 of 2021 and later: Neoverse V1 and N2, Cortex-A710, Apple M2).
    I8mm,
}

impl Isa {
    /// All levels, those of each architecture lowest first.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512Vnni,
        Isa::Avx512Bf16,
        Isa::Amx,
        Isa::Neon,
        Isa::Dotprod,
        Isa::I8mm,
    ];

    /// The name that `KINFER_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
        }
    }

    /// Whether this machine can run it.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                Isa::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512Vnni.available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Bf16.available() && crate::bf16::available(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => Isa::Neon.available() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm => Isa::Dotprod.available() && std::arch::is_aarch64_feature_detected!("i8mm"),
            // The other architectures' levels.
            _ => false,
        }
    }

    /// The highest level that this machine has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|i| i.available()).unwrap_or(Isa::Scalar)
    }

    /// Parses a name.
    ///
    /// # Errors
    /// A message that lists the names when it is unknown, or the machine's levels when it lacks this one.
    pub fn parse(name: &str) -> Result<Isa, String> {
        let names = |it: &mut dyn Iterator<Item = Isa>| it.map(Isa::name).collect::<Vec<_>>().join(", ");
        let isa = Isa::ALL
            .into_iter()
            .find(|i| i.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("unknown ISA `{name}`; known: {}", names(&mut Isa::ALL.into_iter())))?;
        if !isa.available() {
            let have = names(&mut Isa::ALL.into_iter().filter(|i| i.available()));
            return Err(format!("this machine has no {isa}; it has: {have}"));
        }
        Ok(isa)
    }

    /// The level that `KINFER_ISA` asks for, else the best one. The only place that reads the environment.
    ///
    /// # Errors
    /// As [`Isa::parse`].
    pub fn from_env() -> Result<Isa, String> {
        match std::env::var("KINFER_ISA") {
            Ok(name) if !name.is_empty() => Isa::parse(&name).map_err(|e| format!("KINFER_ISA: {e}")),
            _ => Ok(Isa::best()),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names_and_the_best_one_is_available() {
        let levels: Vec<_> = Isa::ALL.into_iter().filter(|i| i.available()).collect();
        println!("levels: {}", levels.iter().map(|i| i.name()).collect::<Vec<_>>().join(", "));
        assert_eq!(levels.first(), Some(&Isa::Scalar));
        assert_eq!(levels.last(), Some(&Isa::best()));
        // Every machine of these architectures that tests run on has vectors.
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert_ne!(Isa::best(), Isa::Scalar);
        }
        for isa in Isa::ALL {
            assert_eq!(Isa::parse(&isa.name().to_uppercase()).ok(), isa.available().then_some(isa), "{isa}");
        }
        assert!(Isa::parse("abacus").unwrap_err().contains("dotprod"));
    }
}
