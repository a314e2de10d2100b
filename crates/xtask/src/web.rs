//! `cargo xtask web`: the page with its engine, served on this machine or left as files for any
//! host.

use std::fs;
use std::path::Path;
use std::process::Command;

use bft_fetch::sources::Dataset;

use crate::shell::{self, cargo, heading, root, succeeds};
use crate::{model, page, system};

const TARGET: &str = "wasm32-unknown-unknown";
/// SIMD, and where a dependency's hash maps get their seeds.
const FLAGS: &str = "--cfg getrandom_backend=\"wasm_js\" -C target-feature=+simd128";
const PORT: &str = "4178";

/// The arguments that build the page, and what its tests need beside it.
pub const BUILD_TESTS: [&str; 2] = ["web", "--build-tests"];

/// Builds; then serves, unless `--build` asks for the files alone, `--build-tests` for those of the
/// browser's tests too, or `--test` for these tests.
pub fn run(rest: &[String]) -> Result<(), String> {
    let serve = match rest {
        [] => true,
        [flag] if flag == "--build" => false,
        [flag] if flag == BUILD_TESTS[1] => {
            build()?;
            return ops();
        }
        [flag] if flag == "--test" => {
            shell::run(cargo().args(["build", "--quiet", "--package", "bft-cli"]))?;
            build()?;
            ops()?;
            return page::drive();
        }
        [found, ..] => {
            return Err(format!(
                "`cargo xtask web` takes no arguments but --build, --build-tests or --test, found `{found}`"
            ));
        }
    };
    build()?;
    let dist = root().join("web/dist");
    if !serve {
        println!("\n{} is ready for any static host", dist.display());
        return Ok(());
    }
    heading(&format!("Serving http://localhost:{PORT}/ (Ctrl-C ends it)"));
    page::serve(PORT)
}

/// Leaves the page in `web/dist/`.
pub fn build() -> Result<(), String> {
    heading("What the page needs");
    let toolchain = Toolchain::find()?;
    let model = model::get(Dataset::SmolLm2)?;
    heading("Engine");
    module(&toolchain, "bft-web", "web/src/engine", "bft")?;
    heading("Page");
    page::build()?;
    let folder = root().join("web/dist/models");
    let copy = folder.join(model.file_name().unwrap_or_default());
    fs::create_dir_all(&folder)
        .and_then(|()| fs::copy(&model, &copy).map(|_| ()))
        .map_err(|error| format!("{}: {error}", copy.display()))
}

/// The op registry's tests as a module for the browser, beside the page and not part of it.
pub fn ops() -> Result<(), String> {
    heading("Ops for the browser");
    module(&Toolchain::find()?, "bft-browser-tests", "web/.ops", "ops")
}

/// Builds a package for the browser, with its bindings as NAME.js in a folder.
///
/// wasm-opt is not run: the compiler has done its work, and what it adds makes the download larger.
fn module(toolchain: &Toolchain, package: &str, folder: &str, name: &str) -> Result<(), String> {
    let build = ["--package", package, "--profile", "web"];
    shell::run(toolchain.cargo().args(build))?;
    let built = root().join("target").join(TARGET).join("web").join(format!("{}.wasm", package.replace('-', "_")));
    shell::run(
        cargo().args(["run", "--quiet", "--package", "bft-bindgen", "--"]).args([built, root().join(folder)]).arg(name),
    )
}

/// A compiler that knows WebAssembly.
enum Toolchain {
    /// This one, through rustup.
    Rustup,
    /// Debian's, which has the standard library as source.
    Debian,
}

impl Toolchain {
    fn find() -> Result<Self, String> {
        let installed = || {
            shell::output(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))
                .is_ok_and(|folder| Path::new(folder.trim()).exists())
        };
        if installed() {
            println!("WebAssembly: {TARGET} of this toolchain");
            return Ok(Self::Rustup);
        }
        let add = ["target", "add", TARGET];
        if !debian_is_there() && succeeds(Command::new("rustup").args(add)) && installed() {
            println!("WebAssembly: {TARGET}, added to this toolchain");
            return Ok(Self::Rustup);
        }
        if !debian_is_there() {
            system::install(&["rustc-web", "cargo-web", "rust-web-src", "lld"])
                .map_err(|problem| format!("{problem}; or run `rustup target add {TARGET}`"))?;
        }
        println!("WebAssembly: Debian's compiler");
        Ok(Self::Debian)
    }

    fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Rustup => {
                let mut command = cargo();
                command.arg("build");
                command
            }
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                command
                    .current_dir(root())
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env_remove("CARGO")
                    .env("RUSTC", "/usr/bin/rustc")
                    // The library is built from source, which stable compilers do only for those
                    // who insist.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "/usr/bin/wasm-ld")
                    .args(["build", "-Zbuild-std=std,panic_abort"]);
                command
            }
        };
        command.env("RUSTFLAGS", FLAGS).args(["--target", TARGET]);
        command
    }
}

fn debian_is_there() -> bool {
    ["/usr/bin/cargo", "/usr/bin/rustc", "/usr/bin/wasm-ld"].iter().all(|program| Path::new(program).exists())
        && Path::new("/usr/lib/rustlib/src/rust/library").exists()
}
