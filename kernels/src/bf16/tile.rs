//! AMX: tile registers of 16 rows of 64 bytes, by inline assembly (the intrinsics are not stable in Rust).
//!
//! The compiler never touches tile registers, so they keep their contents from one of these to the next.

/// Shapes of the eight tile registers: all full.
#[repr(C, align(64))]
pub(super) struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    const FULL: TileConfig = {
        let mut c =
            TileConfig { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
        let mut t = 0;
        while t < 8 {
            (c.bytes_per_row[t], c.rows[t]) = (64, 16);
            t += 1;
        }
        c
    };

    /// Turns the tiles on, all zero. [`release`] must follow: tiles in use make context switches dearer.
    ///
    /// # Safety
    /// [`available`] returned true.
    #[inline(always)]
    pub(super) unsafe fn load() {
        // SAFETY: the configuration is valid and lies in static memory; by this function's contract the tiles may be used.
        unsafe {
            std::arch::asm!("ldtilecfg [{}]", in(reg) &const { TileConfig::FULL }, options(nostack, readonly, preserves_flags));
        }
    }
}

/// Turns the tiles off.
///
/// # Safety
/// [`available`] returned true.
#[inline(always)]
pub(super) unsafe fn release() {
    // SAFETY: by this function's contract.
    unsafe { std::arch::asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
}

/// Loads a tile register from 16 rows of 64 bytes, `$stride` bytes apart.
macro_rules! tile_load {
    ($t:literal, $p:expr, $stride:expr) => {
        std::arch::asm!(concat!("tileloadd tmm", $t, ", [{0}+{1}*1]"), in(reg) $p, in(reg) $stride,
            options(nostack, readonly, preserves_flags))
    };
}
/// Stores a tile register.
macro_rules! tile_store {
    ($t:literal, $p:expr, $stride:expr) => {
        std::arch::asm!(concat!("tilestored [{0}+{1}*1], tmm", $t), in(reg) $p, in(reg) $stride,
            options(nostack, preserves_flags))
    };
}
/// Zeroes a tile register.
macro_rules! tile_zero {
    ($t:literal) => {
        std::arch::asm!(concat!("tilezero tmm", $t), options(nostack, nomem, preserves_flags))
    };
}
/// `c[m][n] += sum over k of a[m][k] * b[k][n]`, bf16 factors, f32 sums: 16 x 16 outputs, 32 products each.
macro_rules! tile_dot_bf16 {
    ($c:literal, $a:literal, $b:literal) => {
        std::arch::asm!(
            concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b),
            options(nostack, nomem, preserves_flags)
        )
    };
}
pub(super) use {tile_dot_bf16, tile_load, tile_store, tile_zero};

/// Whether this process may use AMX with bf16: the CPU has it, the system saves its registers and grants them on request.
pub(crate) fn available() -> bool {
    static GRANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *GRANTED.get_or_init(detect)
}

#[cfg(target_os = "linux")]
fn detect() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    #[target_feature(enable = "xsave")]
    fn saved_states() -> u64 {
        // SAFETY: by the target feature; XCR0 exists wherever OSXSAVE is set, which the caller checked.
        unsafe { _xgetbv(0) }
    }
    const OSXSAVE: u32 = 1 << 27;
    // CPUID 7.0 EDX: AMX-BF16 is bit 22, AMX-TILE bit 24. XCR0: the tiles' configuration and data are bits 17 and 18.
    const TILES: u32 = 1 << 22 | 1 << 24;
    const STATES: u64 = 1 << 17 | 1 << 18;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    if !is_x86_feature_detected!("xsave") || __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // SAFETY: the CPU has XSAVE and the system uses it, both checked above.
    if __cpuid_count(7, 0).edx & TILES != TILES || unsafe { saved_states() } & STATES != STATES {
        return false;
    }
    let granted: i64;
    // SAFETY: the system call arch_prctl (158) with numbers for arguments; it grants this process the tile registers, or refuses.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") 158i64 => granted, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    granted == 0
}

#[cfg(not(target_os = "linux"))]
fn detect() -> bool {
    false
}
