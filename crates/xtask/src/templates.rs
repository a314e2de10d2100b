//! `cargo xtask templates`: public chat templates, rendered and masked by transformers and by bft.

use std::process::Command;

use crate::shell::{self, cargo, heading, root};
use crate::{system, web};

/// Collects the templates, has transformers render them, and compares, here and in WebAssembly.
pub fn run(rest: &[String]) -> Result<(), String> {
    shell::no_arguments(rest, "templates")?;
    let folder = root().join("target/templates");
    heading("transformers");
    system::pip()?;
    let python = folder.join("venv/bin/python");
    if !python.exists() {
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
    }
    let requirements = root().join("tests/fixtures/requirements-templates.txt");
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    shell::run(Command::new(&python).args(install).arg(requirements))?;
    heading("Templates");
    shell::run(Command::new(&python).arg(root().join("tests/fixtures/templates.py")).arg(&folder))?;
    heading("Here");
    let test = ["test", "--quiet", "--package", "bft-tests", "--test", "templates", "--", "--nocapture"];
    shell::run(cargo().args(test).env("BFT_TEST_TEMPLATES", &folder))?;
    system::node()?;
    web::ops()?;
    heading("In WebAssembly");
    let script = root().join("tests/browser/templates.mjs");
    shell::run(Command::new("node").arg(script).arg(folder.join("templates.json")))
}
