//! How much memory this machine has, and how much of it this process holds or has held.

/// Memory that this process may use in bytes, where the system tells: the machine's, or less where
/// a container says so.
#[cfg(target_os = "linux")]
pub fn available_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let of_container = limits.iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).min();
    Some((kibibytes * 1024).min(of_container.unwrap_or(u64::MAX)))
}

/// Memory that this process may use in bytes, where the system tells.
#[cfg(target_os = "macos")]
pub fn available_bytes() -> Option<u64> {
    let mut bytes = 0u64;
    let mut size = size_of::<u64>();
    // SAFETY: the name ends in a zero, and the two pointers are to a u64 and its size, which is
    // what hw.memsize is.
    let failed = unsafe {
        libc::sysctlbyname(c"hw.memsize".as_ptr(), (&raw mut bytes).cast(), &raw mut size, std::ptr::null_mut(), 0)
    };
    (failed == 0).then_some(bytes)
}

/// Memory that this process may use in bytes, where the system tells.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn available_bytes() -> Option<u64> {
    None
}

/// Largest resident set so far in bytes, where the system tells.
#[cfg(target_os = "linux")]
pub fn peak_bytes() -> Option<u64> {
    status("VmHWM:")
}

/// Resident set in bytes, where the system tells.
#[cfg(target_os = "linux")]
pub fn resident_bytes() -> Option<u64> {
    status("VmRSS:")
}

/// Resident set in bytes: the largest so far, where the system tells no other.
#[cfg(not(target_os = "linux"))]
pub fn resident_bytes() -> Option<u64> {
    peak_bytes()
}

#[cfg(target_os = "linux")]
fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Gives memory that was freed back to the system. What reading a model or making an adapter leaves
/// between pieces that stay would otherwise count to the end of the run.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: it takes no pointer and may be called at any time, on any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives memory that was freed back to the system, where that takes asking.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

/// Largest resident set so far in bytes, where the system tells.
#[cfg(all(unix, not(target_os = "linux")))]
pub fn peak_bytes() -> Option<u64> {
    // SAFETY: rusage is plain numbers, for which all zeros is a value, and getrusage only writes
    // into it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0 {
            return None;
        }
        usage
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).ok().map(|count| count * unit)
}

/// Largest resident set so far in bytes, where the system tells.
#[cfg(not(unix))]
pub fn peak_bytes() -> Option<u64> {
    None
}
