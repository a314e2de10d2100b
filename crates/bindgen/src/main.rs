//! `bft-bindgen MODULE FOLDER NAME`: writes NAME_bg.wasm, NAME.js and NAME.d.ts into a folder.
//!
//! Its own program, so that other tasks need not wait for its dependencies; pinned to the version
//! of `wasm-bindgen` in the lock file, since the two must be the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, folder, name] = &arguments[..] else {
        eprintln!("usage: bft-bindgen MODULE FOLDER NAME");
        return ExitCode::from(2);
    };
    let made = wasm_bindgen_cli_support::Bindgen::new()
        .input_path(module)
        .out_name(name)
        .typescript(true)
        .web(true)
        .and_then(|bindgen| bindgen.generate(folder));
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{module}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
