//! The most memory that this process has held.

/// Largest resident set so far in bytes, where the system tells.
#[cfg(target_os = "linux")]
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Largest resident set so far in bytes, where the system tells.
#[cfg(all(unix, not(target_os = "linux")))]
pub fn peak_bytes() -> Option<u64> {
    // SAFETY: rusage is plain numbers, for which all zeros is a value, and getrusage only writes into it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0 {
            return None;
        }
        usage
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss)
        .ok()
        .map(|count| count * unit)
}

/// Largest resident set so far in bytes, where the system tells.
#[cfg(not(unix))]
pub fn peak_bytes() -> Option<u64> {
    None
}
