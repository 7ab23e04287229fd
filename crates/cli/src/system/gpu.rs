//! Graphics cards, found without loading any driver library.

use super::{read, run};
use kinfer::Device;
use std::fs;
use std::path::{Path, PathBuf};

/// What is known of graphics cards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    /// The cards, for people.
    pub found: Vec<String>,
    /// What was looked at, and why a card cannot be used.
    pub notes: Vec<String>,
}

/// Looks for graphics cards.
pub fn gpus() -> Gpus {
    let mut gpus = Gpus::default();
    if std::env::consts::OS == "macos" {
        let chip = super::cpu_name();
        if chip.starts_with("Apple") {
            gpus.found.push(format!("{chip} GPU (Metal)"));
        }
        note_unavailable(&mut gpus, Device::Metal);
        return gpus;
    }
    nvidia(&mut gpus);
    others(&mut gpus);
    if gpus.found.is_empty() {
        gpus.notes.push("no graphics card was found".into());
    }
    gpus
}

fn note_unavailable(gpus: &mut Gpus, device: Device) {
    if let Some(reason) = device.unavailable() {
        gpus.notes.push(reason.into());
    }
}

fn nvidia(gpus: &mut Gpus) {
    let driver = read("/proc/driver/nvidia/version");
    let library = cuda_library();
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let listed = run("nvidia-smi", &query).unwrap_or_default();
    gpus.found.extend(listed.lines().map(|line| format!("NVIDIA: {}", line.trim())));
    if gpus.found.is_empty() {
        gpus.found.extend(proc_cards(Path::new("/proc/driver/nvidia/gpus")));
    }
    match (driver.lines().next(), &library) {
        (None, None) => gpus.notes.push("NVIDIA: no driver (neither its kernel module nor libcuda)".into()),
        (None, Some(path)) if gpus.found.is_empty() => {
            let path = path.display();
            gpus.notes.push(format!(
                "NVIDIA: {path} is there, but no kernel module (in a container: start it with GPUs)"
            ));
        }
        (Some(_), None) => {
            gpus.notes.push(
                "NVIDIA: the kernel module is loaded, but libcuda is missing: install the driver's library"
                    .into(),
            );
        }
        (_, Some(path)) => gpus.notes.push(format!("NVIDIA: driver library {}", path.display())),
    }
    if !gpus.found.is_empty() {
        note_unavailable(gpus, Device::Cuda(0));
    }
}

/// Cards that the kernel module lists, one folder each.
fn proc_cards(folder: &Path) -> Vec<String> {
    let cards = fs::read_dir(folder).into_iter().flatten().flatten();
    cards
        .map(|card| {
            let text = read(card.path().join("information"));
            format!("NVIDIA: {}", super::field(&text, "Model").unwrap_or("unknown model"))
        })
        .collect()
}

/// The CUDA driver library in the places where systems install it.
fn cuda_library() -> Option<PathBuf> {
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    let own = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/nvidia/lib64",
        "/usr/lib/wsl/lib",
        "/run/opengl-driver/lib",
        "C:\\Windows\\System32",
    ];
    let folders = std::env::split_paths(&own).chain(usual.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.exists())
}

/// Cards of other makers, by the numbers that PCI gives.
fn others(gpus: &mut Gpus) {
    let mut seen = false;
    for card in fs::read_dir("/sys/class/drm").into_iter().flatten().flatten() {
        let name = card.file_name().to_string_lossy().into_owned();
        let is_card = name.strip_prefix("card").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        let maker = match read(card.path().join("device/vendor")).trim() {
            "0x1002" => "AMD",
            "0x8086" => "Intel",
            _ => continue,
        };
        if is_card {
            let id = read(card.path().join("device/device"));
            gpus.found.push(format!("{maker}: device {}", id.trim()));
            seen = true;
        }
    }
    if seen {
        gpus.notes.push("this version of kinfer does not run on AMD and Intel GPUs; use `cpu`".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernel_modules_folder() {
        let folder = tempfile::tempdir().unwrap();
        let card = folder.path().join("0000:01:00.0");
        fs::create_dir(&card).unwrap();
        fs::write(card.join("information"), "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n").unwrap();
        assert_eq!(proc_cards(folder.path()), ["NVIDIA: NVIDIA H100 80GB HBM3"]);
        assert!(proc_cards(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn says_something_wherever_it_runs() {
        let gpus = gpus();
        assert!(!gpus.notes.is_empty() || !gpus.found.is_empty());
    }
}
