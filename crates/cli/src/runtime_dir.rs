//! A private `XDG_RUNTIME_DIR` where the user has none: Mesa's Vulkan drivers print a warning
//! without one.

/// Sets the variable, if it is unset, to a folder that only this user can enter. To be called
/// before any thread starts.
#[cfg(target_os = "linux")]
pub fn provide() {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};

    if std::env::var_os("XDG_RUNTIME_DIR").is_some() {
        return;
    }
    // SAFETY: getuid has no preconditions and cannot fail.
    let user = unsafe { libc::getuid() };
    // One folder for all runs of a user: a run that is killed leaves nothing new behind.
    let folder = std::env::temp_dir().join(format!("bft-runtime-{user}"));
    let _ = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    let private =
        std::fs::symlink_metadata(&folder).is_ok_and(|it| it.is_dir() && it.uid() == user && it.mode() & 0o077 == 0);
    if private {
        // SAFETY: main calls this first, before any other thread that could read the environment
        // exists.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", folder) };
    }
}

/// Nothing to do: only Mesa's drivers ask for it.
#[cfg(not(target_os = "linux"))]
pub fn provide() {}
