//! The compute shaders of bft as text, one WGSL file per operation.
//!
//! A line `//!include shared/NAME.wgsl` is replaced by that fragment. `{KEY}` in an include line is
//! replaced first, from the variant's definitions: `//!include shared/weight_{WEIGHT}.wgsl` with
//! `("WEIGHT", "q4_1")` pulls in the loader of that weight format. Elsewhere `{{KEY}}` is replaced
//! by its value.

/// Every file of this crate: path below `shaders/` and text.
pub const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// Text of one file, or `None` where no such file is listed in [`FILES`].
#[must_use]
pub fn file(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

/// A shader or fragment that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFile(pub String);

impl std::fmt::Display for MissingFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shader file {} does not exist", self.0)
    }
}

impl std::error::Error for MissingFile {}

/// WGSL of shader `name` (without `.wgsl`), includes expanded, of fragments too, and definitions
/// substituted.
///
/// # Errors
/// Where the shader or one of its includes does not exist.
pub fn source(name: &str, defines: &[(&str, &str)]) -> Result<String, MissingFile> {
    let mut out = String::new();
    expand(&format!("{name}.wgsl"), defines, &mut out)?;
    for (key, value) in defines {
        out = out.replace(&format!("{{{{{key}}}}}"), value);
    }
    Ok(out)
}

fn expand(path: &str, defines: &[(&str, &str)], out: &mut String) -> Result<(), MissingFile> {
    for line in file(path).ok_or_else(|| MissingFile(path.to_owned()))?.lines() {
        if let Some(include) = line.trim().strip_prefix("//!include ") {
            let mut path = include.trim().to_owned();
            for (key, value) in defines {
                path = path.replace(&format!("{{{key}}}"), value);
            }
            expand(&path, defines, out)?;
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    Ok(())
}
