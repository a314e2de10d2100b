//! Lists every shader beside this script, so that a new file is part of the crate as soon as it is
//! there.

use std::fmt::Write;
use std::path::Path;

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let mut names = Vec::new();
    for folder in ["", "shared/"] {
        println!("cargo::rerun-if-changed={folder}.");
        let entries = std::fs::read_dir(Path::new(&root).join(folder)).expect("the crate's folder can be read");
        let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.extend(files.filter(|name| name.ends_with(".wgsl")).map(|name| format!("{folder}{name}")));
    }
    names.sort();
    let mut list = String::from("&[\n");
    for name in names {
        let path = Path::new(&root).join(&name);
        writeln!(list, "    ({name:?}, include_str!({path:?})),").expect("a string takes all text");
    }
    list.push(']');
    let out = std::env::var("OUT_DIR").expect("cargo says where output goes");
    std::fs::write(Path::new(&out).join("files.rs"), list).expect("the output folder can be written");
}
