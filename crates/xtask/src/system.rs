//! What the tests and the demo need of the machine, and how a Debian machine gets it.

use std::path::Path;
use std::process::Command;

use crate::shell::{output, run, succeeds};

/// A Vulkan loader and at least one driver, so that the shaders' tests have something to run on.
pub fn vulkan() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        println!("graphics: this system's own (Metal or DX12)");
        return Ok(());
    }
    if let Some(driver) = vulkan_driver() {
        println!("Vulkan: driver {driver}");
        return Ok(());
    }
    println!("Vulkan: no loader or driver was found; installing the software driver");
    install(&["mesa-vulkan-drivers", "libvulkan1"])
}

const LIBRARIES: [&str; 6] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", "/lib"];

fn vulkan_driver() -> Option<String> {
    const DRIVERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];
    let loader = LIBRARIES.iter().any(|folder| Path::new(folder).join("libvulkan.so.1").exists());
    if !loader {
        return None;
    }
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        if let Ok(named) = std::env::var(variable) {
            return Some(named);
        }
    }
    DRIVERS
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .find(|name| name.ends_with(".json"))
}

/// An MPI library with its launcher and compiler wrapper, libclang for its bindings, and `ip`,
/// which makes two hosts of one for the tests. `false` where this system is not one that the MPI
/// tests are for.
pub fn mpi() -> Result<bool, String> {
    if !cfg!(target_os = "linux") {
        println!("MPI: its tests are for Linux, and left out");
        return Ok(false);
    }
    let runs = |program: &str| succeeds(Command::new(program).arg("--version"));
    let found = runs("mpirun") && runs("mpicc") && libclang();
    if found && succeeds(Command::new("ip").arg("-V")) {
        println!("MPI: mpirun, mpicc and libclang are there");
        return Ok(true);
    }
    println!("MPI: mpirun, mpicc, libclang or ip was not found; installing them");
    install(&["openmpi-bin", "libopenmpi-dev", "libclang-dev", "iproute2"])?;
    Ok(true)
}

fn libclang() -> bool {
    let named = |folder: &Path| {
        let entries = std::fs::read_dir(folder).ok();
        let names = entries.into_iter().flatten().flatten();
        names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with("libclang-cpp"))
            .any(|name| name.starts_with("libclang.so") || name.starts_with("libclang-"))
    };
    let versions = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    std::env::var_os("LIBCLANG_PATH").is_some()
        || LIBRARIES.iter().any(|folder| named(Path::new(folder)))
        || versions
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"))
            .any(|entry| named(&entry.path().join("lib")))
}

/// Python with pip, which fetches the model.
pub fn pip() -> Result<(), String> {
    let found = || succeeds(Command::new("python3").args(["-m", "pip", "--version"]));
    if found() {
        return Ok(());
    }
    println!("python3 with pip was not found; installing it");
    install(&["python3-pip"])?;
    if found() {
        Ok(())
    } else {
        Err("`python3 -m pip` still does not run; install Python 3 with pip and try again".to_owned())
    }
}

/// Node.js with npm, new enough for the page's build.
pub fn node() -> Result<(), String> {
    const OLDEST: (u32, u32) = (20, 19);
    if !succeeds(Command::new("npm").arg("--version")) {
        println!("Node.js with npm was not found; installing it");
        // Debian's own nodejs comes without npm, others' with it.
        install(&["nodejs"])?;
        if !succeeds(Command::new("npm").arg("--version")) {
            install(&["npm"])?;
        }
    }
    let version = output(Command::new("node").arg("--version"))?;
    let mut parts = version.trim().trim_start_matches('v').split('.');
    let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (part(), part()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(()),
        _ => Err(format!("the page needs Node.js {}.{} or newer, found {}", OLDEST.0, OLDEST.1, version.trim())),
    }
}

/// Chromium, which the page is tested in: the one that `BFT_CHROMIUM` names, or Debian's.
pub fn chromium() -> Result<(), String> {
    if std::env::var_os("BFT_CHROMIUM").is_some() || Path::new("/usr/bin/chromium").exists() {
        return Ok(());
    }
    println!("Chromium was not found; installing it");
    install(&["chromium"])
}

/// Installs Debian packages, as root or through sudo where that asks for no password.
pub fn install(packages: &[&str]) -> Result<(), String> {
    let advice = format!("install {} with your system's package manager", packages.join(" and "));
    if !succeeds(Command::new("apt-get").arg("--version")) {
        return Err(format!("this is not a Debian machine (no apt-get): {advice}"));
    }
    let root = succeeds(Command::new("sh").args(["-c", "test $(id -u) = 0"]));
    let as_root = || -> Result<Command, String> {
        if root {
            return Ok(Command::new("apt-get"));
        }
        if succeeds(Command::new("sudo").args(["-n", "true"])) {
            let mut command = Command::new("sudo");
            command.args(["-n", "apt-get"]);
            return Ok(command);
        }
        Err(format!("not root, and sudo would ask for a password: {advice}"))
    };
    run(as_root()?.args(["-q", "update"]))?;
    run(as_root()?
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "install", "-y", "--no-install-recommends"])
        .args(packages))
}
